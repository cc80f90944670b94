"""Trials with real models: early rejection, caching, resuming, gradients, and saved soups as they were scored."""

import copy
import itertools
import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from by_hand import TrialsByHand, accuracy, averaged_tensors, logits_of, right_rows
from safetensors.torch import load_file

import hf_soup
from hf_soup import plugins, testing
from hf_soup.checkpoints.memory import tensors_on_disk
from hf_soup.checkpoints.source import open_all
from hf_soup.errors import (
    EvaluationError,
    IncompatibleError,
    IngredientError,
    MissingExtraError,
    OutputError,
    RecipeError,
)
from hf_soup.evaluation import cache
from hf_soup.evaluation.binding import bind_evaluator
from hf_soup.evaluation.recipe_runner import RecipeWorker
from hf_soup.merging.agreement import agree
from hf_soup.merging.setup import set_up
from hf_soup.selection.trials import ModelTrials
from hf_soup.types import Mixture, Rejected, Score, Threshold


DATA = testing.tiny_texts(60, seed=3)
CHEAP = {  # strategy -> parameters that keep it fast
    "learned": {"epochs": 1, "train_batch_size": 24},
    "search": {"budget": 8},
    "interpolate": {"alphas": [0, 0.5, 1]},
    "weighted": {"weights": [2, 1, 1, 1]},
}
CHOOSING = [name for name in plugins.names("strategy") if plugins.chooses(name)]


