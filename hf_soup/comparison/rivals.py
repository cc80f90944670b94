"""The models that soups are compared with, and the differences from them on the same examples.

It says how large a difference is and how sure; what follows from it is said in `verdict.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..metrics.predictions import Predictions, right
from ..metrics.statistics import interval, mcnemar
from ..types import Score, best_of
from .comparison import TEST, VALIDATION, Difference, ModelScores, Rival
from .measured import Measured


def best_single_model(members: Mapping[str, Measured], lead: Score, single_scores: Mapping[str, Score]) -> str | None:
    """The ingredient that is best on the validation set, else by what selection has recorded of all ingredients.

    Args:
        members (`Mapping[str, Measured]`):
            The ingredients.
        lead ([`Score`]):
            A score by the metric that counts.
        single_scores (`Mapping[str, Score]`):
            Ingredient -> the score that selection has recorded.

    Returns:
        `str`, or `None` where neither has scored all ingredients: of some of them the best is not known.
    """
    if not members:
        return None
    values = {}
    for name, model in members.items():
        estimate = model.estimate(VALIDATION, lead.metric)
        if estimate is not None:
            values[name] = estimate.score.value
    if len(values) == len(members):
        return best_of(values, lead.higher_is_better)
    if values or not members.keys() <= single_scores.keys():
        return None
    return max(members, key=lambda name: single_scores[name].rank_key)


def first_ensemble(models: Sequence[ModelScores], metric: str) -> str | None:
    """The ensemble that soups are compared with: the first that the metric scores on the test set.

    Args:
        models (`Sequence[ModelScores]`):
            The lines of the table.
        metric (`str`):
            The metric that counts.
    """
    for model in models:
        # A metric that reads texts scores no ensemble, and one of probabilities no vote.
        if model.role == "ensemble" and model.score(TEST, metric) is not None:
            return model.name
    return None


def rivals_of_soups(
    measured: Mapping[str, Measured], single: str | None, ensemble: str | None
) -> dict[Rival, Measured]:
    """The models that each soup is compared with, as far as there are any.

    Args:
        measured (`Mapping[str, Measured]`):
            All models.
        single (`str`, *optional*), ensemble (`str`, *optional*):
            The single model and the ensemble.
    """
    rivals: dict[Rival, Measured] = {}
    if single is not None:
        rivals["single"] = measured[single]
    if ensemble is not None:
        rivals["ensemble"] = measured[ensemble]
    return rivals


def differences_from(
    rivals: Mapping[Rival, Measured], soup: Measured, metric: str
) -> dict[str, dict[Rival, Difference]]:
    """How much higher one soup scores than its rivals on every set that reports.

    Args:
        rivals (`Mapping[str, Measured]`):
            What it is compared with.
        soup ([`Measured`]):
            The soup.
        metric (`str`):
            The metric that counts.
    """
    differences: dict[str, dict[Rival, Difference]] = {}
    for set_name in soup.estimates:
        if set_name == VALIDATION:
            continue
        differences[set_name] = {}
        for rival, model in rivals.items():
            difference = _difference(soup, model, set_name, metric)
            if difference is not None:
                differences[set_name][rival] = difference
    return differences


def _difference(soup: Measured, rival: Measured, set_name: str, metric: str) -> Difference | None:
    """How much higher one soup scores than one rival on one set, if both are scored there."""
    of_soup, of_rival = soup.estimate(set_name, metric), rival.estimate(set_name, metric)
    if of_soup is None or of_rival is None:
        return None
    value = of_soup.score.value - of_rival.score.value
    p = _mcnemar_p(soup.predictions.get(set_name), rival.predictions.get(set_name))
    if of_soup.resampled is None or of_rival.resampled is None:
        return Difference(value, p=p)
    # Both are scores on the same resamples, so that what makes a resample hard for both cancels.
    ends = interval(value, of_soup.resampled - of_rival.resampled)
    return Difference(value, ends.low, ends.high, p)


def _mcnemar_p(of_soup: Predictions | None, of_rival: Predictions | None) -> float | None:
    """McNemar's p where each example is right or wrong as a whole."""
    if of_soup is None or of_rival is None:
        return None
    one_item_each = len(of_soup.rows) == of_soup.examples  # words of one sentence are not independent
    if of_soup.kind not in ("classes", "labels") or not one_item_each:
        return None
    return mcnemar(right(of_soup), right(of_rival))
