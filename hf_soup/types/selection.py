"""How a soup was chosen: every trial, scores to compare with, and the result in one sentence.

These are values; `hf_soup.selection.select` makes them from the result of a strategy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..display.results import Result
from ..display.search import Tried, plot_search
from ..display.tables import align
from .scores import Score


if TYPE_CHECKING:
    from matplotlib.figure import Figure

SINGLE = "best single ingredient"  # name of its score in `Selection.reference`
SHOWN = 60  # maximum number of rows in a table; a search over subsets has hundreds


@dataclass(frozen=True)
class DataDescription:
    """The description of a data set in a recipe.

    Args:
        path (`str`, *optional*):
            Path or Hub id of the data set.
        fingerprint (`str`, *optional*):
            Hash of the rows.
        rows (`int`, *optional*):
            Number of rows.
        inputs (`str`, *optional*):
            Hash of the rows without labels and column names.
    """

    path: str | None = None
    fingerprint: str | None = None
    rows: int | None = None
    inputs: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The description as saved in recipes; without the hash of the inputs if the input columns are not known."""
        content: dict[str, Any] = {"path": self.path, "fingerprint": self.fingerprint, "rows": self.rows}
        if self.inputs is not None:
            content["inputs"] = self.inputs
        return content


@dataclass(frozen=True)
class Trial:
    """One trial of a strategy, a row of tables.

    Args:
        tried (`str`):
            Description of the trial, such as `"+ run-3"`.
        kept (`bool`):
            Whether the change was kept.
        why (`str`):
            Reason for keeping it or not.
        score (`float`, *optional*):
            Validation score; `None` if the trial was stopped early or ruled out.
        difference (`float`, *optional*), low (`float`, *optional*), high (`float`, *optional*):
            Difference from the score of the soup so far, and its 95 % interval over paired examples.
        at_most (`float`, *optional*):
            Upper bound of the score, if the trial was stopped early.
        ingredient (`str`, *optional*):
            Name of the ingredient, if a single one was scored.
        alpha (`float`, *optional*):
            Interpolation coefficient, for strategies that follow a path.
    """

    tried: str
    kept: bool
    why: str
    score: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    at_most: float | None = None
    ingredient: str | None = None
    alpha: float | None = None


@dataclass(frozen=True)
class Folds:
    """The score of a strategy's choice on unseen examples, by cross-validation.

    Args:
        k (`int`):
            Number of folds; one search was made without each of them.
        scores (`tuple[float, ...]`):
            Score of each search's choice on the fold that was left out.
        mean (`float`):
            Mean of these scores.
        optimism (`float`):
            Selection optimism: how much better the soup's own validation score is than this mean.
    """

    k: int
    scores: tuple[float, ...]
    mean: float
    optimism: float


@dataclass(frozen=True)
class Holdout:
    """The score of the choice on validation examples that were held out from the search.

    Args:
        rows (`int`):
            Number of held-out examples.
        score (`float`):
            Score of the choice on the held-out examples.
        optimism (`float`):
            Selection optimism: how much better the soup's score on the other examples is than this score.
    """

    rows: int
    score: float
    optimism: float


