"""The predictions of a model on a data set, or on the rows that it was run on."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..errors import EvaluationError
from ..metrics.predictions import Predictions, joined


if TYPE_CHECKING:
    import numpy as np


class Outputs(NamedTuple):
    """Predictions of a model on the rows that it was run on.

    Args:
        predictions ([`Predictions`]):
            Predictions in the order of the data set.
        rows (`np.ndarray`):
            Row numbers in the order of the run.
        whole (`bool`):
            Whether these are all rows.
    """

    predictions: Predictions
    rows: np.ndarray
    whole: bool


def joined_outputs(before: Outputs, after: Outputs) -> Outputs:
    """Join the outputs of a stopped run and of the run that resumed it."""
    import numpy as np

    predictions = joined([before.predictions, after.predictions])
    return Outputs(predictions, np.concatenate([before.rows, after.rows]), after.whole)


def refuse_not_finite(predictions: Predictions, split: str) -> None:
    """Raise an error for predictions from which no metric can be computed.

    Raises:
        [`EvaluationError`]: naming the first row with NaN or infinity.
    """
    import numpy as np

    if not predictions.rows.size or np.isfinite(predictions.logits).all():
        return
    # One value or one for each class: all values of an item have to be finite.
    finite = np.isfinite(predictions.logits.reshape(len(predictions.rows), -1)).all(axis=1)
    first_wrong = predictions.rows[~finite].min()
    raise EvaluationError(f"the model gives NaN or infinity on {split}, first on row {first_wrong}.")