@pytest.fixture(autouse=True)
def _empty(tmp_path, monkeypatch):
    """Give each test a cache of its own."""
    monkeypatch.setattr(cache, "cache_file", lambda: tmp_path / "kept" / "scores.sqlite")


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A base model with its tokenizer."""
    return testing.save_text_model(testing.tiny_text_model(0), tmp_path_factory.mktemp("start") / "start")


@pytest.fixture(scope="module")
def runs(start, tmp_path_factory):
    """Four models near the base model, every second one further away."""
    folder, base = tmp_path_factory.mktemp("runs"), testing.tiny_text_model(0)
    return [testing.save_text_model(moved(base, seed), folder / f"run-{seed}") for seed in range(4)]


def moved(base, seed, size=0.05):
    """A copy of a model with noise on every weight."""
    torch.manual_seed(seed + 100)
    model = copy.deepcopy(base)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn_like(parameter) * size * (1 + seed % 2)
    return model


def trials_of(runs, evaluator, *, params=None, align_labels=False, stop_early=True):
    """Trials as a merge creates them."""
    items = open_all(runs)
    setup = set_up(items, agree(items, take_from=None, align_labels=align_labels), params=params)
    with ModelTrials(setup, bind_evaluator(evaluator, items), stop_early=stop_early) as trials:
        return trials


def ingredients(runs):
    """The ingredients as a strategy gets them."""
    return [item.ingredient for item in open_all(runs)]


def singles(runs):
    """The mixtures of single ingredients."""
    return [Mixture.equal([item]) for item in ingredients(runs)]


@pytest.fixture
def runs_of_models(monkeypatch):
    """The outputs of every run of a model, in order."""
    outputs, run = [], hf_soup.Evaluator.run

    def spy(self, model, **options):
        outputs.append(run(self, model, **options))
        return outputs[-1]

    monkeypatch.setattr(hf_soup.Evaluator, "run", spy)
    return outputs


def soup_by(strategy, runs, start, **options):
    """A soup by the given strategy with few trials."""
    given = {"base_model": start} if strategy == "interpolate" else {}
    return hf_soup.merge(runs, strategy=strategy, evaluator=DATA, **given, **CHEAP.get(strategy, {}), **options)


@pytest.mark.parametrize("strategy", CHOOSING)
def test_the_model_that_was_scored_is_the_model_that_is_saved(strategy, runs, start, tmp_path, monkeypatch):
    """The scored tensors, the saved file and the rebuilt soup have the same bits; a plain loop gives nearly the same,
    and a model with the same score; and repeating the strategy runs no model.
    """
    seen, run = {}, hf_soup.Evaluator.run

    def spy(self, model, **options):
        seen[len(seen)] = {name: tensor.clone() for name, tensor in tensors_on_disk(model).items()}
        return run(self, model, **options)

    gradients, gradient = [], RecipeWorker.gradient
    monkeypatch.setattr(RecipeWorker, "gradient", lambda *args: gradients.append(1) or gradient(*args))
    monkeypatch.setattr(hf_soup.Evaluator, "run", spy)
    soup = soup_by(strategy, runs, start)
    n, steps = len(seen), len(gradients)
    assert bool(steps) == (strategy == "learned")
    assert soup_by(strategy, runs, start).recipe == soup.recipe
    assert (len(seen), len(gradients)) == (n, steps)
    saved = load_file(soup.save_pretrained(tmp_path / "soup") / "model.safetensors")
    assert any(all(torch.equal(one[name], saved[name]) for name in saved) for one in seen.values())
    hf_soup.cook(tmp_path / "soup", output_dir=tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (
        tmp_path / "soup" / "model.safetensors"
    ).read_bytes()
    assert hf_soup.load_recipe(tmp_path / "soup").selection == soup.recipe.selection
    by_hand = averaged_tensors(soup.recipe)
    assert set(by_hand) == set(saved)
    assert all(torch.allclose(saved[name], by_hand[name], rtol=1e-6, atol=1e-8) for name in saved)
    assert soup.recipe.selection.score == accuracy(soup.recipe, DATA)


@pytest.mark.parametrize("strategy", CHOOSING)
def test_every_strategy_says_what_it_tried(strategy, runs, start):
    """A selection lists every ingredient, has a reason, references and a score, and can be plotted."""
    selection = soup_by(strategy, runs, start).selection
    assert sorted(selection.scores) == ["run-0", "run-1", "run-2", "run-3"]
    assert selection.why
    assert set(selection.reference) == {"best single ingredient", "uniform soup", "ensemble"}
    assert f"the choice of {len(selection.trials)} trials" in selection.table()
    assert selection.score is not None
    if plugins.strategy_traits(plugins.load_function("strategy", strategy)).never_worse:
        assert selection.score >= selection.reference["best single ingredient"]
    figure = selection.plot()
    assert len(figure.axes[0].lines) >= 4
    assert figure.get_suptitle().startswith(f"{strategy}: accuracy {selection.score:.4f} on validation, best single")


def test_a_base_model_called_like_an_ingredient_is_not_one(runs, start, tmp_path):
    """A base model with the same name as an ingredient is not confused with it."""
    other = testing.save_text_model(moved(testing.tiny_text_model(0), 77, size=0.5), tmp_path / "run-0")
    for strategy in ("greedy", "interpolate"):
        options = {"method": "ties"} if strategy == "greedy" else {"alphas": [0.5, 1]}
        named = hf_soup.merge(runs, strategy=strategy, evaluator=DATA, base_model=other, **options)
        elsewhere = testing.save_text_model(transformers_model(other), tmp_path / "elsewhere")
        plain = hf_soup.merge(runs, strategy=strategy, evaluator=DATA, base_model=elsewhere, **options)
        assert [row.score for row in named.selection.trials] == [row.score for row in plain.selection.trials]
        one, two = named.model.state_dict(), plain.model.state_dict()
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_base_model_with_labels_in_another_order_is_refused(runs, start, tmp_path):
    """A base model with other label order raises an IncompatibleError; an ingredient with one can be aligned."""
    model = transformers_model(start)
    model.config.id2label = {0: "positive", 1: "negative"}
    model.config.label2id = {"positive": 0, "negative": 1}
    odd = testing.save_text_model(model, tmp_path / "odd")
    with pytest.raises(IncompatibleError, match="odd has the labels in another order"):
        hf_soup.merge(runs, strategy="interpolate", evaluator=DATA, base_model=odd)
    options = {"strategy": "interpolate", "evaluator": DATA, "base_model": start, "align_labels": True}
    assert hf_soup.merge([odd, *runs], alphas=[0.5], **options).recipe.alignments == {"odd": (1, 0)}


def test_configurations_that_differ_are_each_their_own(runs, tmp_path):
    """Ingredients with different configurations are each scored with their own, in any order."""
    folder = shutil.copytree(runs[1], tmp_path / "other")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_act": "relu"}))
    scores = []
    for order in ([runs[0], folder], [folder, runs[0]]):
        items, evaluator = open_all(order), hf_soup.Evaluator(DATA, metric="loss", cache=False)
        setup = set_up(items, agree(items, take_from=items[0].name, align_labels=False)).without_settings()
        bound = bind_evaluator(evaluator, items)
        with ModelTrials(setup, bound) as trials:
            scores.append({item.name: trials.score(Mixture.equal([item.ingredient])).value for item in items})
        assert scores[-1]["other"] == bound(transformers_model(folder)).value
    assert scores[0] == scores[1]
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(DATA["text"][:], padding=True, return_tensors="pt")
    for run in (runs[0], folder):
        with torch.no_grad():
            loss = transformers_model(run)(**tokens, labels=torch.tensor(DATA["label"])).loss
        assert scores[0][run.name] == pytest.approx(loss.item(), rel=1e-5)


def test_a_soup_on_the_way_does_not_replace_its_base_model(runs, start, tmp_path):
    """A soup cannot be saved over its base model, which is one of its ingredients."""
    base = shutil.copytree(start, tmp_path / "base")
    options = {"strategy": "interpolate", "evaluator": DATA, "base_model": base, "alphas": [0.5]}
    with pytest.raises(OutputError):
        hf_soup.merge(runs, **options).save_pretrained(base, overwrite=True)


@pytest.mark.parametrize("method", [{}, {"method": "median"}, {"method": "ties"}])
@pytest.mark.parametrize(
    "strategy", ["greedy", "greedy_best_first", "pruned", "exhaustive", "layerwise", "performance"]
)
def test_strategies_go_with_every_method(strategy, method, runs, start):
    """Strategies work with every method, and the recipe records the method."""
    soup = hf_soup.merge(runs, strategy=strategy, evaluator=DATA, base_model=start, **method)
    assert soup.recipe.method == method.get("method", "linear")
    assert soup.model.num_parameters() > 0


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("strategy", ["greedy", "greedy_best_first", "pruned", "exhaustive", "layerwise", "diverse"])
def test_early_rejection_changes_nothing(strategy, seed, runs, runs_of_models):
    """With real models the mixture is that of a search by hand, with and without early rejection, which runs no more
    examples.
    """
    data = testing.tiny_texts(50, seed=seed)
    search = plugins.load_function("strategy", strategy)
    expected = search(ingredients(runs), TrialsByHand(data))
    choices, rows_run = {}, {}
    for stop_early in (True, False):
        runs_of_models.clear()
        trials = trials_of(runs, hf_soup.Evaluator(data, cache=False, batch_size=8), stop_early=stop_early)
        choices[stop_early] = search(ingredients(runs), trials)
        rows_run[stop_early] = sum(len(outputs.rows) for outputs in runs_of_models)
    assert choices[True].mixture == choices[False].mixture == expected.mixture
    assert [trial.score for trial in choices[False].trials] == [trial.score for trial in expected.trials]
    assert rows_run[True] <= rows_run[False]


def test_soce_takes_categories_of_a_function(runs):
    """The values beside the one that selects; all single models and a grid over the two experts are tried."""

    def score(model):
        first, second = (float(parameter.detach().sum()) for parameter in list(model.parameters())[:2])
        return {"mean": -abs(first - second), "first": first, "second": -first}

    evaluator = hf_soup.Evaluator(score, metric="mean")
    soup = hf_soup.merge(runs, strategy="soce", evaluator=evaluator)
    assert len(soup.selection.trials) == len(runs) + 9
    best = max(evaluator(hf_soup.merge([run]).model).value for run in runs)
    assert soup.selection.score >= best
    together = hf_soup.merge(runs, strategy="soce", evaluator=evaluator, together=-1)
    assert len(together.selection.trials) == len(runs)


def test_a_trial_stops_when_it_cannot_reach_its_threshold(runs, runs_of_models):
    """A trial whose threshold requires all rows stops at the first wrong row and reports a bound and a count."""
    trials = trials_of(runs, hf_soup.Evaluator(DATA, cache=False, batch_size=8))
    trials.map(singles(runs))
    mixture = Mixture.equal(ingredients(runs))
    right = right_rows(mixture, DATA)
    result = trials.score(mixture, beat=Threshold(Score("accuracy", 1.0), ties=True))
    assert isinstance(result, Rejected)
    assert result.right == result.n - 1 == 59
    rows_run = runs_of_models[-1].rows
    assert right[rows_run].tolist().index(False) == result.after - 1
    assert len(rows_run) < 60
    full = trials.score(mixture)
    assert full.value == right.mean() <= result.right / result.n
    assert full.n == 60
    assert trials.score(mixture, beat=Threshold(Score("accuracy", 1.0))) == result  # even if all answers are known


def test_hard_examples_come_first_whatever_the_order_of_ingredients(runs, runs_of_models):
    """Rows that most ingredients get wrong are run first, in the same batches whatever the order of ingredients."""
    wrong = sum((~right_rows(single, DATA)).astype(int) for single in singles(runs))
    orders = []
    for chosen in (runs, runs[::-1]):
        trials = trials_of(chosen, hf_soup.Evaluator(DATA, cache=False, batch_size=8))
        trials.map(singles(chosen))
        trials.score(Mixture.equal(sorted(ingredients(chosen), key=lambda item: item.name)))
        rows_run = runs_of_models[-1].rows
        hard = rows_run[: (wrong > 0).sum()]
        windows = [wrong[hard[at : at + 4]] for at in range(0, len(hard), 4)]  # half a batch each, sorted by length
        assert all(harder.min() >= easier.max() for harder, easier in itertools.pairwise(windows))
        assert not wrong[rows_run[len(hard) :]].any()
        assert sorted(rows_run) == list(range(60))
        orders.append(rows_run.tolist())
    assert orders[0] == orders[1]


@pytest.mark.parametrize("metric", ["loss", "f1", ["f1_macro", "accuracy"]])
def test_other_metrics_are_never_stopped(metric, runs):
    """Trials with metrics other than accuracy are never stopped early."""
    trials = trials_of(runs, hf_soup.Evaluator(DATA, metric=metric, cache=False))
    threshold = Threshold(replace(trials.score(singles(runs)[0]), value=1.0))
    assert isinstance(trials.score(Mixture.equal(ingredients(runs)), beat=threshold), Score)


def test_a_rejected_trial_is_kept_and_never_as_a_score(runs, runs_of_models):
    """The rows run for a rejected trial are cached as a part, and a later full score continues from there."""
    threshold, mixture = Threshold(Score("accuracy", 1.0)), Mixture.equal(ingredients(runs))
    for again in (False, True):
        trials = trials_of(runs, hf_soup.Evaluator(DATA, batch_size=8))
        trials.map(singles(runs))
        assert isinstance(trials.score(mixture, beat=threshold), Rejected)
        assert len(runs_of_models) == 5  # the second time nothing is run
        kinds = [row.value_type for row in cache.kept() if " + " in row.about]
        assert kinds == ["part"], again
    stopped = len(runs_of_models[-1].rows)
    assert stopped < 60
    full = trials.score(mixture)
    assert len(runs_of_models[-1].rows) == 60 - stopped
    assert sorted(row.value_type for row in cache.kept() if " + " in row.about) == ["predictions", "score"]
    fresh = trials_of(runs, hf_soup.Evaluator(DATA, batch_size=8, cache=False), stop_early=False)
    fresh.map(singles(runs))
    assert fresh.score(mixture) == full
    assert full.value == accuracy(mixture, DATA)


@pytest.mark.parametrize("after", [1, 3, 5, 6])
def test_an_interrupted_search_goes_on_where_it_was(after, runs, monkeypatch):
    """After an interrupt all finished trials are cached, and a repeated search gives the same result."""
    calls, run = [], hf_soup.Evaluator.run

    def spy(self, model, **options):
        calls.append(1)
        if len(calls) == after + 1:
            raise KeyboardInterrupt
        return run(self, model, **options)

    whole = hf_soup.merge(runs, strategy="greedy", evaluator=DATA, accept=">")
    monkeypatch.setattr(hf_soup.Evaluator, "run", spy)
    other = cache.cache_file().with_name("other.sqlite")
    monkeypatch.setattr(cache, "cache_file", lambda: other)
    with pytest.raises(KeyboardInterrupt):
        hf_soup.merge(runs, strategy="greedy", evaluator=DATA, accept=">")
    assert hf_soup.merge(runs, strategy="greedy", evaluator=DATA, accept=">").recipe == whole.recipe
    total = len(calls)
    calls.clear()
    calls.extend([1] * 100)
    cache.clear()
    hf_soup.merge(runs, strategy="greedy", evaluator=DATA, accept=">")
    assert total == len(calls) - 100 + 1  # one trial was lost


def test_a_subset_is_scored_by_its_rows(runs):
    """The score on a subset is that of the same examples alone, also for a subset of a subset."""
    trials = trials_of(runs, hf_soup.Evaluator(DATA, cache=False))
    rows = np.array([40, 3, 5, 17, 58, 21])
    mixture = Mixture.equal(ingredients(runs)[:2])
    subset = trials.subset(rows)
    alone = trials_of(runs, hf_soup.Evaluator(DATA.select(sorted(rows.tolist())), cache=False))
    assert subset.score(mixture).value == alone.score(mixture).value == right_rows(mixture, DATA)[rows].mean()
    assert subset.score(mixture).n == subset.examples == 6
    smaller = subset.subset(np.array([0, 5]))
    assert smaller.examples == 2
    first = mixture.ingredients[0]
    assert np.array_equal(smaller.logits(first).logits, trials.logits(first).logits[[3, 58]])
    assert trials.score(mixture).n == 60  # and the full trials are unchanged


def test_folds_and_holdout_tell_what_selection_is_worth(runs):
    """Folds and holdout give scores on examples that the respective search has not seen."""
    soup = hf_soup.merge(runs, strategy="greedy", evaluator=DATA, folds=3)
    folds = soup.selection.folds
    assert len(folds.scores) == folds.k == 3
    assert np.isclose(folds.mean, np.mean(folds.scores))
    assert np.isclose(folds.optimism, soup.selection.score - folds.mean)
    parts = np.array_split(np.random.default_rng(0).permutation(60), 3)
    others = np.sort(np.concatenate(parts[1:]))
    first = hf_soup.merge(runs, strategy="greedy", evaluator=DATA.select(others))
    assert accuracy(first.recipe, DATA.select(np.sort(parts[0]))) == folds.scores[0]
    assert soup.recipe.names == hf_soup.merge(runs, strategy="greedy", evaluator=DATA).recipe.names
    held = hf_soup.merge(runs, strategy="greedy", evaluator=DATA, holdout=0.25, seed=1)
    assert held.selection.rows == 45
    assert held.selection.holdout.rows == 15
    order = np.random.default_rng(1).permutation(60)
    by_hand = hf_soup.merge(runs, strategy="greedy", evaluator=DATA.select(np.sort(order[15:])))
    assert by_hand.recipe.names == held.recipe.names
    assert by_hand.selection.score == held.selection.score == accuracy(held.recipe, DATA.select(order[15:]))
    assert held.selection.holdout.score == accuracy(held.recipe, DATA.select(order[:15]))
    assert "Held out:" in held.selection.table()
    assert "Cross-validation:" in soup.selection.table()


def test_prescreening_by_the_ensemble_cooks_less(runs, monkeypatch):
    """Candidates ruled out by the ensemble have no score, and `ensemble` is the weighted mean of logits."""
    plain = hf_soup.merge(runs, strategy="greedy", evaluator=DATA).selection
    screened = hf_soup.merge(runs, strategy="greedy", evaluator=DATA, prescreen="ensemble").selection
    assert screened.params == {"prescreen": "ensemble"}
    ruled_out = [row for row in screened.trials if "ruled out" in row.why]
    assert all(row.score is None and not row.kept for row in ruled_out)
    assert len(screened.trials) == len(plain.trials)
    trials = trials_of(runs, hf_soup.Evaluator(DATA, cache=False))
    items = ingredients(runs)
    logits = [logits_of(single, DATA).astype(np.float64) for single in singles(runs)[:2]]
    right = np.average(logits, axis=0, weights=[3, 1]).argmax(1) == np.array(DATA["label"])
    assert trials.ensemble(Mixture(tuple(items[:2]), (3.0, 1.0))).value == right.mean()


def stacked_gradient(runs, weights, batch, kind, scale, by_name=None):
    """Loss of the weighted mean and its gradient by float64 autograd through all models at once."""
    models = [transformers_model(run).double() for run in runs]
    names = [name for name, _ in models[0].named_parameters()]
    raw = {name: torch.tensor(weights, dtype=torch.float64, requires_grad=True) for name in names}
    mixed = {}
    for name in names:
        stack = torch.stack([dict(model.named_parameters())[name].detach() for model in models])
        w = raw[name]
        mixed[name] = torch.tensordot(w / w.sum(), stack, dims=1)
    factor = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
    labels = batch["labels"]
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    logits = torch.func.functional_call(models[0], mixed, kwargs=inputs).logits
    if kind == "tokens":
        logs = logits[:, :-1].log_softmax(-1)
        keep = labels[:, 1:] != -100
        picked = logs.gather(-1, labels[:, 1:].clamp(min=0)[..., None])[..., 0]
        loss = -picked[keep].mean()
    else:
        criterion = {
            "classes": torch.nn.CrossEntropyLoss(),
            "labels": torch.nn.BCEWithLogitsLoss(),
            "values": torch.nn.MSELoss(),
        }[kind]
        loss = criterion(logits.squeeze(-1) if kind == "values" else logits * factor, labels)
    loss.backward()
    return loss.item(), {name: w.grad.tolist() for name, w in raw.items()}, factor.grad


def transformers_model(run):
    """The model in a folder, with whatever head it has."""
    config = transformers.AutoConfig.from_pretrained(run)
    return getattr(transformers, config.architectures[0]).from_pretrained(run).eval()


def task_runs(name, folder):
    """Three models for a task's example data, and an evaluator."""
    task = plugins.load_module("task", name)
    base, processing_class = testing.model_for(task)
    folders = []
    for seed in range(3):
        moved(base, seed).save_pretrained(folder / f"run-{seed}")
        folders.append(folder / f"run-{seed}")
    data = testing.example_of(task)
    return folders, hf_soup.Evaluator(data, task=name, processing_class=processing_class, cache=False)


