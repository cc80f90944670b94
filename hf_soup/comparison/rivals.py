"""The models that soups are compared with (rivals), and the differences from them on the same examples.

Differences and their intervals are computed here; `verdict.py` draws conclusions from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..metrics.predictions import Predictions, right
from ..metrics.statistics import interval, mcnemar
from ..types import Score, best_of
from .comparison import TEST, VALIDATION, Difference, ModelScores, Rival
from .measured import Measured


def best_single_model(members: Mapping[str, Measured], lead: Score, single_scores: Mapping[str, Score]) -> str | None:
    """The best ingredient on the validation set, or else by the scores that selection has recorded.

    Args:
        members (`Mapping[str, Measured]`):
            Measurements of the ingredients.
        lead ([`Score`]):
            A score by the metric that ranks the models.
        single_scores (`Mapping[str, Score]`):
            Score of each ingredient recorded by selection.

    Returns:
        `str`: the name; `None` if neither has scored all ingredients.
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
    """The ensemble that soups are compared with: the first one with a score by the metric on the test set.

    Args:
        models (`Sequence[ModelScores]`):
            Rows of the table.
        metric (`str`):
            Metric that ranks the models.
    """
    for model in models:
        # Metrics of texts have no scores of ensembles, and metrics of probabilities have no score of a vote.
        if model.role == "ensemble" and model.score(TEST, metric) is not None:
            return model.name
    return None


def rivals_of_soups(
    measured: Mapping[str, Measured], single: str | None, ensemble: str | None
) -> dict[Rival, Measured]:
    """The models that each soup is compared with, if there are any.

    Args:
        measured (`Mapping[str, Measured]`):
            Measurements of all models.
        single (`str`, *optional*), ensemble (`str`, *optional*):
            Names of the best single model and of the ensemble.
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
    """The differences between a soup and its rivals on every test set.

    Args:
        rivals (`Mapping[str, Measured]`):
            Measurements of the rivals.
        soup ([`Measured`]):
            Measurements of the soup.
        metric (`str`):
            Metric that ranks the models.
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
    """The difference between a soup and a rival on one data set, if both have a score."""
    of_soup, of_rival = soup.estimate(set_name, metric), rival.estimate(set_name, metric)
    if of_soup is None or of_rival is None:
        return None
    value = of_soup.score.value - of_rival.score.value
    p = _mcnemar_p(soup.predictions.get(set_name), rival.predictions.get(set_name))
    if of_soup.resampled is None or of_rival.resampled is None:
        return Difference(value, p=p)
    # Both are scores on the same resamples, so effects that are common to both cancel.
    ends = interval(value, of_soup.resampled - of_rival.resampled)
    return Difference(value, ends.low, ends.high, p)


def _mcnemar_p(of_soup: Predictions | None, of_rival: Predictions | None) -> float | None:
    """The p-value of McNemar's test, if each example is either correct or wrong."""
    if of_soup is None or of_rival is None:
        return None
    one_item_each = len(of_soup.rows) == of_soup.examples  # words of one sentence are not independent
    if of_soup.kind not in ("classes", "labels") or not one_item_each:
        return None
    return mcnemar(right(of_soup), right(of_rival))
