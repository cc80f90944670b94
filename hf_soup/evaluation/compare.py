"""The comparison: every ingredient, soup and ensemble on the same examples, and what follows from it.

Selection has seen validation; what is reported here it has not, or the comparison refuses. It takes recipes' parts
and opened checkpoints, not soups.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from ..calibration import calibrate, fit_temperature, with_temperature
from ..checkpoints.hub import is_hub_id
from ..errors import EvaluationError, RecipeError, warn
from ..lookup import load_module
from ..metrics import BUILT_IN, Metric
from ..outputs import Predictions, right
from ..progress import progress_bar
from ..types import Score
from .cache import cached_predictions
from .comparison import (
    SHIFTS,
    TEST,
    VALIDATION,
    Calibrated,
    Comparison,
    Difference,
    Interval,
    Row,
)
from .ensemble import ENSEMBLES, check_ensembles, make_ensembles
from .evaluator import Evaluator
from .statistics import interval, mcnemar, resampled
from .verdict import summarise


if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel

SHARED_ROWS = 0.01  # of the test rows may be known from selection before it is worth a warning
MEAN, ORACLE = "mean of ingredients", "best of each set (oracle)"


def _never_kept() -> None:
    return None


class Entry(NamedTuple):
    """One model to compare.

    Args:
        name (`str`):
            What the table calls it.
        kind (`str`):
            `"ingredient"`, `"uniform"`, `"soup"`.
        load (`Callable[[], PreTrainedModel]`):
            Gives the model, when its turn comes.
        parameters (`int`):
            How many it has.
        fingerprint (`Callable[[], str | None]`, *optional*):
            Gives that of its recipe as it is now, under which its predictions are kept; `None` where they may not be.
        size (`int`, *optional*, defaults to 1):
            How many went into it.
    """

    name: str
    kind: str
    load: Callable[[], PreTrainedModel]
    parameters: int
    fingerprint: Callable[[], str | None] = _never_kept
    size: int = 1


@dataclass
class Measured:
    """What is known of one model.

    Args:
        scores (`dict[str, dict[str, Interval]]`):
            Set -> metric -> score.
        spread (`dict[str, dict[str, np.ndarray]]`):
            Set -> metric -> its values on resamples that all models share.
        said (`dict[str, Predictions]`):
            Set -> predictions.
        weights (`dict[str, float]`, *optional*):
            Of the ingredients, in a learned mixture.
        told (`dict[str, Score]`, *optional*):
            Set -> what a function said, where one scores.
    """

    scores: dict[str, dict[str, Interval]] = field(default_factory=dict)
    spread: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    said: dict[str, Predictions] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    told: dict[str, Score] = field(default_factory=dict)


def compare_models(
    entries: Sequence[Entry],
    sets: Mapping[str, Evaluator | Callable[[PreTrainedModel], Score]],
    *,
    task: str,
    ensembles: Sequence[str] | None = None,
    selected_on: Iterable[str] = (),
    alone: Mapping[str, float] | None = None,
) -> Comparison:
    """Run every entry over every set, one model in memory at a time, and put ensembles together from what they said.

    Args:
        entries (`Sequence[Entry]`):
            Ingredients and soups.
        sets (`Mapping[str, Evaluator | Callable]`):
            Name -> examples; `"validation"` decides which ingredient is best and fits temperatures and mixtures, the
            others report. A function of a model gives a score and nothing else.
        task (`str`):
            What the models do.
        ensembles (`Sequence[str]`, *optional*):
            Of `"logits"`, `"probabilities"`, `"vote"`, `"mixture"`; by default all that the models' output allows.
        selected_on (`Iterable[str]`, *optional*):
            Fingerprints of the data that selection, or BatchNorm, has seen.
        alone (`Mapping[str, float]`, *optional*):
            How good each ingredient was for selection, higher is better: decides who is best where there is no
            validation set.

    Returns:
        [`Comparison`]

    Raises:
        [`EvaluationError`]: if a set that reports is the set that selection has seen.
        [`RecipeError`]: if there is no such ensemble.
    """
    if ensembles and task == "auto":
        raise RecipeError("ensembles are made of predictions, and functions give none: give a data set to score on.")
    if ensembles is not None:
        check_ensembles(ensembles, load_module("task", task).KIND, fitted=isinstance(sets.get(VALIDATION), Evaluator))
    refuse_seen_rows(sets, selected_on)
    found = {entry.name: Measured() for entry in entries}
    for entry in progress_bar(entries, desc="Comparing", unit="model"):
        _run_entry(entry, sets, task, found[entry.name])
    single = [entry.name for entry in entries if entry.kind == "ingredient"]
    for name, (said, weights) in make_ensembles({name: found[name].said for name in single}, ensembles).items():
        found[name] = Measured(said=said, weights=weights)
    directions = _directions(sets, task, found)
    for at, (part, evaluator) in enumerate(sets.items()):
        if isinstance(evaluator, Evaluator):
            _measure(part, evaluator.metrics(task), found, seed=at)
    shifted = [part for part in sets if part not in (VALIDATION, TEST)]
    if len(shifted) > 1:
        _mean_of_shifts(found, shifted)
    lead = next(iter(directions))
    found = _with_summaries(found, single, directions)
    chosen = _chosen(found, single, lead, directions[lead], alone)
    kinds = {entry.name: "chosen" if entry.name == chosen else entry.kind for entry in entries}
    kinds |= {MEAN: "mean", ORACLE: "oracle"}
    rows = _rows(entries, found, kinds)
    rival = next((row.name for row in rows if row.kind == "ensemble" and lead in row.scores.get(TEST, {})), None)
    soups = [name for kind in ("soup", "uniform") for name in kinds if kinds[name] == kind]
    differences = {
        soup: {
            part: _differences(found, soup, chosen, rival, part, lead)
            for part in found[soup].scores
            if part != VALIDATION
        }
        for soup in soups
    }
    sizes = {part: _size(part, found) for part in [*sets, *([SHIFTS] if len(shifted) > 1 else [])]}
    called = {entry.name: f"{entry.name} of {entry.size}" if entry.size > 1 else entry.name for entry in entries}
    votes = ENSEMBLES["vote"]
    shown = [name for name in (chosen, *soups, rival) if name and name in found and name != votes]
    return Comparison(
        directions,
        sizes,
        rows,
        differences,
        summarise(differences, called, sizes, directions, chosen, rival, len(single)),
        {
            row.name: _curve(found[row.name].said[TEST])
            for row in rows
            if row.name in shown and TEST in row.calibration
        },
        {part: item.path for part, item in sets.items() if isinstance(item, Evaluator) and is_hub_id(item.path)},
    )


def refuse_seen_rows(sets: Mapping[str, Any], selected_on: Iterable[str]) -> None:
    """What selects may not report: the same rows are an error, more than 1 % of shared rows a warning."""
    known = {name: evaluator for name, evaluator in sets.items() if isinstance(evaluator, Evaluator)}
    validation = known.pop(VALIDATION).inputs if VALIDATION in known else None
    seen = {*selected_on, *([validation.fingerprint] if validation else [])}
    for name, evaluator in known.items():
        if seen & {evaluator.rows.fingerprint, evaluator.inputs.fingerprint}:
            raise EvaluationError(
                f"the set {name!r} has the very rows that selection has seen and would flatter the soup. Take another."
            )
        shared = len(evaluator.inputs.rows & validation.rows) if validation else 0
        if shared > SHARED_ROWS * len(evaluator.inputs.rows):
            warn(f"{shared} of the {len(evaluator.inputs.rows)} rows of {name!r} are also in the data that selects.")


def _run_entry(entry: Entry, sets: Mapping[str, Any], task: str, found: Measured) -> None:
    """Every set for one model, which is loaded once and only if something is not kept from before."""
    loaded: list[PreTrainedModel] = []

    def load() -> PreTrainedModel:
        if not loaded:
            loaded.append(entry.load())
        return loaded[0]

    for part, evaluator in sets.items():
        if isinstance(evaluator, Evaluator):
            found.said[part] = cached_predictions(evaluator, entry.fingerprint, task, load)
        else:
            score = found.told[part] = evaluator(load())
            values = {score.metric: score.value, **score.others}
            found.scores[part] = {name: Interval(value) for name, value in values.items()}


def _directions(sets: Mapping[str, Any], task: str, found: Mapping[str, Measured]) -> dict[str, bool | None]:
    """Every value that is measured, first that which selects on test, and whether higher is better, if known."""
    test = sets[TEST]
    first = next(iter(found.values()))
    if not isinstance(test, Evaluator):
        told = first.told[TEST]
        return {told.metric: told.higher_is_better, **dict.fromkeys(told.others)}
    score = test.score(first.said[TEST], task)
    return {score.metric: score.higher_is_better} | {name: test.direction(name, task) for name in score.others}


def _measure(part: str, metrics: Sequence[Metric], found: Mapping[str, Measured], *, seed: int) -> None:
    """Scores of all models on one set, with intervals from resamples that they share."""
    for metric in metrics:
        read = metric.needs_texts or (
            metric.identity not in BUILT_IN and any(one.said[part].texts for one in found.values())
        )
        able = {name: one for name, one in found.items() if one.said[part].texts or not read}
        if metric.identity in BUILT_IN and BUILT_IN[metric.identity].takes in ("probabilities", "losses"):
            able.pop(ENSEMBLES["vote"], None)  # shares of votes are no probabilities
        values = {name: metric.compute(one.said[part]) for name, one in able.items()}
        for value in next(iter(values.values()), {}):
            spread = resampled(metric, value, [one.said[part] for one in able.values()], seed=seed)
            for (name, one), its in zip(able.items(), spread, strict=True):
                one.scores.setdefault(part, {})[value] = interval(values[name][value], its)
                one.spread.setdefault(part, {})[value] = its


def _with_summaries(
    found: Mapping[str, Measured], single: Sequence[str], directions: Mapping[str, bool | None]
) -> dict[str, Measured]:
    """With the mean of the ingredients, and on each set the best of them, which nobody could have known."""
    import numpy as np

    if len(single) < 2:
        return dict(found)
    mean, best = Measured(), Measured()
    for part in found[single[0]].scores:
        for name in found[single[0]].scores[part]:
            each = [found[member].scores[part][name] for member in single]
            known = [found[member].spread.get(part, {}) for member in single]
            spread = [of[name] for of in known if name in of]
            value = math.fsum(score.value for score in each) / len(each)
            found_mean = interval(value, np.mean(spread, axis=0)) if spread else Interval(value)
            mean.scores.setdefault(part, {})[name] = found_mean
            if directions.get(name) is not None:
                pick = max if directions[name] else min
                best.scores.setdefault(part, {})[name] = pick(each, key=lambda score: score.value)
    summaries = {MEAN: mean, ORACLE: best}
    return {name: found[name] for name in single} | summaries | {k: v for k, v in found.items() if k not in single}


def _mean_of_shifts(found: Mapping[str, Measured], shifted: Sequence[str]) -> None:
    """The plain mean over the shifted sets as a set of its own."""
    import numpy as np

    for one in found.values():
        if any(part not in one.scores for part in shifted):
            continue
        shared = [name for name in one.scores[shifted[0]] if all(name in one.scores[part] for part in shifted)]
        one.scores[SHIFTS], one.spread[SHIFTS] = {}, {}
        for name in shared:
            value = math.fsum(one.scores[part][name].value for part in shifted) / len(shifted)
            one.scores[SHIFTS][name] = Interval(value)
            if all(name in one.spread.get(part, {}) for part in shifted):
                its = np.mean([one.spread[part][name] for part in shifted], axis=0)
                one.spread[SHIFTS][name] = its
                one.scores[SHIFTS][name] = interval(value, its)


def _chosen(
    found: Mapping[str, Measured],
    single: Sequence[str],
    metric: str,
    higher: bool,
    alone: Mapping[str, float] | None,
) -> str | None:
    """The ingredient that is best on validation: on the set that is here, else by what selection has recorded."""
    sign = 1 if higher else -1
    keys = {
        name: sign * found[name].scores[VALIDATION][metric].value
        for name in single
        if metric in found[name].scores.get(VALIDATION, {})
    }
    keys = keys or {name: alone[name] for name in single if name in (alone or {})}
    return max(single, key=keys.__getitem__) if single and len(keys) == len(single) else None


def _rows(entries: Sequence[Entry], found: Mapping[str, Measured], kinds: Mapping[str, str]) -> tuple[Row, ...]:
    known = {entry.name: entry for entry in entries}
    members = [entry for entry in entries if entry.kind == "ingredient"]
    rows = []
    for name, one in found.items():
        entry = known.get(name)
        run = [entry] if entry else members[:1] if name in (MEAN, ORACLE) else members
        test = one.said.get(TEST)
        rows.append(
            Row(
                name,
                kinds.get(name, "ensemble"),
                one.scores,
                len(run),
                sum(member.parameters for member in run),
                None if test is None else 1000 * test.seconds / max(test.examples, 1),
                {} if name == ENSEMBLES["vote"] else _calibrated(one.said),
                one.weights,
            )
        )
    return tuple(rows)


def _calibrated(said: Mapping[str, Predictions]) -> dict[str, Calibrated]:
    """Calibration on each set; the temperature is fitted on validation where that is known."""
    if not all(map(_is_classifier, said.values())):
        return {}
    temperature = fit_temperature(said[VALIDATION]) if VALIDATION in said else None
    result = {}
    for part, one in said.items():
        before = calibrate(one)
        after = None if temperature is None else calibrate(with_temperature(one, temperature))
        scaled = (temperature, after.ece, after.nll) if after else ()
        result[part] = Calibrated(*before[:5], *scaled)
    return result


def _is_classifier(said: Predictions | None) -> bool:
    """Whether calibration is defined: one class for each item."""
    return said is not None and said.kind == "classes"


def _curve(said: Predictions) -> dict[str, list[float]]:
    bins = calibrate(said).bins
    full = bins.count > 0
    return {name: getattr(bins, name)[full].tolist() for name in ("confidence", "accuracy", "count")}


def _differences(
    found: Mapping[str, Measured], soup: str, chosen: str | None, rival: str | None, part: str, metric: str
) -> dict[str, Difference]:
    """One soup against the best single model and against the ensemble on one set."""
    result = {}
    for key, other in (("single", chosen), ("ensemble", rival)):
        if other is None or any(metric not in found[name].scores.get(part, {}) for name in (soup, other)):
            continue
        value = found[soup].scores[part][metric].value - found[other].scores[part][metric].value
        ends = ()
        if all(metric in found[name].spread.get(part, {}) for name in (soup, other)):
            its = interval(value, found[soup].spread[part][metric] - found[other].spread[part][metric])
            ends = (its.low, its.high)
        result[key] = Difference(value, *ends, p=_test(found[soup].said.get(part), found[other].said.get(part)))
    return result


def _test(a: Predictions | None, b: Predictions | None) -> float | None:
    """McNemar's p where each example is right or wrong as a whole."""
    if a is None or b is None or a.kind not in ("classes", "labels") or len(a.rows) != a.examples:
        return None
    return mcnemar(right(a), right(b))


def _size(part: str, found: Mapping[str, Measured]) -> int:
    said = next(iter(found.values())).said.get(part)
    return 0 if said is None else said.examples
