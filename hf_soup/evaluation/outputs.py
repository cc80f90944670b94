"""What a model predicts on some rows of a data set, whole or as far as it was run."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..errors import EvaluationError
from ..metrics.predictions import Predictions, joined


if TYPE_CHECKING:
    import numpy as np


class Outputs(NamedTuple):
    """The predictions of a model on the rows that it was run on.

    Args:
        predictions ([`Predictions`]):
            In the order of the data set.
        rows (`np.ndarray`):
            The rows that it was run on, in the order of the run.
        whole (`bool`):
            Whether these are all.
    """

    predictions: Predictions
    rows: np.ndarray
    whole: bool


def joined_outputs(before: Outputs, after: Outputs) -> Outputs:
    """The outputs of a run that was stopped, and of the run that went on with the other rows."""
    import numpy as np

    predictions = joined([before.predictions, after.predictions])
    return Outputs(predictions, np.concatenate([before.rows, after.rows]), after.whole)


def refuse_not_finite(predictions: Predictions, split: str) -> None:
    """Refuse predictions that no metric can be computed of.

    Raises:
        [`EvaluationError`]: naming the first row with NaN or infinity.
    """
    import numpy as np

    if not predictions.rows.size or np.isfinite(predictions.logits).all():
        return
    # One value or one for each class: whatever an item has, all of it has to be finite.
    finite = np.isfinite(predictions.logits.reshape(len(predictions.rows), -1)).all(axis=1)
    first_wrong = predictions.rows[~finite].min()
    raise EvaluationError(f"the model gives NaN or infinity on {split}, first on row {first_wrong}.")
