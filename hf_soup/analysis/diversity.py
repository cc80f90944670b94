"""How much the predictions of models differ on the same examples, and the gains of an ensemble or a soup."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ..display.results import Result
from ..display.tables import align
from ..errors import RecipeError, did_you_mean
from ..evaluation.ensemble import mean_logits, mean_probabilities
from ..metrics.predictions import DISTANT, Predictions, decisions, disagreement, probabilities, right
from ..metrics.statistics import SHARES, formatted, signed
from ..types import UNIFORM, best_of, gain
from .points import SURE, Scorer, uniform


if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure


class PairDiversity(NamedTuple):
    """How much the predictions of two models differ.

    Args:
        one (`str`), other (`str`):
            The models.
        disagreement (`float`):
            Share of items with another decision; of values the root mean square difference, of tokens that of the
            log-probabilities.
        normalised (`float`, *optional*):
            The same number, relative to the mean share of items that the two models get wrong.
        overlap (`float`, *optional*):
            Items that both get wrong, of those that at least one does; 1 if neither gets any wrong.
        kappa (`float`, *optional*):
            Cohen's kappa of the decisions: agreement beyond chance.
        ambiguity (`float`, *optional*):
            Mean squared difference of each from the mean of the two, summed over classes: what their mean gains in
            squared error over the mean of their squared errors.
    """

    one: str
    other: str
    disagreement: float
    normalised: float | None
    overlap: float | None
    kappa: float | None
    ambiguity: float | None


@dataclass(frozen=True, repr=False)
class Diversity(Result):
    """How much the predictions of models differ, and what an ensemble and a soup gain from that.

    Args:
        metric (`str`), higher_is_better (`bool`), split (`str`), examples (`int`):
            Metric, its direction, split and number of examples of the scores.
        scores (`dict[str, float]`):
            Score of each model alone.
        pairs (`tuple[PairDiversity, ...]`):
            Diversity of every pair of models.
        soup (`float`), ensemble (`float`):
            Scores of the uniform soup and of the ensemble.

    Source: Fort et al. 2019, [Deep ensembles: a loss landscape perspective](https://arxiv.org/abs/1912.02757);
        ambiguity: Krogh and Vedelsby 1994.
    """

    metric: str
    higher_is_better: bool
    split: str
    examples: int
    scores: dict[str, float]
    pairs: tuple[PairDiversity, ...]
    soup: float
    ensemble: float

    @property
    def mean_score(self) -> float:
        """The mean score of the single models."""
        return sum(self.scores.values()) / len(self.scores)

    @property
    def best(self) -> str:
        """The name of the best single model on these examples."""
        return best_of(self.scores, self.higher_is_better)

    @property
    def best_score(self) -> float:
        """The score of the best single model on these examples."""
        return self.scores[self.best]

    @property
    def gain(self) -> float:
        """The gain of the ensemble over the mean of the models, in the metric's unit; positive is better."""
        return gain(self.ensemble, self.mean_score, self.higher_is_better)

    @property
    def kept(self) -> float | None:
        """The fraction of the ensemble's gain that the soup keeps; `None` if the ensemble gains nothing."""
        if self.gain <= 0:
            return None
        return gain(self.soup, self.mean_score, self.higher_is_better) / self.gain

    @property
    def visibly_kept(self) -> float | None:
        """The same, if the ensemble's gain is detectable with this number of examples."""
        if self.noise is not None and self.gain < self.noise:
            return None
        return self.kept

    @property
    def noise(self) -> float | None:
        """The smallest detectable difference of shares: half the width of a 95 % interval of a paired difference, if
        as many examples differ as two models disagree on; `None` for other metrics.
        """
        if self.metric not in SHARES:
            return None
        return SURE * math.sqrt(self.disagreement / self.examples)

    @property
    def disagreement(self) -> float:
        """The mean disagreement over all pairs."""
        if not self.pairs:
            return 0.0
        return sum(pair.disagreement for pair in self.pairs) / len(self.pairs)

    def matrix(self, of: str = "disagreement") -> np.ndarray:
        """A measure of each pair, as a symmetric matrix; NaN where it is unknown.

        Args:
            of (`str`, *optional*, defaults to `"disagreement"`):
                A field of [`PairDiversity`].

        Raises:
            [`RecipeError`]: if there is no such field.
        """
        import numpy as np

        measures = PairDiversity._fields[2:]  # after the names of the two models
        if of not in measures:
            raise RecipeError(f"there is no {of!r} of a pair{did_you_mean(of, measures)}")
        names = list(self.scores)
        matrix = np.full((len(names), len(names)), np.nan)
        for pair in self.pairs:
            value = getattr(pair, of)
            if value is not None:
                i, j = names.index(pair.one), names.index(pair.other)
                matrix[i, j] = matrix[j, i] = value
        return matrix

    def table(self) -> str:
        """A row for each pair, and the results of ensemble and soup."""
        lines = [["one", "other", "disagree", "of errors", "errors shared", "kappa", "ambiguity"]]
        for pair in self.pairs:
            names, measures = pair[:2], pair[2:]
            lines.append([*names, *map(_cell, measures)])
        scores = []
        for name, value in self._levels().items():
            scores.append(f"{formatted(self.metric, value)} {name}")
        sentence = f"{self.metric} on {self.split}: {', '.join(scores)}"
        if self.visibly_kept is not None:
            sentence += f"; the soup keeps {self.visibly_kept:.0%} of its gain over the mean"
        return f"{align(lines)}\n\n{sentence}."

    def to_pandas(self) -> pd.DataFrame:
        """A data frame with a row for each pair."""
        import pandas as pd

        return pd.DataFrame(self.pairs, columns=PairDiversity._fields)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {**asdict(self), "pairs": [pair._asdict() for pair in self.pairs], "kept": self.kept}

    def plot(self, picture: Literal["scores", "pairs"] = "scores") -> Figure:
        """Draw a figure: `"scores"` shows each model's score against its mean disagreement with the others, `"pairs"`
        is a heat map of the disagreement.

        Raises:
            [`MissingExtraError`]: if matplotlib is not installed.
        """
        import numpy as np

        from .pictures import plot_diversity, plot_heat

        if picture not in ("scores", "pairs"):
            raise RecipeError(f'there is no picture "{picture}"{did_you_mean(picture, ("scores", "pairs"))}')
        matrix = self.matrix()
        if picture == "pairs":
            title = f"Two models disagree on {self.disagreement:.1%} of {self.examples} examples on average"
            return plot_heat(list(self.scores), matrix, label="disagreement", title=title)
        # The diagonal is NaN: a model's mean is that of its disagreement with the others.
        disagreement = dict(zip(self.scores, np.nanmean(matrix, axis=1).tolist(), strict=True))
        metric = f"{self.metric} on {self.split}"
        return plot_diversity(disagreement, self.scores, self._levels(), metric=metric, title=self.finding)

    @property
    def finding(self) -> str:
        """How much of the ensemble's gain the soup keeps, in a sentence without its full stop."""
        if self.kept is None:
            return "The ensemble gains nothing over the mean of the models"
        if self.visibly_kept is None:
            gained = signed(self.metric, self.gain)
            return f"The ensemble's gain over the mean of the models ({gained}) cannot be seen on these examples"
        return f"The soup keeps {self.kept:.0%} of what the ensemble gains over the mean of the models"

    def _levels(self) -> dict[str, float]:
        """The scores with which those of single models are compared."""
        return {"mean of the models": self.mean_score, UNIFORM: self.soup, "ensemble": self.ensemble}


def measure_diversity(scorer: Scorer) -> Diversity:
    """Compare the predictions of models on the same examples, pair by pair.

    Args:
        scorer ([`Scorer`]):
            The models and the examples.

    Returns:
        [`Diversity`]

    Raises:
        [`RecipeError`]: if there is one model alone.
    """
    if len(scorer.names) < 2:
        raise RecipeError("diversity compares models: give two or more.")
    predictions: dict[str, Predictions] = {}
    with scorer.progress("What models say", len(scorer.names) + 1) as bar:
        for name in scorer.names:
            predictions[name] = scorer.predictions({name: 1.0})
            bar.update()
        soup = scorer.point(uniform(scorer.names)).score
        bar.update()
    scores = {name: scorer.score(outputs) for name, outputs in predictions.items()}
    members = list(predictions.values())
    # The logits of language models are not kept, so probabilities are averaged.
    combine = mean_probabilities if members[0].kind == "tokens" else mean_logits
    first_score = next(iter(scores.values()))
    pairs = []
    for first, second in itertools.combinations(predictions, 2):
        pairs.append(pair_diversity(first, second, predictions))
    return Diversity(
        metric=first_score.metric,
        higher_is_better=first_score.higher_is_better,
        split=scorer.evaluator.split,
        examples=scorer.examples,
        scores={name: score.value for name, score in scores.items()},
        pairs=tuple(pairs),
        soup=soup,
        ensemble=scorer.score(combine(members)).value,
    )


def pair_diversity(first: str, second: str, predictions: Mapping[str, Predictions]) -> PairDiversity:
    """Compare two models; the fields of [`PairDiversity`] that their kind of output has.

    Args:
        first (`str`), second (`str`):
            Names of the two.
        predictions (`Mapping[str, Predictions]`):
            Predictions of each model on the same examples.
    """
    import numpy as np

    a, b = predictions[first], predictions[second]
    differ = disagreement(a, b)
    if a.kind in DISTANT:
        # Neither kind has decisions that are correct or wrong, as the other measures require.
        ambiguity = _ambiguity(_numbers(a), _numbers(b))
        return PairDiversity(first, second, differ, normalised=None, overlap=None, kappa=None, ambiguity=ambiguity)
    a_wrong, b_wrong = ~right(a), ~right(b)
    either_wrong, both_wrong = int((a_wrong | b_wrong).sum()), int((a_wrong & b_wrong).sum())
    error_rate = float(np.mean([a_wrong, b_wrong]))
    normalised, overlap = None, 1.0  # of two models without any error
    if either_wrong:
        normalised, overlap = differ / error_rate, both_wrong / either_wrong
    return PairDiversity(
        first,
        second,
        differ,
        normalised=normalised,
        overlap=overlap,
        kappa=_kappa(a, b),
        ambiguity=_ambiguity(probabilities(a), probabilities(b)),
    )


def _numbers(outputs: Predictions) -> np.ndarray:
    """Values, or the probability of each token."""
    import numpy as np

    if outputs.kind == "tokens":
        # The stored logits of a token are the log-probability of the correct one.
        return np.exp(outputs.logits.astype(np.float64))
    return outputs.logits


def _kappa(a: Predictions, b: Predictions) -> float:
    """Cohen's kappa; 1 for models with the same decisions, for which scikit-learn may return NaN."""
    import numpy as np
    from sklearn.metrics import cohen_kappa_score

    a_decisions, b_decisions = decisions(a).reshape(-1), decisions(b).reshape(-1)
    if np.array_equal(a_decisions, b_decisions):
        return 1.0
    return float(cohen_kappa_score(a_decisions, b_decisions))


def _ambiguity(a: np.ndarray, b: np.ndarray) -> float:
    """Mean squared distance of the two from their mean, which is half of the distance between them."""
    import numpy as np

    squares = np.square(a - b)
    by_item = squares.reshape(len(squares), -1).sum(1)
    return float(by_item.mean() / 4)  # each is half the difference away from the mean, squared a quarter


def _cell(value: float | None) -> str:
    """A measure of a pair in a table; `-` if it is not defined for the kind of output."""
    return "-" if value is None else f"{value:.3f}"