@pytest.mark.parametrize("scale", [1.0, 1.7])
@pytest.mark.parametrize(
    "name",
    ["text-classification", "multi-label-classification", "regression", "image-classification", "text-generation"],
)
def test_the_gradient_is_that_of_autograd_through_all_models(name, scale, tmp_path):
    """The streamed gradient agrees with autograd through all models in each module, to 1e-5 of the largest value."""
    folders, evaluator = task_runs(name, tmp_path)
    trials = trials_of(folders, evaluator)
    weights = [0.5, 0.2, 0.3]
    rows = np.arange(len(evaluator.dataset) - 1)
    gradient = trials.gradient(Mixture(tuple(ingredients(folders)), tuple(weights)), rows, scale)
    model = transformers_model(folders[0])
    (batch,) = trials._evaluator.examples.batches_of(model, rows)
    batch = {key: value.double() if value.is_floating_point() else value for key, value in batch.items()}
    kind = plugins.load_module("task", name).KIND
    loss, by_name, by_scale = stacked_gradient(folders, weights, batch, kind, scale)
    assert np.isclose(gradient.loss, loss, rtol=1e-5)
    state = model.state_dict()
    on_disk = {tensor.data_ptr(): key for key, tensor in tensors_on_disk(model).items()}
    expected = {module: np.zeros(3) for module in gradient.weights}
    for tensor, of_tensor in by_name.items():
        expected[module_of(on_disk[state[tensor].data_ptr()], model, trials.modules)] += of_tensor
    largest = max(np.abs(row).max() for row in expected.values())
    for module, row in gradient.weights.items():
        assert np.allclose(row, expected[module], atol=1e-5 * largest, rtol=0), module
    assert set(gradient.weights) == set(trials.modules)
    if kind in ("classes", "labels"):
        assert np.isclose(gradient.scale, by_scale.item(), rtol=1e-4, atol=1e-6)
    else:
        assert gradient.scale == 0


