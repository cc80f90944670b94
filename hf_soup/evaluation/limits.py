"""Limits that stop a trial as soon as too few examples can still be correct."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from ..metrics.predictions import Predictions, right
from ..types import Rejected


if TYPE_CHECKING:
    import numpy as np

    from .outputs import Outputs


class Limit(NamedTuple):
    """The number of items that have to be correct, among those that count.

    Args:
        needed (`int`):
            Number of correct items that is needed.
        n (`int`):
            Number of items that count.
        rows (`np.ndarray`, *optional*):
            Rows of the data set that count; all by default.
    """

    needed: int
    n: int
    rows: np.ndarray | None = None

    def tally(self, predictions: Predictions) -> tuple[int, int]:
        """The number of items that count, and how many of them are correct."""
        counted = right(predictions)[self._counts(predictions)]
        return len(counted), int(counted.sum())

    def watch(self, earlier: Outputs | None) -> Callable[[Predictions], bool]:
        """A function of the predictions of each batch that returns whether the limit is out of reach.

        Args:
            earlier ([`Outputs`], *optional*):
                Outputs of rows that were run before.
        """
        seen, correct = 0, 0
        if earlier is not None:
            seen, correct = self.tally(earlier.predictions)

        def is_out_of_reach(predictions: Predictions) -> bool:
            nonlocal seen, correct
            more_seen, more_correct = self.tally(predictions)
            seen, correct = seen + more_seen, correct + more_correct
            unseen = self.n - seen
            return correct + unseen < self.needed

        return is_out_of_reach

    def verdict(self, outputs: Outputs | None) -> Rejected | None:
        """The item after which the limit is out of reach; `None` if it is not.

        Items are counted in the order in which rows were run, so it does not matter how many more were run.
        """
        import numpy as np

        if self.n < self.needed:  # not even all items are enough
            return Rejected(self.n, self.n, 0)
        if outputs is None:
            return None
        predictions = outputs.predictions
        place_in_run = np.empty(int(outputs.rows.max()) + 1, dtype=np.int64)
        place_in_run[outputs.rows] = np.arange(len(outputs.rows))
        counted = np.flatnonzero(self._counts(predictions))
        # Items are in the order of the data set; here they are sorted by the order of the run.
        in_turn = counted[np.argsort(place_in_run[predictions.rows[counted]], kind="stable")]
        most = self.n - np.cumsum(~right(predictions)[in_turn])
        out_of_reach = np.flatnonzero(most < self.needed)
        if not len(out_of_reach):
            return None
        first = int(out_of_reach[0])
        return Rejected(int(most[first]), self.n, first + 1)

    def _counts(self, predictions: Predictions) -> np.ndarray:
        """A mask of the items that count."""
        import numpy as np

        if self.rows is None:
            return np.ones(len(predictions.rows), dtype=bool)
        return np.isin(predictions.rows, self.rows)
