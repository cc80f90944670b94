"""Similarities of one module, one tensor or one pair of models, as values, and their form in tables.

The origin of the numbers is unknown here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple


if TYPE_CHECKING:
    import numpy as np


HEAD = (
    "module",
    "cosine of weights",
    "cosine of change",
    "same sign",
    "distance",
    "angle to mean",
    "angle to base",
)
OF_CHANGES = ("cosine of change", "same sign", "angle to base")  # columns that need a base model


class Spread(NamedTuple):
    """A measure over all pairs of models.

    Args:
        mean (`float`):
            Mean of the values.
        least (`float`), greatest (`float`):
            Smallest and largest value.
    """

    mean: float
    least: float
    greatest: float


class TensorSimilarity(NamedTuple):
    """The similarity of one tensor or module, over all pairs of models.

    Args:
        name (`str`):
            Name of the tensor or module.
        region (`str`):
            `"body"` or `"head"`.
        elements (`int`):
            Number of elements.
        weights ([`Spread`], *optional*):
            Cosine of the weights; none of one model alone.
        deltas ([`Spread`], *optional*):
            Cosine of what fine-tuning changed; none where nothing changed.
        distance (`float`):
            Mean L2 distance of two models.
        relative (`float`, *optional*):
            The same number, relative to the mean length of the weights.
        angle_to_base (`float`, *optional*):
            Mean angle between a model and the base model, in degrees.
        angle_to_mean (`float`, *optional*):
            Mean angle between a model and the mean of all, in degrees.
        signs (`float`, *optional*):
            Mean share of elements whose deltas point the same way, of those that both changed.
    """

    name: str
    region: str
    elements: int
    weights: Spread | None
    deltas: Spread | None
    distance: float
    relative: float | None
    angle_to_base: float | None
    angle_to_mean: float | None
    signs: float | None


class PairSimilarity(NamedTuple):
    """The similarity of two models.

    Args:
        one (`str`), other (`str`):
            The two models.
        weights (`float`), deltas (`float`):
            Cosine of their weights, and of what fine-tuning changed.
        distance (`float`):
            L2 distance of their weights.
        signs (`float`):
            Share of elements whose deltas point the same way, of those that both changed.
    """

    one: str
    other: str
    weights: float
    deltas: float
    distance: float
    signs: float


def spread_of_pairs(matrix: np.ndarray) -> Spread | None:
    """Mean, minimum and maximum of all pairs; `None` for a single model."""
    import numpy as np

    pairs = matrix[np.triu_indices(len(matrix), 1)]  # each pair once: the matrix is symmetric
    pairs = pairs[np.isfinite(pairs)]  # NaN represents a pair without a value
    if not len(pairs):
        return None
    return Spread(float(pairs.mean()), float(pairs.min()), float(pairs.max()))


def cells_of(similarity: TensorSimilarity) -> list[str]:
    """The cells of a row of the table, in the order of `HEAD`."""
    return [
        similarity.name,
        _range(similarity.weights),
        _range(similarity.deltas),
        _number(similarity.signs, ".1%"),
        _number(similarity.distance, ".4g"),
        _number(similarity.angle_to_mean, ".2f"),
        _number(similarity.angle_to_base, ".2f"),
    ]


def _range(spread: Spread | None) -> str:
    """A spread in a cell: mean [least, greatest]."""
    if spread is None:
        return "-"
    return f"{spread.mean:.3f} [{spread.least:.3f}, {spread.greatest:.3f}]"


def _number(value: float | None, form: str) -> str:
    """A number in a cell; `-` if it is unknown."""
    return "-" if value is None else format(value, form)


def flat_row(similarity: TensorSimilarity) -> dict[str, Any]:
    """A row of a data frame: a column for each number."""
    row = similarity._asdict()
    for measure in ("weights", "deltas"):
        # A cell of a data frame holds one number, so a spread becomes three columns.
        mean, least, greatest = row.pop(measure) or (None, None, None)
        row |= {f"{measure}_mean": mean, f"{measure}_min": least, f"{measure}_max": greatest}
    return row