def module_of(name, model, modules):
    """The module that contains a tensor: the longest one that its name, without the model's prefix, begins with."""
    bare = name.removeprefix(f"{model.base_model_prefix}.")
    return max((module for module in modules if f"{bare}.".startswith(f"{module}.")), key=len)


def test_the_gradient_of_a_sum_and_of_permuted_labels(runs, tmp_path):
    """The gradient is right without normalization, and for heads whose labels are permuted."""
    evaluator = hf_soup.Evaluator(DATA, cache=False)
    items, rows = ingredients(runs)[:2], np.arange(20)
    weights = (0.7, 0.9)
    trials = trials_of(runs[:2], evaluator, params={"normalize": False})
    gradient = trials.gradient(Mixture(tuple(items), weights), rows)
    step = 1e-2

    def loss(first):
        return trials.gradient(Mixture(tuple(items), (first, weights[1])), rows).loss

    numeric = (loss(weights[0] + step) - loss(weights[0] - step)) / (2 * step)
    assert np.isclose(sum(row[0] for row in gradient.weights.values()), numeric, rtol=1e-2)
    model = transformers_model(runs[1])
    with torch.no_grad():
        for tensor in (model.classifier.weight, model.classifier.bias):
            tensor.copy_(tensor.flip(0))
    model.config.id2label = {0: "positive", 1: "negative"}
    model.config.label2id = {"positive": 0, "negative": 1}
    swapped = testing.save_text_model(model, tmp_path / "run-1")
    aligned = trials_of([runs[0], swapped], evaluator, align_labels=True)
    plain = trials_of(runs[:2], evaluator)
    permuted = aligned.gradient(Mixture(tuple(ingredients([runs[0], swapped])), weights), rows)
    as_they_were = plain.gradient(Mixture(tuple(items), weights), rows)
    assert permuted.loss == pytest.approx(as_they_were.loss, rel=1e-6)
    for module in permuted.weights:
        assert np.allclose(permuted.weights[module], as_they_were.weights[module], rtol=1e-4, atol=1e-7)


