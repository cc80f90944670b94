"""`within` and `group_by` average snapshots and runs before a strategy chooses among them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

import hf_soup
from hf_soup import testing
from hf_soup.errors import RecipeError
from hf_soup.selection.groups import minus_sqrt


DATA = testing.tiny_texts(48), testing.tiny_texts(40, seed=1)
SPACE = [{"learning_rate": rate, "seed": seed} for rate in (1e-3, 3e-3) for seed in (0, 1)]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Four runs of three epochs, with a checkpoint of each."""
    folder = tmp_path_factory.mktemp("sweep")
    base = testing.save_text_model(testing.tiny_text_model(5), folder / "base")
    args = {"epochs": 3, "batch_size": 16}
    options = {"validation": DATA[1], "output_dir": folder / "runs", "keep": "all", "training_args": args}
    return hf_soup.sweep(base, DATA[0], space=SPACE, **options)


def weights(folder):
    """The weights of a checkpoint in float64."""
    return {name: tensor.double() for name, tensor in load_file(Path(folder) / "model.safetensors").items()}


def snapshots(sweep, name):
    """The weights of a run's checkpoints, in the order of their steps."""
    of_run = [run for run in sweep if run.state["run"] == name]
    return [weights(run.folder) for run in sorted(of_run, key=lambda run: run.state["step"])]


def mean(states, shares=None):
    """The weighted mean of states in float64, equal by default."""
    shares = shares or [1 / len(states)] * len(states)
    return {name: sum(share * state[name] for share, state in zip(shares, states, strict=True)) for name in states[0]}


def assert_is(soup, expected):
    """The soup's weights are these, to the rounding of float32."""
    state = soup.model.state_dict()
    for name, tensor in expected.items():
        torch.testing.assert_close(state[name].double(), tensor, rtol=1e-5, atol=1e-7)


RUNS = ("run-0", "run-1", "run-2", "run-3")


@pytest.mark.parametrize(
    ("options", "shares"),
    [
        ({"within": "mean"}, [1 / 3, 1 / 3, 1 / 3]),
        ({"within": "last", "k": 2}, [0, 1 / 2, 1 / 2]),
        ({"within": "last", "k": 9}, [1 / 3, 1 / 3, 1 / 3]),
        ({"within": "minus_sqrt"}, list(minus_sqrt(3))),
        ({"within": "minus_sqrt", "k": 1}, [0, 0, 1]),
    ],
)
def test_snapshots_are_averaged_and_then_runs(sweep, options, shares):
    """The soup is the mean over runs of the weighted mean of each run's snapshots, against float64."""
    expected = mean([mean(snapshots(sweep, name), shares) for name in RUNS])
    assert_is(hf_soup.merge(sweep, **options), expected)
    assert_is(hf_soup.merge(sweep[0].folder.parents[1], **options), expected)  # of the folder of the sweep as well


def test_without_within_a_group_has_the_last_snapshots(sweep):
    """`group_by` alone averages the runs of one learning rate, then the rates: with two seeds each, all runs alike."""
    last = [snapshots(sweep, name)[-1] for name in RUNS]
    assert_is(hf_soup.merge(sweep, group_by="learning_rate"), mean(last))
    by_hand = {"run-0": "a", "run-1": "b", "run-2": "b", "run-3": "b"}
    assert_is(hf_soup.merge(sweep, group_by=by_hand), mean(last, [1 / 2, 1 / 6, 1 / 6, 1 / 6]))


def test_minus_sqrt_emulates_a_decay():
    """With these weights the later changes of snapshots count as 1 - sqrt(t), and the weights sum to 1."""
    changes = np.array([5.0, -2.0, 3.0, 7.0])  # the oldest snapshot, and the changes after it
    decay = 1 - np.sqrt(np.arange(4) / 4)
    assert np.dot(minus_sqrt(4), np.cumsum(changes)) == pytest.approx(np.dot(decay, changes))
    assert sum(minus_sqrt(4)) == pytest.approx(1)
    assert minus_sqrt(1) == (1.0,)


@pytest.mark.parametrize("strategy", ["greedy", "performance", "learned", "ensemble_weights", "diverse", "uniform"])
def test_a_strategy_chooses_among_runs(sweep, strategy):
    """Trials are named by runs; the recipe has the snapshots with the weights of their runs, and scores alike."""
    evaluator = None if strategy == "uniform" else hf_soup.Evaluator(DATA[1], cache=False)
    soup = hf_soup.merge(sweep, strategy=strategy, within="mean", evaluator=evaluator)
    names = {trial.ingredient for trial in soup.selection.trials if trial.ingredient}
    assert names == (set() if strategy == "uniform" else set(RUNS))
    shares = dict(zip(soup.recipe.names, soup.recipe.weights, strict=True))
    for run in RUNS:
        own = [share for name, share in shares.items() if name.split("-checkpoint")[0] == run]
        assert len(own) in (0, 3)
        assert own == pytest.approx(own[:1] * len(own))
    if evaluator is not None:
        tokenizer = transformers.AutoTokenizer.from_pretrained(sweep.base_model)
        again = hf_soup.Evaluator(DATA[1], cache=False, processing_class=tokenizer)
        assert again(soup.model).value == pytest.approx(soup.selection.score)