@dataclass(frozen=True, repr=False)
class Selection(Result):
    """How a recipe was found: the strategy, its trials and the score of its choice.

    Args:
        strategy (`str`):
            Name of the strategy; empty where the weights were given and nothing chose.
        params (`Mapping`):
            Parameters of the strategy.
        metric (`str`), higher_is_better (`bool`), split (`str`):
            Metric by which the strategy chose, its direction, and the split of the data.
        dataset ([`DataDescription`], *optional*):
            Examples that the strategy chose on; `None` if a function of a model scored.
        score (`float`, *optional*):
            Score of the soup on these examples; `None` if nothing was scored.
        trials (`tuple[Trial, ...]`):
            Trials in the order in which they were made.
        alpha (`float`, *optional*):
            Interpolation coefficient between the base model (0) and the fine-tuned models (1), for strategies that
            interpolate.
        temperature (`float`, *optional*):
            Temperature that divides logits, for strategies that learn it with the weights; it is not part of the soup.
        reference (`Mapping[str, float]`):
            Scores of the best single ingredient, the uniform soup and the ensemble on the same examples.
        why (`str`):
            Result in one sentence.
        holdout ([`Holdout`], *optional*), folds ([`Folds`], *optional*):
            Estimates of selection optimism on unseen examples, if they were requested.
        rows (`int`, *optional*):
            Number of examples that the strategy chose on, if a part was held out.
    """

    strategy: str
    params: Mapping[str, Any] = field(default_factory=dict)
    metric: str = "score"
    higher_is_better: bool = True
    split: str = "validation"
    dataset: DataDescription | None = None
    score: float | None = None
    trials: tuple[Trial, ...] = ()
    alpha: float | None = None
    temperature: float | None = None
    reference: Mapping[str, float] = field(default_factory=dict)
    why: str = ""
    holdout: Holdout | None = None
    rows: int | None = None
    folds: Folds | None = None

    @property
    def examples(self) -> int | None:
        """Number of examples that the strategy chose on, if it is known."""
        if self.rows is not None:
            return self.rows
        if self.dataset is not None:
            return self.dataset.rows
        return None

    @property
    def scores(self) -> dict[str, Score]:
        """Validation score of each ingredient that was scored by itself."""
        scores = {}
        for trial in self.trials:
            if trial.ingredient is not None and trial.score is not None:
                scores[trial.ingredient] = Score(self.metric, trial.score, self.higher_is_better, self.split)
        return scores

    def table(self) -> str:
        """Every trial, and the result below; of very many, the kept ones, single ingredients and the last ones."""
        if not self.strategy:
            return "No strategy chose the ingredients: the weights were given."
        title = f"{self.strategy}, by {self.metric} on {self.split}"
        if self.examples:
            title += f" ({self.examples} examples)"
        sections = [title]
        if self.trials:
            shown_trials = self._shown_trials()
            head = ["tried", self.metric, "difference", "95 % interval", "kept", "why"]
            sections.append(align([head, *map(_cells, shown_trials)]))
            left_out = len(self.trials) - len(shown_trials)
            if left_out:
                sections.append(f"... and {left_out} more trials, all in the recipe.")
        if self.summary:
            sections.append(self.summary)
        return "\n\n".join(sections)

    def _shown_trials(self) -> list[Trial]:
        """The kept trials and the single ingredients, and the last of the other trials up to the size of a table."""
        important, others = [], []
        for index, trial in enumerate(self.trials):
            if trial.kept or trial.ingredient:
                important.append(index)
            else:
                others.append(index)
        left_out = max(len(important) + len(others) - SHOWN, 0)
        # These are shown even if they are more than a table should have.
        return [self.trials[index] for index in sorted(important + others[left_out:])]

    @property
    def summary(self) -> str:
        """The result and the estimates of selection optimism, line by line."""
        lines = []
        if self.score is not None:
            line = f"{self.metric} {self.score:.4f} on {self.split}"
            if self.trials:
                line += f", the choice of {len(self.trials)} trials"
            if self.reference:
                comparisons = [f"{name} {value:.4f}" for name, value in self.reference.items()]
                line += "; " + ", ".join(comparisons)
            lines.append(f"{line}.")
        if self.why:
            lines.append(self.why)
        if self.folds is not None:
            lines.append(
                f"Cross-validation: {self.folds.mean:.4f} on average on the fold left out ({self.folds.k} searches), "
                f"so the selection optimism of the score above is {self.folds.optimism:+.4f}."
            )
        if self.holdout is not None:
            lines.append(
                f"Held out: {self.holdout.score:.4f} on {self.holdout.rows} examples not used for selection, so the "
                f"selection optimism of the score above is {self.holdout.optimism:+.4f}."
            )
        return "\n".join(lines)

    def plot(self) -> Figure:
        """Draw the search: the score of each trial by name, or against alpha if the strategy interpolates.

        Returns:
            `matplotlib.figure.Figure`

        Raises:
            [`MissingExtraError`]: if matplotlib is not installed.
        """
        # For a strategy that follows a path, only the points on it are drawn.
        path = [trial for trial in self.trials if trial.alpha is not None]
        x_label = "alpha (0: base model, 1: fine-tuned)" if path else "trial"
        points = []
        for step, trial in enumerate(path or self.trials, start=1):
            x = float(step) if trial.alpha is None else trial.alpha
            point = _point(trial, x, name="" if path else trial.tried)
            if point is not None:
                points.append(point)
        return plot_search(
            points,
            metric=f"{self.metric} on {self.split}",
            where=x_label,
            lines=self.reference,
            title=self._headline(),
        )

    def _headline(self) -> str:
        """The finding in one line, as the title of the picture."""
        if self.score is None:
            return f"{self.strategy} by {self.metric}"
        line = f"{self.strategy}: {self.metric} {self.score:.4f} on {self.split}"
        single = self.reference.get(SINGLE)
        return line if single is None else f"{line}, best single {single:.4f}"


def _point(trial: Trial, x: float, name: str) -> Tried | None:
    """A trial for the picture; `None` if it was ruled out before it was run."""
    if trial.score is None:
        if trial.at_most is None:
            return None
        return Tried(x, trial.at_most, "stopped", name=name)
    low, high = None, None
    if trial.difference is not None:  # the interval of the difference is shifted to the score
        shift = trial.score - trial.difference
        low, high = _shifted(trial.low, shift), _shifted(trial.high, shift)
    return Tried(x, trial.score, _state(trial), low, high, name)


def _state(trial: Trial) -> str:
    """The mark in the picture of a trial that was scored in full."""
    if trial.ingredient:
        return "single"
    return "kept" if trial.kept else "rejected"


def _shifted(bound: float | None, shift: float) -> float | None:
    """The shifted bound of an interval, if there is one."""
    if bound is None:
        return None
    return shift + bound


def _cells(trial: Trial) -> list[str]:
    """The cells of a trial in a table."""
    interval = ""
    if trial.low is not None and trial.high is not None:
        interval = f"[{trial.low:+.4f}, {trial.high:+.4f}]"
    return [
        trial.tried,
        _formatted(trial.score, ".4f"),
        _formatted(trial.difference, "+.4f"),
        interval,
        "yes" if trial.kept else "no",
        trial.why,
    ]


def _formatted(value: float | None, form: str) -> str:
    """A number in a table; an empty cell if there is none."""
    if value is None:
        return ""
    return format(value, form)
