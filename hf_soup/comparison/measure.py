"""Computes a comparison: scores of every ingredient, soup and ensemble on the same examples.

Test sets that were used for selection raise an error. The inputs are parts of recipes and opened checkpoints, not
soups.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from ..checkpoints.hub import is_hub_id
from ..errors import EvaluationError, RecipeError, warn
from ..evaluation.ensemble import ENSEMBLES, check_ensembles, make_ensembles
from ..evaluation.evaluator import Evaluator
from ..evaluation.model_maker import ModelMaker
from ..evaluation.recipe_runner import RecipeRunner
from ..plugins import load_module
from ..progress import progress_bar
from ..types import Mixture, Recipe, Score
from .comparison import SHIFTS, TEST, VALIDATION, Calibrated, Comparison, ModelScores, Role, shifted_sets
from .measured import (
    Measured,
    best_of_each_set,
    calibrations,
    estimate_scores,
    mean_of_models,
    reliability_curve,
    with_mean_of_shifts,
)
from .rivals import best_single_model, differences_from, first_ensemble, rivals_of_soups
from .verdict import summarise


if TYPE_CHECKING:
    from .measured import ScoredSet

SHARED_ROWS = 0.01  # fraction of test rows that selection may have seen without a warning
MEAN, ORACLE = "mean of ingredients", "best of each set (oracle)"


class Entry(NamedTuple):
    """One model to compare.

    Args:
        name (`str`):
            Name of the model in the table.
        role (`str`):
            Role of the model: `"ingredient"`, `"uniform"` or `"soup"`.
        maker ([`ModelMaker`]):
            Maker of the model.
        mixture ([`Mixture`]):
            Mixture to average.
        parameters (`int`):
            Number of parameters of the model.
        size (`int`, *optional*, defaults to 1):
            Number of fine-tuned models that it is made of.
    """

    name: str
    role: Literal["ingredient", "uniform", "soup"]
    maker: ModelMaker
    mixture: Mixture
    parameters: int
    size: int = 1

    @property
    def title(self) -> str:
        """Name of the model in sentences: `"the greedy soup of 4"`, or `"soup_b (4 models)"` for a soup's own name."""
        if self.name.endswith(" soup"):
            return f"the {self.name} of {self.size}" if self.size > 1 else f"the {self.name}"
        return f"{self.name} ({self.size} models)" if self.size > 1 else self.name