def test_learning_lowers_the_loss(start, tmp_path):
    """A learned soup has a lower validation loss than the uniform soup, with weights by model and by module."""
    args = {"per_device_train_batch_size": 8, "learning_rate": 5e-3, "eval_strategy": "no"}
    space = {"num_train_epochs": [1, 2, 8, 12]}
    options = {
        "validation": testing.tiny_texts(40, seed=7),
        "keep": "last",
        "output_dir": tmp_path,
        "training_args": args,
    }
    runs = hf_soup.sweep(start, testing.tiny_texts(120, seed=8), space=space, **options)
    uniform = trials_of(runs, hf_soup.Evaluator(DATA, metric="loss", cache=False))
    before = uniform.score(Mixture.equal(ingredients(runs))).value
    losses = {}
    for by in ("model", "module"):
        options = {"by": by, "epochs": 4, "train_batch_size": 12, "patience": 4}
        soup = hf_soup.merge(runs, strategy="learned", evaluator=hf_soup.Evaluator(DATA, metric="loss"), **options)
        losses[by] = soup.selection.score
        assert soup.recipe.selection.temperature > 0
    assert losses["model"] < before
    assert losses["module"] < before


def test_modules_come_from_the_bottom_up(runs, image_runs):
    """Modules are listed in the order of the model's definition, heads last."""
    trials = trials_of(runs, DATA)
    assert trials.modules == ("embeddings", "encoder.layer.0", "encoder.layer.1", "pooler", "classifier")
    assert trials.heads == ("classifier",)
    images = trials_of(image_runs, testing.tiny_images(6))
    assert images.modules[0] == "embeddings"
    assert images.modules[-1] == "classifier"


