"""Early stopping ends a run whose score no longer improves, and gives the same result after an interruption."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

import hf_soup
from hf_soup import plugins, testing
from hf_soup.data.splits import TrainingData
from hf_soup.errors import RecipeError
from hf_soup.options import SweepOptions
from hf_soup.training import run as module
from hf_soup.training.planning import plan_sweep


DATA = testing.tiny_texts(48), testing.tiny_texts(24, seed=1)
STILL = {"learning_rate": 0.0, "batch_size": 16, "epochs": 8}  # 3 steps per epoch, and no score ever improves
LEARNS = {"learning_rate": 1e-3, "batch_size": 16, "epochs": 8}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny text classifier."""
    return testing.save_text_model(testing.tiny_text_model(5), tmp_path_factory.mktemp("base") / "base")


def sweep(base, folder, space=({},), shared=STILL, **options):
    """A small sweep whose runs take eight epochs of three steps unless they stop early."""
    given = {"validation": DATA[1], "on_error": "raise", **options}
    return hf_soup.sweep(base, DATA[0], space=space, training_args=shared, output_dir=folder, **given)


@pytest.mark.parametrize(("keep", "steps"), [("best", [3]), ("last", [9]), ("all", [3, 6, 9])])
def test_a_run_stops_when_its_score_no_longer_improves(base, tmp_path, keep, steps):
    """With patience 2 a run ends after the third evaluation, is complete and is not trained again."""
    runs = sweep(base, tmp_path, shared={**STILL, "early_stopping_patience": 2}, keep=keep)
    assert [run.state["step"] for run in runs] == steps
    record = json.loads((tmp_path / "run-0" / "run.json").read_text())
    assert (record["steps"], record["epochs"]) == (9, 3)
    assert record["score"]["value"] == record["metrics"]["eval_accuracy"]
    before = (tmp_path / "run-0" / "run.json").stat().st_mtime_ns
    sweep(base, tmp_path, shared={**STILL, "early_stopping_patience": 2}, keep=keep)
    assert (tmp_path / "run-0" / "run.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("name", plugins.names("task"))
def test_every_task_stops(tmp_path, name):
    """Early stopping works for every task."""
    task = plugins.load_module("task", name)
    base = testing.save_model_for(task, tmp_path / "base")
    data = testing.example_of(task)
    shared = {**STILL, "early_stopping_patience": 1, "optimizer": "sgd"}
    given = {"training_args": shared, "validation": data, "task": name, "on_error": "raise"}
    (run,) = hf_soup.sweep(base, data, space=[{}], output_dir=tmp_path / "runs", **given)
    assert run.state["epochs"] == 2


def test_patience_and_threshold_may_vary(base, tmp_path):
    """Patience and threshold may vary within a space, and `None` disables early stopping."""
    space = [
        {"early_stopping_patience": 1, "early_stopping_threshold": 100.0},
        {"early_stopping_patience": 2, "early_stopping_threshold": 100.0},
        {"early_stopping_patience": 1, "early_stopping_threshold": 0},
        {"early_stopping_patience": None},
    ]
    runs = sweep(base, tmp_path, space, {**LEARNS, "learning_rate": 1e-4, "epochs": 4}, metric="loss")
    assert [run.state["steps"] for run in runs] == [6, 9, 12, 12]


def test_evaluations_in_steps_count_as_well(base, tmp_path):
    """Patience counts evaluations, also those made every few steps."""
    (run,) = sweep(base, tmp_path, shared={**STILL, "eval_steps": 2, "early_stopping_patience": 3})
    assert run.state["steps"] == 8


class Interrupt(transformers.TrainerCallback):
    """Simulates an interruption at one step."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        """Raise KeyboardInterrupt at the step."""
        if state.global_step == self.step:
            raise KeyboardInterrupt


def test_an_interruption_does_not_start_the_patience_anew(base, tmp_path):
    """After an interruption the evaluations already waited for still count."""
    shared = {**STILL, "early_stopping_patience": 2}
    with pytest.raises(KeyboardInterrupt):
        sweep(base, tmp_path, shared=shared, callbacks=[Interrupt(7)])
    (run,) = sweep(base, tmp_path, shared=shared)
    assert run.state["resumed_from"] == 6
    assert run.state["steps"] == 9


def test_an_interruption_after_the_end_adds_no_step(base, tmp_path, monkeypatch):
    """A run that is interrupted after it has stopped, but before it is complete, takes no further steps."""
    shared = {**STILL, "early_stopping_patience": 2}
    write = module.write_json

    def interrupted(path, data):
        if path.name == "run.json":
            raise KeyboardInterrupt
        write(path, data)

    monkeypatch.setattr(module, "write_json", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep(base, tmp_path, shared=shared, keep="last")
    monkeypatch.undo()
    (run,) = sweep(base, tmp_path, shared=shared, keep="last")
    assert run.state["resumed_from"] == run.state["steps"] == 9


@pytest.mark.parametrize("keep", ["best", "all"])
def test_an_interrupted_run_has_the_same_bits(base, tmp_path, keep):
    """An interrupted run gives the same steps, scores and weights as an uninterrupted one."""
    shared = {**LEARNS, "eval_on_start": True, "early_stopping_patience": 2, "augment": {"mask": 0.2}}
    whole = sweep(base, tmp_path / "whole", shared=shared, keep=keep)
    last = whole[-1].state["steps"]
    assert last < 24
    with pytest.raises(KeyboardInterrupt):
        sweep(base, tmp_path / "cut", shared=shared, keep=keep, callbacks=[Interrupt(last - 1)])
    again = sweep(base, tmp_path / "cut", shared=shared, keep=keep)
    assert again[-1].state["resumed_from"] == last - 3
    assert [(run.name, run.score) for run in again] == [(run.name, run.score) for run in whole]
    for one, two in zip(whole, again, strict=True):
        one, two = (load_file(run.folder / "model.safetensors") for run in (one, two))
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_probe_stops_as_well(base, tmp_path):
    """Early stopping in shared settings applies to the probe as well, unless `probe_args` overrides it."""
    seen = []
    from hf_soup.training import probe

    fit = probe.fit

    def look(*args, **kwargs):
        trainer = fit(*args, **kwargs)
        seen.append(trainer.state.epoch)
        return trainer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "fit", look)
        shared = {**STILL, "early_stopping_patience": 1}
        for folder, more in (("stops", {}), ("goes on", {"early_stopping_patience": None})):
            options = {"head": "probe", "probe_args": {"learning_rate": 0.0, **more}}
            sweep(base, tmp_path / folder, shared=shared, **options)
    assert seen == [2, 5]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"early_stopping_patience": 0}, '"early_stopping_patience" is a whole number from 1, not 0'),
        ({"early_stopping_patience": 1.5}, "a whole number from 1, not 1.5"),
        ({"early_stopping_patience": True}, "a whole number from 1, not True"),
        ({"early_stopping_patience": "2"}, "a whole number from 1, not '2'"),
        ({"early_stopping_patience": 1, "early_stopping_threshold": -0.1}, "a number from 0, not -0.1"),
        ({"early_stopping_patience": 1, "early_stopping_threshold": float("nan")}, "a number from 0, not nan"),
        ({"early_stopping_threshold": 0.1}, 'can only be used with "early_stopping_patience"'),
        ({"early_stopping_patience": 1, "eval_strategy": "no"}, "needs evaluations: leave eval_strategy out"),
        ({"early_stopping": 2}, 'no field "early_stopping"; did you mean "early_stopping_patience"'),
        ({"patience": 2}, 'no field "patience"; did you mean "early_stopping_patience"'),
        ({"lr": 1e-3}, 'no field "lr"; did you mean "learning_rate"'),
        ({"warmup_ratio": 0.1}, 'no field "warmup_ratio"; did you mean "warmup"'),
    ],
)
@pytest.mark.parametrize("keep", ["best", "last"])
def test_bad_settings(base, tmp_path, setting, message, keep):
    """Invalid settings raise a short RecipeError before anything is written."""
    with pytest.raises(RecipeError, match=message) as caught:
        sweep(base, tmp_path / "runs", [setting], keep=keep)
    assert len(str(caught.value)) < 250
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"training_args": {"early_stopping_patience": 1}},
        {"callbacks": [transformers.EarlyStoppingCallback(1)]},
    ],
    ids=["setting", "callback"],
)
def test_without_validation_there_is_nothing_to_go_by(base, tmp_path, options):
    """Early stopping without validation data raises a RecipeError."""
    with pytest.raises(RecipeError, match="early stopping needs validation data"):
        plan_sweep(
            base,
            TrainingData(DATA[0], None),
            SweepOptions(space=[{}], keep="last", training_args=options.get("training_args")),
            output_dir=tmp_path / "runs",
            callbacks=options.get("callbacks"),
        )


@pytest.mark.parametrize("keep", ["best", "last"])
def test_the_callback_itself_works_too(base, tmp_path, keep):
    """transformers' EarlyStoppingCallback works like the setting, and using both raises a RecipeError."""
    callback = transformers.EarlyStoppingCallback(2)
    with pytest.raises(KeyboardInterrupt):
        sweep(base, tmp_path, keep=keep, callbacks=[callback, Interrupt(7)])
    (run,) = sweep(base, tmp_path, keep=keep, callbacks=[callback])
    assert (run.state["resumed_from"], run.state["steps"]) == (6, 9)
    assert callback.early_stopping_patience_counter == 0
    with pytest.raises(RecipeError, match=r"either .* or an EarlyStoppingCallback"):
        sweep(base, tmp_path / "both", [{"early_stopping_patience": 1}], callbacks=[callback])


def test_a_cook_file_stops_early(base, tmp_path):
    """A cook file accepts the setting in `training_args` and in `space`."""
    import yaml

    for split, rows in zip(("train", "validation"), DATA, strict=True):
        rows.to_csv(tmp_path / f"{split}.csv")
    sweep_stage = {"space": {"early_stopping_patience": [1, 2]}, "training_args": STILL}
    file = {"base_model": str(base), "data": {"path": str(tmp_path)}, "output_dir": str(tmp_path / "out")}
    Path(tmp_path / "cook.yaml").write_text(yaml.safe_dump({**file, "sweep": sweep_stage}))
    cooked = hf_soup.cook(tmp_path / "cook.yaml")
    assert [run.state["steps"] for run in cooked.sweep] == [6, 9]