def test_snapshots_are_chosen_by_score(sweep):
    """`within="greedy"` never averages to a run that scores worse than its best snapshot."""
    evaluator = hf_soup.Evaluator(DATA[1], cache=False)
    soup = hf_soup.merge(sweep, strategy="greedy", within="greedy", evaluator=evaluator)
    best = max(run.score.value for run in sweep)
    assert soup.selection.score >= best
    with pytest.raises(RecipeError, match="chooses snapshots by validation score"):
        hf_soup.merge(sweep, within="greedy")


def test_the_gradient_of_groups_is_that_of_their_members(sweep):
    """A step in the weight of a group changes the loss as the derivative says."""
    from hf_soup.selection.groups import GroupedTrials, group_snapshots
    from hf_soup.types import Mixture

    evaluator = hf_soup.Evaluator(DATA[1], cache=False)
    made = hf_soup.merge(sweep, within="mean")
    with _trials(made, evaluator) as trials:
        groups = []
        for name in RUNS[:2]:
            members = [item for item in made.recipe.ingredients if item.name.split("-checkpoint")[0] == name]
            groups.append(group_snapshots(name, members, "mean", None, None))
        grouped = GroupedTrials(trials, groups)
        items = tuple(group.ingredient for group in groups)
        rows = np.arange(len(DATA[1]))
        at = grouped.gradient(Mixture(items, (0.5, 0.5)), rows)
        step = 1e-2
        above = grouped.gradient(Mixture(items, (0.5 + step, 0.5 - step)), rows).loss
        below = grouped.gradient(Mixture(items, (0.5 - step, 0.5 + step)), rows).loss
        slope = sum(row[0] - row[1] for row in at.weights.values())
        assert slope == pytest.approx((above - below) / (2 * step), rel=0.05, abs=1e-4)


def _trials(soup, evaluator):
    """Trials over the ingredients of a soup."""
    from hf_soup.evaluation.binding import bind_evaluator
    from hf_soup.selection.trials import ModelTrials

    return ModelTrials(soup.setup, bind_evaluator(evaluator, soup.setup.settings_first))


def test_folders_of_a_trainer_have_their_checkpoints(sweep, tmp_path):
    """Of a folder with `checkpoint-*` folders the checkpoints are the snapshots, whatever lies beside them."""
    for name in RUNS[:2]:
        run = tmp_path / name
        source = sweep[0].folder.parents[1] / name
        for number, checkpoint in enumerate(sorted(source.glob("checkpoint-*"), key=lambda path: int(path.name[11:]))):
            shutil.copytree(checkpoint, run / f"checkpoint-{9 + number}")  # 9 comes before 10
        shutil.copyfile(source / "model.safetensors", run / "model.safetensors")
    expected = mean([mean(snapshots(sweep, name)[:2]) for name in RUNS[:2]])
    assert_is(hf_soup.merge(tmp_path, within="mean"), expected)
    last = mean([snapshots(sweep, name)[1] for name in RUNS[:2]])
    assert_is(hf_soup.merge(tmp_path, within="last", k=1), last)


def test_runs_of_a_sweep_can_be_listed(sweep):
    """A list of runs is grouped like the sweep, and settings go by their short names too."""
    expected = mean([mean(snapshots(sweep, name)) for name in RUNS])
    assert_is(hf_soup.merge(list(sweep), within="mean"), expected)
    with pytest.raises(RecipeError, match="known here: learning_rate, seed"):
        hf_soup.merge(list(sweep), group_by="epochs")


def test_runs_of_one_name_are_told_apart(sweep, tmp_path):
    """Two folders of one name have their parents in their names."""
    for parent, name in (("a", "run-0"), ("b", "run-1")):
        shutil.copytree(sweep[0].folder.parents[1] / name, tmp_path / parent / "run")
    sources = [tmp_path / "a" / "run", tmp_path / "b" / "run"]
    assert_is(hf_soup.merge(sources, within="mean"), mean([mean(snapshots(sweep, name)) for name in RUNS[:2]]))


def test_a_function_scores_groups(sweep):
    """With a function of a model as evaluator there are no predictions, and the search works all the same."""

    def size(model):
        """A number that differs between models."""
        return float(sum(parameter.detach().abs().sum() for parameter in model.parameters()))

    soup = hf_soup.merge(sweep, strategy="greedy", within="last", k=2, evaluator=size)
    assert {trial.ingredient for trial in soup.selection.trials if trial.ingredient} == set(RUNS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"within": "greedy", "strategy": "greedy", "evaluator": DATA[1], "folds": 2}, "would not show its optimism"),
        ({"within": "maen"}, 'did you mean "mean"'),
        ({"within": "mean", "k": 2}, "k=2 is a number of snapshots"),
        ({"within": "last", "k": 0}, "k=0 is a number of snapshots"),
        ({"within": "mean", "method": "median"}, 'go with method="linear"'),
        ({"group_by": "weight_decay"}, r"known here: learning_rate, seed"),
        ({"group_by": {"run-0": "a"}}, "run-1 has no such value"),
    ],
)
def test_wrong_options_are_refused(sweep, options, message):
    """The error names the option and what it may be."""
    with pytest.raises(RecipeError, match=message):
        hf_soup.merge(sweep, **options)


def test_runs_of_one_snapshot_have_nothing_to_average(text_runs):
    """The error says how to keep snapshots."""
    with pytest.raises(RecipeError, match='none of these runs has more than one: train them with keep="all"'):
        hf_soup.merge(text_runs, within="mean")