def compare_models(
    entries: Sequence[Entry],
    sets: Mapping[str, ScoredSet],
    *,
    task: str | None,
    ensembles: Sequence[str] | None = None,
    selected_on: Iterable[str] = (),
    single_scores: Mapping[str, Score] | None = None,
) -> Comparison:
    """Run every model on every data set, one model in memory at a time, and combine predictions to ensembles.

    Args:
        entries (`Sequence[Entry]`):
            Ingredients and soups to compare.
        sets (`Mapping[str, Evaluator | Callable]`):
            Data sets by name. `"validation"` determines the best ingredient and is used to fit temperatures and
            mixtures; scores on the others are reported. A function of a model only gives scores.
        task (`str`, *optional*):
            Task of the models; `None` if all data sets are functions.
        ensembles (`Sequence[str]`, *optional*):
            Ensembles to score: any of `"logits"`, `"probabilities"`, `"vote"` and `"mixture"`; by default all that the
            models' output allows.
        selected_on (`Iterable[str]`, *optional*):
            Fingerprints of the data used for selection or BatchNorm.
        single_scores (`Mapping[str, Score]`, *optional*):
            Score of each ingredient recorded by selection, which determines the best one if there is no validation
            set.

    Returns:
        [`Comparison`]

    Raises:
        [`EvaluationError`]: if a test set was used for selection.
        [`RecipeError`]: if an ensemble does not exist or cannot be made.
    """
    # Everything is checked before any model runs.
    if ensembles is not None:
        _check_ensembles(ensembles, sets, task)
    refuse_seen_rows(sets, selected_on)
    members = _names_of(entries, "ingredient")
    soups = [*_names_of(entries, "soup"), *_names_of(entries, "uniform")]  # the user's soups come first in summaries
    outputs = _run_models(entries, sets)
    outputs |= _combine(_some_of(outputs, members), ensembles)
    lead = _lead_score(sets[TEST], outputs[entries[0].name])
    directions = _directions(sets[TEST], lead)
    measured = _with_estimates(outputs, members, sets, directions)

    single = best_single_model(_some_of(measured, members), lead, single_scores or {})
    models = _scores_of_models(entries, measured, single)
    ensemble = first_ensemble(models, lead.metric)
    rivals = rivals_of_soups(measured, single, ensemble)
    differences = {soup: differences_from(rivals, measured[soup], lead.metric) for soup in soups}
    sizes = _sizes(sets, measured[entries[0].name])
    summary = summarise(
        differences,
        titles={entry.name: entry.title for entry in entries},
        sizes=sizes,
        metric=lead.metric,
        higher_is_better=lead.higher_is_better,
        single=single,
        ensemble=ensemble,
        members=len(members),
        calibrations=_calibrations_on_test(models),
        twins=_twins(outputs, soups),
    )
    return Comparison(
        metrics=directions,
        sizes=sizes,
        models=models,
        differences=differences,
        summary=summary,
        curves=_curves(models, measured, [single, *soups, ensemble]),
        sources=_hub_sources(sets),
    )


def _names_of(entries: Sequence[Entry], role: Literal["ingredient", "uniform", "soup"]) -> list[str]:
    """The names of the models with a role, in order."""
    return [entry.name for entry in entries if entry.role == role]


def _calibrations_on_test(models: Sequence[ModelScores]) -> dict[str, Calibrated]:
    """Model -> its calibration on the test set, for models that have one."""
    calibrations = {}
    for model in models:
        if TEST in model.calibration:
            calibrations[model.name] = model.calibration[TEST]
    return calibrations


def _twins(outputs: Mapping[str, Measured], soups: Sequence[str]) -> dict[str, str]:
    """Soup -> the first soup with the same outputs on every example, for soups that have one."""
    twins = {}
    for place, soup in enumerate(soups):
        for earlier in soups[:place]:
            if earlier not in twins and outputs[soup].equals(outputs[earlier]):
                twins[soup] = earlier
    return twins


def _identity(entry: Entry) -> str:
    """A digest of everything that determines an average; for linear ones, order and scale do not matter."""
    recipe = entry.maker.setup.recipe(entry.mixture)
    if recipe.method == "linear":
        recipe = _in_one_order(recipe)
    return recipe.fingerprint()


def _in_one_order(recipe: Recipe) -> Recipe:
    """The same average with its ingredients sorted by name, weights that sum to 1, and no weights of 0."""
    used = sorted(recipe.mixture.used)
    places = [recipe.names.index(name) for name in used]
    weights = {}
    for module, row in recipe.weights_by_module.items():
        total = math.fsum(row)
        # 12 digits, so that 1/3 and 2/6 are equal despite differences in the last bit
        weights[module] = tuple(round(row[place] / total, 12) for place in places)
    ingredients = tuple(recipe.ingredients[place] for place in places)
    alignments = {name: order for name, order in recipe.alignments.items() if name in used}
    return replace(recipe, ingredients=ingredients, weights=weights, alignments=alignments)


def _some_of(models: Mapping[str, Measured], names: Sequence[str]) -> dict[str, Measured]:
    """The models with these names, in the order of the names."""
    return {name: models[name] for name in names}