def test_from_a_base_model_without_a_head(runs, start, tmp_path):
    """Interpolating from a headless base model takes missing modules from the end point, and can be rebuilt."""
    body = transformers.BertModel.from_pretrained(start, add_pooling_layer=False)
    bare = testing.save_text_model(body, tmp_path / "bare")
    soup = hf_soup.merge(runs[:2], strategy="interpolate", evaluator=DATA, base_model=bare, alphas=[0.0], end="best")
    names = soup.recipe.names
    assert names[-1] == "bare"
    assert soup.recipe.weights_by_module == {"": (0, 1), "pooler": (1, 0), "classifier": (1, 0)}
    made, theirs = soup.model.state_dict(), body.state_dict()
    assert all(torch.equal(made[f"bert.{name}"], theirs[name]) for name in theirs)
    chosen = transformers_model(next(run for run in runs if run.name == names[0]))
    assert torch.equal(soup.model.classifier.weight, chosen.classifier.weight)
    folder = soup.save_pretrained(tmp_path / "soup")
    again = hf_soup.cook(folder, output_dir=tmp_path / "again").folder
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_the_point_halfway_is_the_mean(runs, start, tmp_path):
    """At alpha 0.5 every tensor is the mean of base model and end, and the points are kept for the plot."""
    soup = hf_soup.merge(runs[:1], strategy="interpolate", evaluator=DATA, base_model=start, alphas=[0.5])
    one, two = (load_file(folder / "model.safetensors") for folder in (runs[0], start))
    made = load_file(soup.save_pretrained(tmp_path / "soup") / "model.safetensors")
    for name in one:
        mean = (one[name].double() * 0.5 + two[name].double() * 0.5).float()
        assert torch.equal(made[name], mean)
    assert [row.alpha for row in soup.selection.trials if row.alpha is not None] == [0.5]
    assert soup.selection.plot().axes[0].get_xlabel().startswith("alpha")


