"""Records the trials of strategies that return their mixture without trials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..types import Mixture, Rejected, Score, Threshold, Trial, Trials


class RecordingTrials:
    """A wrapper around trials that records the scored mixtures.

    Args:
        trials ([`Trials`]):
            Trials to record.
    """

    def __init__(self, trials: Trials):
        self._trials = trials
        self._results: list[tuple[Mixture, Score | Rejected]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trials, name)

    def score(self, mixture: Mixture, beat: Threshold | None = None) -> Score | Rejected:
        """See [`Trials`]."""
        result = self._trials.score(mixture) if beat is None else self._trials.score(mixture, beat)
        self._results.append((mixture, result))
        return result

    def map(self, mixtures: Sequence[Mixture], beat: Threshold | None = None) -> Sequence[Score | Rejected]:
        """See [`Trials`]."""
        results: Sequence[Score | Rejected] = (
            self._trials.map(mixtures) if beat is None else self._trials.map(mixtures, beat)
        )
        self._results += zip(mixtures, results, strict=True)
        return results

    def recorded(self, choice: Mixture) -> tuple[Trial, ...]:
        """The scored mixtures in order, each once.

        Args:
            choice ([`Mixture`]):
                Final choice of the strategy, which counts as kept.
        """
        trials: dict[str, Trial] = {}
        for mixture, result in self._results:
            tried = _title(mixture)
            kept = mixture == choice
            single = mixture.names[0] if len(mixture.names) == 1 else None
            if isinstance(result, Score):
                trials[tried] = Trial(tried, kept, "chosen" if kept else "", score=result.value, ingredient=single)
            elif tried not in trials:  # a stopped trial may be scored in full later
                at_most = result.right / result.n
                trials[tried] = Trial(tried, kept, f"stopped: {result}", at_most=at_most, ingredient=single)
        return tuple(trials.values())


def _title(mixture: Mixture) -> str:
    """The name of a mixture in tables: its ingredients, with their weights if these differ."""
    if isinstance(mixture.weights, dict) or len(set(mixture.weights)) > 1:
        shares = []
        for name, weights in zip(mixture.names, zip(*mixture.weights_by_module.values(), strict=True), strict=True):
            shares.append(f"{'/'.join(f'{weight:.3g}' for weight in weights)} {name}")
        return " + ".join(shares)
    return " + ".join(mixture.names)