def _check_ensembles(ensembles: Sequence[str], sets: Mapping[str, ScoredSet], task: str | None) -> None:
    """Raise an error for ensembles that cannot be made of these models and data sets, before any model runs."""
    if not ensembles:
        return
    if task is None:
        raise RecipeError("ensembles need predictions, which functions do not give: give a data set to score on.")
    check_ensembles(ensembles, load_module("task", task).KIND, fitted=isinstance(sets.get(VALIDATION), Evaluator))


def refuse_seen_rows(sets: Mapping[str, ScoredSet], selected_on: Iterable[str]) -> None:
    """Raise an error for a test set that was used for selection, and warn of more than 1 % of shared rows."""
    seen = set(selected_on)
    validation = sets.get(VALIDATION)
    validation_rows: frozenset[str] = frozenset()
    if isinstance(validation, Evaluator):
        seen.add(validation.input_hashes.fingerprint)
        validation_rows = validation.input_hashes.row_hashes
    for name, scored_set in sets.items():
        if name == VALIDATION or not isinstance(scored_set, Evaluator):
            continue
        inputs = scored_set.input_hashes
        # Data used for selection is identified by all of its columns, or by the model's inputs.
        if seen & {scored_set.content_hashes.fingerprint, inputs.fingerprint}:
            raise EvaluationError(
                f"the set {name!r} has the same rows as the data used for selection, on which the soup's score is too "
                "optimistic. Use other data."
            )
        # Only the fingerprints of earlier selections are known, so shared rows are those with this validation set.
        shared = len(inputs.row_hashes & validation_rows)
        if shared > SHARED_ROWS * len(inputs.row_hashes):
            warn(f"{shared} of the {len(inputs.row_hashes)} rows of {name!r} are also in the data used for selection.")


def _run_models(entries: Sequence[Entry], sets: Mapping[str, ScoredSet]) -> dict[str, Measured]:
    """Predictions and function scores of every model, with one model in memory at a time."""
    outputs: dict[str, Measured] = {}
    previous: ModelMaker | None = None
    averages: dict[str, str] = {}  # the key of an average -> the first soup that has it
    for entry in progress_bar(entries, desc="Comparing", unit="model"):
        if entry.role != "ingredient":
            first = averages.setdefault(_identity(entry), entry.name)
            if first != entry.name:  # a soup of all ingredients is the uniform soup, which has been run
                outputs[entry.name] = outputs[first]
                continue
        # Entries of one maker share a model in memory, which is filled for each of them in turn.
        if previous is not None and previous is not entry.maker:
            previous.release()
        outputs[entry.name] = _run_entry(entry, sets)
        previous = entry.maker
    return outputs


def _run_entry(entry: Entry, sets: Mapping[str, ScoredSet]) -> Measured:
    """Run one model on every data set; it is averaged at most once, if not all results are kept from before."""
    predictions, functions = {}, {}
    for name, scored_set in sets.items():
        if isinstance(scored_set, Evaluator):
            runner = RecipeRunner(entry.maker, scored_set, keep_large=True)
            predictions[name] = runner.predictions(entry.mixture)
        else:
            functions[name] = scored_set
    # Functions come last: they may change the model, which is then built again for the next entry.
    function_scores = {}
    for name, function in functions.items():
        function_scores[name] = function(entry.maker.model(entry.mixture))
    if functions:
        entry.maker.release()
    return Measured(predictions, function_scores)


def _combine(members: Mapping[str, Measured], ensembles: Sequence[str] | None) -> dict[str, Measured]:
    """Predictions of the ensembles on the data sets for which the ingredients have predictions."""
    predictions = {name: model.predictions for name, model in members.items()}
    combined = {}
    for name, (outputs, weights) in make_ensembles(predictions, ensembles).items():
        combined[name] = Measured(outputs, weights=weights)
    return combined


def _lead_score(test: ScoredSet, first: Measured) -> Score:
    """The test score of one model, whose metric ranks the models."""
    if isinstance(test, Evaluator):
        return test.score(first.predictions[TEST])
    return first.function_scores[TEST]