@pytest.mark.parametrize(
    ("error", "match", "options"),
    [
        (RecipeError, "base_model=", {"strategy": "interpolate", "evaluator": DATA}),
        (RecipeError, "pass evaluator=", {"strategy": "greedy_best_first"}),
        (RecipeError, "pass evaluator=", {"strategy": "learned"}),
        (RecipeError, "add a strategy and evaluator", {"strategy": "greedy", "folds": 3}),
        (RecipeError, "no executor", {"strategy": "greedy", "evaluator": DATA, "executor": "slurm"}),
        (RecipeError, 'no module "encoder.layer.7"', {"strategy": "layerwise", "modules": ["encoder.layer.7"]}),
        (RecipeError, "folds is 1", {"strategy": "greedy", "evaluator": DATA, "folds": 1}),
        (RecipeError, "holdout is 1.0", {"strategy": "greedy", "evaluator": DATA, "holdout": 1.0}),
        (
            EvaluationError,
            "run-0: .*NaN",
            {"strategy": "greedy", "evaluator": hf_soup.Evaluator(DATA, metric=lambda predictions: float("nan"))},
        ),
        (EvaluationError, "run-0: .*NaN", {"strategy": "greedy", "evaluator": lambda model: float("nan")}),
        (EvaluationError, "needs examples", {"strategy": "learned", "evaluator": lambda model: 0.5}),
        (EvaluationError, "needs examples", {"strategy": "diverse", "evaluator": lambda model: 0.5}),
        (RecipeError, 'alone, not with "median"', {"strategy": "learned", "evaluator": DATA, "method": "median"}),
        (RecipeError, 'alone, not with "ties"', {"strategy": "interpolate", "evaluator": DATA, "method": "ties"}),
        (RecipeError, '"tolerance" is float', {"strategy": "greedy", "evaluator": DATA, "tolerance": "a"}),
        (RecipeError, '"max_ingredients" is int', {"strategy": "greedy", "evaluator": DATA, "max_ingredients": 1.5}),
        (RecipeError, '"alphas" is Sequence', {"strategy": "interpolate", "evaluator": DATA, "alphas": 0.5}),
        (RecipeError, "needs weights, such as", {"strategy": "weighted"}),
        (RecipeError, "finds the weights itself", {"strategy": "greedy", "weights": [1, 1, 1, 1], "evaluator": DATA}),
    ],
)
def test_bad_input_is_told(runs, error, match, options):
    """Invalid arguments raise an error that says what to do."""
    if "modules" in options:
        options = {"evaluator": DATA, **options}
    with pytest.raises(error, match=match):
        hf_soup.merge(runs, **options)


