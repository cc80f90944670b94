"""User callbacks: each run gets a fresh copy, in this process and in others."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers.trainer_callback import ExportableState

import hf_soup
from hf_soup import testing
from hf_soup.errors import RecipeError


DATA = testing.tiny_texts(48), testing.tiny_texts(24, seed=1)
SHARED = {"epochs": 2, "batch_size": 16}


class Diary(transformers.TrainerCallback):
    """Writes the number of runs that this copy has seen to the folder of the run."""

    def __init__(self):
        self.runs = 0

    def on_train_begin(self, args, state, control, **kwargs):
        """Count the run and write the number."""
        self.runs += 1
        Path(args.output_dir).mkdir(exist_ok=True)
        (Path(args.output_dir) / "diary.txt").write_text(str(self.runs))


class StopAt(transformers.TrainerCallback):
    """Ends training after the given step."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        """Stop at the step."""
        control.should_training_stop = state.global_step >= self.step


class Counter(transformers.TrainerCallback, ExportableState):
    """Counts steps and saves the count in checkpoints."""

    def __init__(self, limit=100):
        self.limit, self.steps = limit, 0

    def on_step_end(self, args, state, control, **kwargs):
        """Count the step, and interrupt training at the limit."""
        self.steps += 1
        if state.global_step >= self.limit:
            raise KeyboardInterrupt

    def on_train_end(self, args, state, control, **kwargs):
        """Write the count."""
        (Path(args.output_dir) / "count.txt").write_text(str(self.steps))

    def state(self):
        """Return the state in the form that transformers saves."""
        return {"args": {"limit": 100}, "attributes": {"steps": self.steps}}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny text classifier."""
    return testing.save_text_model(testing.tiny_text_model(5), tmp_path_factory.mktemp("base") / "base")


def sweep(base, folder, space=({},), **options):
    """A small sweep with six steps per run."""
    given = {"validation": DATA[1], "training_args": SHARED, "on_error": "raise", **options}
    return hf_soup.sweep(base, DATA[0], space=space, output_dir=folder, **given)


@pytest.mark.parametrize(
    "make", [lambda: Diary(), lambda: Diary, lambda: lambda: Diary()], ids=["one", "class", "def"]
)
def test_every_run_has_a_fresh_callback(base, tmp_path, make):
    """An instance is copied, and a class or factory is called, for each run; the given instance is not used."""
    callback = make()
    runs = sweep(base, tmp_path, {"seed": [0, 1]}, callbacks=[callback], head="probe")
    assert [(run.folder / "diary.txt").read_text() for run in runs] == ["1", "1"]
    if isinstance(callback, Diary):
        assert callback.runs == 0
    assert "callback" not in (tmp_path / "sweep.json").read_text()
    assert len(sweep(base, tmp_path, {"seed": [0, 1]}, head="probe")) == 2


def test_a_probe_is_no_run(base, tmp_path):
    """A callback factory is called once before anything is written and once for each run, but not for the probe."""
    made = []

    def make():
        made.append(Diary())
        return made[-1]

    sweep(base, tmp_path, {"seed": [0, 1]}, callbacks=(factory for factory in [make]), head="probe")
    assert [callback.runs for callback in made] == [0, 1, 1]


def test_processes_get_them_too(base, tmp_path, monkeypatch):
    """Worker processes for several GPUs get callbacks by pickle and train to the same bits; callbacks that cannot be
    pickled raise a RecipeError.
    """
    from hf_soup.training import running as module

    here = sweep(base, tmp_path / "here", {"seed": [0, 1]}, callbacks=[Diary()])
    monkeypatch.setattr(module, "gpus", lambda: ("0", "1"))  # machines without GPUs train on the CPU instead
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
    with pytest.raises(RecipeError, match="cannot be sent to the processes that train on several GPUs"):
        sweep(base, tmp_path / "runs", {"seed": [0, 1]}, callbacks=[lambda: Diary()])
    assert not (tmp_path / "runs").exists()
    runs = sweep(base, tmp_path / "runs", {"seed": [0, 1]}, callbacks=[Diary()])
    assert [(run.folder / "diary.txt").read_text() for run in runs] == ["1", "1"]
    assert [run.name for run in runs] == ["run-0", "run-1"]
    for run, same in zip(runs, here, strict=True):
        one, two = load_file(run.folder / "model.safetensors"), load_file(same.folder / "model.safetensors")
        assert list(one) == list(two)
        assert all(torch.equal(one[name], two[name]) for name in one)


class Refuses(transformers.TrainerCallback):
    """A callback that cannot be copied."""

    def __deepcopy__(self, memo):
        raise TypeError("no copies of me")


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        ([3], "callbacks: 3 is no transformers.TrainerCallback"),
        (["wandb"], "callbacks: 'wandb' is no transformers.TrainerCallback"),
        ([dict], "makes {}, which is no transformers.TrainerCallback"),
        ([StopAt], "cannot be copied or made for each run .*missing 1 required positional argument"),
        ([Refuses()], "cannot be copied or made for each run .*no copies of me"),
        (Diary(), "callbacks is a list of transformers.TrainerCallback"),
        ("Diary", "callbacks is a list of transformers.TrainerCallback"),
    ],
)
def test_what_is_no_callback(base, tmp_path, callbacks, message):
    """An invalid callback raises a RecipeError before anything is written."""
    with pytest.raises(RecipeError, match=message):
        sweep(base, tmp_path / "runs", callbacks=callbacks)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("keep", ["best", "last", "all"])
@pytest.mark.parametrize("step", [1, 4])
def test_a_callback_that_stops_between_two_checkpoints(base, tmp_path, keep, step):
    """A run that a callback stops between checkpoints is complete, with the weights and score of its last step."""
    shared = {**SHARED, "eval_steps": 3, "learning_rate": 0.0}
    runs = sweep(base, tmp_path, training_args=shared, keep=keep, callbacks=[StopAt(step)])
    state = runs[-1].state
    assert state["steps"] == step
    kept = 3 if keep == "best" and step > 3 else step
    assert state["step"] == kept
    assert runs[-1].score.value == state["metrics"]["eval_accuracy"]
    assert transformers.AutoModelForSequenceClassification.from_pretrained(runs[-1].folder)
    assert len(sweep(base, tmp_path, training_args=shared, keep=keep)) == len(runs)


@pytest.mark.parametrize("first", ["with it", "without it"])
def test_a_callback_with_a_state_goes_on(base, tmp_path, first):
    """A callback's state is restored from a checkpoint; a callback new to an interrupted run starts fresh."""
    before = [Counter(limit=5)] if first == "with it" else [Interrupt()]
    with pytest.raises(KeyboardInterrupt):
        sweep(base, tmp_path, callbacks=before)
    (run,) = sweep(base, tmp_path, callbacks=[Counter()])
    assert run.state["resumed_from"] == 3
    assert (run.folder / "count.txt").read_text() == ("6" if first == "with it" else "3")
    history = json.loads((run.folder / "trainer_state.json").read_text())
    assert history["global_step"] == 6


class Interrupt(transformers.TrainerCallback):
    """Simulates Ctrl-C in the second epoch."""

    def on_step_end(self, args, state, control, **kwargs):
        """Interrupt training at step 5."""
        if state.global_step == 5:
            raise KeyboardInterrupt
