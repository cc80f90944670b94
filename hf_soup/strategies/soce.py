"""Soup of category experts: the best model of each group of categories that go together, with weights from a grid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ..errors import RecipeError
from ..plugins import strategy
from ..types import Choice, Ingredient, Mixture, Trials
from ._search import Search


if TYPE_CHECKING:
    import numpy as np

MOST_MIXTURES = 500  # of a grid; each of them is scored


@strategy(never_worse=True)
def soce(ingredients: Sequence[Ingredient], trials: Trials, *, together: float = 0.5, step: float = 0.1) -> Choice:
    """Average the best ingredient of each group of categories, with the weights of a grid that score best.

    Categories are the values that an evaluator gives beside the one that selects, such as one for each benchmark. Two
    of them go together if they are correlated over the ingredients; the expert of a group has the highest mean of
    standardised values in it. All categories have to be better in the direction of the metric that selects.

    Args:
        ingredients (`Sequence[Ingredient]`):
            The candidates, in any order.
        trials ([`Trials`]):
            Scorer of mixtures on validation, whose scores have categories; without any, the best ingredient is kept.
        together (`float`, *optional*, defaults to 0.5):
            Correlation from which two categories go together, from -1 to 1.
        step (`float`, *optional*, defaults to 0.1):
            Distance of the grid: each expert has a multiple of it as its weight, and at least one step.

    Returns:
        [`Choice`]: the experts with their weights, or the best single ingredient if no mixture scores higher.

    Raises:
        [`RecipeError`]: if a parameter is out of range, or the grid has more than 500 mixtures.

    Source: Maiti et al. 2025, [Souper-Model](https://arxiv.org/abs/2511.13254), with groups of categories in place of
    pairs.
    """
    if not -1 <= together <= 1:
        raise RecipeError(f"together is a correlation from -1 to 1, not {together}.")
    if not 0 < step <= 0.5:
        raise RecipeError(f"step is a part of the whole weight, above 0 and at most 0.5, not {step}.")
    search = Search(ingredients, trials, ties=False)
    values = {item.name: search.single_scores[item.name].others for item in search.ranked}
    experts = _experts(search.ranked, values, together, search.score.higher_is_better)
    if len(experts) < 2:
        return search.result()
    parts = round(1 / step)
    mixtures = []
    for shares in _compositions(parts, len(experts)):
        mixtures.append(Mixture(tuple(experts), tuple(share / parts for share in shares)))
        if len(mixtures) > MOST_MIXTURES:
            raise RecipeError(
                f"{len(experts)} experts have more than {MOST_MIXTURES} mixtures in steps of {step}: give a larger "
                "step, or a lower `together`, with which there are fewer groups."
            )
    search.attempt_best(mixtures, [_shown(mixture) for mixture in mixtures])
    return search.result()


def _shown(mixture: Mixture) -> str:
    """The ingredients of a mixture with their weights."""
    pairs = zip(mixture.names, mixture.weights, strict=True)
    return " + ".join(f"{weight:g} {name}" for name, weight in pairs)


def _experts(
    ranked: Sequence[Ingredient],
    values: Mapping[str, Mapping[str, float]],
    together: float,
    higher_is_better: bool,
) -> list[Ingredient]:
    """The best ingredient of each group of categories, each once, in the order of their scores."""
    import numpy as np

    names = sorted(set.intersection(*(set(values[item.name]) for item in ranked)))
    if len(ranked) < 2 or not names:
        return list(ranked[:1])
    table = np.array([[values[item.name][name] for name in names] for item in ranked])
    spread = table.std(axis=0)
    tells = spread > 1e-12 * np.abs(table).max(axis=0)  # a category in which all are equal has no expert
    if not tells.any():
        return list(ranked[:1])
    standardised = (table - table.mean(axis=0))[:, tells] / spread[tells]
    if not higher_is_better:
        standardised = -standardised
    chosen = set()
    for group in _groups(standardised, together):
        chosen.add(int(standardised[:, group].mean(axis=1).argmax()))  # of equal ones the better single ingredient
    return [item for place, item in enumerate(ranked) if place in chosen]


def _groups(standardised: np.ndarray, together: float) -> list[list[int]]:
    """Columns in groups, so that columns with a correlation of at least `together` are in one."""
    from scipy.sparse.csgraph import connected_components

    correlations = standardised.T @ standardised / len(standardised)
    count, labels = connected_components(correlations >= together, directed=False)
    return [[column for column, label in enumerate(labels) if label == group] for group in range(count)]


def _compositions(parts: int, count: int) -> Iterator[tuple[int, ...]]:
    """All ways to share parts among so many, with at least one for each."""
    if count == 1:
        yield (parts,)
        return
    for first in range(1, parts - count + 2):
        for rest in _compositions(parts - first, count - 1):
            yield first, *rest