def _directions(test: ScoredSet, lead: Score) -> dict[str, bool | None]:
    """Every value that is measured, and whether higher is better if known; the first one ranks the models."""
    directions: dict[str, bool | None] = {lead.metric: lead.higher_is_better}
    for name in lead.others:
        directions[name] = None  # a function defines the direction of the first value only
        if isinstance(test, Evaluator):
            directions[name] = test.direction(name)
    return directions


def _with_estimates(
    outputs: Mapping[str, Measured],
    members: Sequence[str],
    sets: Mapping[str, ScoredSet],
    directions: Mapping[str, bool | None],
) -> dict[str, Measured]:
    """The models with scores in the order of the table; the two summaries of the ingredients come below them."""
    measured = estimate_scores(outputs, sets)
    shifted = shifted_sets(sets)
    if len(shifted) > 1:
        measured = {name: with_mean_of_shifts(model, shifted) for name, model in measured.items()}
    if len(members) < 2:
        return measured
    in_order = _some_of(measured, members)
    ingredients = list(in_order.values())
    in_order[MEAN] = mean_of_models(ingredients)
    in_order[ORACLE] = best_of_each_set(ingredients, directions)
    return in_order | measured  # existing names keep their place


def _scores_of_models(
    entries: Sequence[Entry], measured: Mapping[str, Measured], chosen: str | None
) -> tuple[ModelScores, ...]:
    """The rows of the table."""
    by_name = {entry.name: entry for entry in entries}
    members = [entry for entry in entries if entry.role == "ingredient"]
    models = []
    for name, model in measured.items():
        role: Role
        if name == chosen:
            role, run = "chosen", [by_name[name]]
        elif name in by_name:
            role, run = by_name[name].role, [by_name[name]]
        elif name == MEAN:  # the cost is that of any one ingredient
            role, run = "mean", members[:1]
        elif name == ORACLE:
            role, run = "oracle", members[:1]
        else:
            role, run = "ensemble", members
        models.append(_scores_of_model(name, role, model, run))
    return tuple(models)


def _scores_of_model(name: str, role: Role, model: Measured, run: Sequence[Entry]) -> ModelScores:
    """One row of the table; `run` are the models that are run for each example."""
    test = model.predictions.get(TEST)
    latency = None
    if test is not None:
        latency = 1000 * test.seconds / max(test.examples, 1)
    calibration = {}
    if name != ENSEMBLES["vote"]:  # shares of votes are not probabilities
        calibration = calibrations(model.predictions)
    return ModelScores(
        name,
        role,
        model.scores,
        passes=len(run),
        parameters=sum(entry.parameters for entry in run),
        latency=latency,
        calibration=calibration,
        weights=dict(model.weights),
    )


def _sizes(sets: Mapping[str, ScoredSet], first: Measured) -> dict[str, int]:
    """Number of examples of each data set; 0 if a function scored, and for the mean of shifts."""
    sizes = dict.fromkeys(sets, 0)
    for name, predictions in first.predictions.items():
        sizes[name] = predictions.examples
    if len(shifted_sets(sets)) > 1:
        sizes[SHIFTS] = 0
    return sizes


def _curves(
    models: Sequence[ModelScores], measured: Mapping[str, Measured], names: Sequence[str | None]
) -> dict[str, dict[str, list[float]]]:
    """The reliability diagrams of these models in the order of the table, if they have a calibration."""
    curves = {}
    for model in models:
        if model.name in names and TEST in model.calibration:
            curves[model.name] = reliability_curve(measured[model.name].predictions[TEST])
    return curves


def _hub_sources(sets: Mapping[str, ScoredSet]) -> dict[str, str]:
    """Hub ids of the data sets that have one."""
    sources = {}
    for name, scored_set in sets.items():
        if not isinstance(scored_set, Evaluator) or scored_set.path is None:
            continue
        if is_hub_id(scored_set.path):
            sources[name] = scored_set.path
    return sources