def test_a_base_model_of_another_architecture_is_refused(runs, image_runs, tmp_path):
    """A base model of another architecture or width raises an IngredientError."""
    wide = testing.save_text_model(testing.tiny_text_model(0, hidden_size=16), tmp_path / "wide")
    for base in (image_runs[0], wide):
        with pytest.raises(IngredientError, match="is not a base model of"):
            hf_soup.merge(runs, strategy="interpolate", evaluator=DATA, base_model=base)


def test_a_function_of_a_model_gets_a_model_of_its_own(runs):
    """An evaluator function gets a fresh model each time, so changes to it do not affect the next trial."""
    seen = []

    def spoil(model):
        seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        return float(len(seen))

    hf_soup.merge(runs[:2], strategy="greedy", evaluator=spoil)
    assert all(any(tensor.any() for name, tensor in state.items() if "weight" in name) for state in seen)


def test_large_outputs_are_not_kept_but_their_score_is(runs, monkeypatch):
    """Large outputs of soups are not cached, but their scores are."""
    monkeypatch.setattr(cache, "LARGE", 10)
    for metric in ("loss", "accuracy"):
        evaluator = hf_soup.Evaluator(DATA, metric=metric)
        first = hf_soup.merge(runs, strategy="pruned", evaluator=evaluator)
        kinds = [row.value_type for row in cache.kept() if " + " in row.about]
        assert set(kinds) == {"score"}
        assert hf_soup.merge(runs, strategy="pruned", evaluator=evaluator).recipe.names == first.recipe.names


def test_without_ray_the_pip_line_is_told(runs, monkeypatch):
    """If ray is not installed, an error with the pip command is raised."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'hf-soup\[ray\]'"):
        hf_soup.merge(runs, strategy="greedy", evaluator=DATA, executor="ray")


def test_why_only_one_was_kept(runs, tmp_path):
    """For two unrelated models the reason is a barrier or a cost."""
    texts = testing.tiny_texts(120, seed=8)
    folder = tmp_path / "sweeps"
    found = []
    for seed in range(2):
        base = testing.save_text_model(testing.tiny_text_model(seed * 50), folder / f"base-{seed}")
        args = {"num_train_epochs": 12, "per_device_train_batch_size": 8, "learning_rate": 5e-3}
        options = {"validation": texts, "keep": "last", "output_dir": folder / str(seed), "training_args": args}
        run = hf_soup.sweep(base, texts, space=[{}], **options)[0]
        found.append(run.folder.rename(folder / f"unrelated-{seed}"))
    selection = hf_soup.merge(found, strategy="greedy", evaluator=testing.tiny_texts(200, seed=9)).selection
    assert "across a barrier" in selection.why or "cost more than they bring" in selection.why
