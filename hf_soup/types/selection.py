"""How a soup was chosen: every trial, what its score is to be compared with, and the reason in one sentence.

It chooses nothing: a strategy does, and `hf_soup.selection.select` puts its result into this form.
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

SHOWN = 60  # rows of a table; a search over subsets has hundreds


@dataclass(frozen=True)
class DataDescription:
    """What a recipe records of a data set.

    Args:
        path (`str`, *optional*):
            Where it came from.
        fingerprint (`str`, *optional*):
            Hash of its rows.
        rows (`int`, *optional*):
            How many it has.
        inputs (`str`, *optional*):
            Hash of its rows without labels and names of columns.
    """

    path: str | None = None
    fingerprint: str | None = None
    rows: int | None = None
    inputs: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """As recipes hold it: the hash of the inputs only where the task, and with it the input columns, is known."""
        content: dict[str, Any] = {"path": self.path, "fingerprint": self.fingerprint, "rows": self.rows}
        if self.inputs is not None:
            content["inputs"] = self.inputs
        return content


@dataclass(frozen=True)
class Trial:
    """One thing that a strategy tried: a row of tables.

    Args:
        tried (`str`):
            What, such as `"+ run-3"`.
        kept (`bool`):
            Whether it was taken.
        why (`str`):
            The reason, in words.
        score (`float`, *optional*):
            What it scored on validation; none where it was stopped early or ruled out.
        difference (`float`, *optional*), low (`float`, *optional*), high (`float`, *optional*):
            Score less that of the soup so far, and the 95 % interval of this difference over paired examples.
        at_most (`float`, *optional*):
            What it could score at most, where it was stopped early.
        ingredient (`str`, *optional*):
            Which, where one was scored alone.
        alpha (`float`, *optional*):
            How far along a path it lies.
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
    """What a strategy's choice scores on examples that it has not seen, by cross-validation.

    Args:
        k (`int`):
            Number of folds; as many searches were made, each without one of them.
        scores (`tuple[float, ...]`):
            Score of each search's choice on the fold that it did not see.
        mean (`float`):
            Their mean.
        optimism (`float`):
            How much better the soup's own validation score looks than that.
    """

    k: int
    scores: tuple[float, ...]
    mean: float
    optimism: float


@dataclass(frozen=True)
class Holdout:
    """What the choice scores on a part of validation that was held back from the search.

    Args:
        rows (`int`):
            Number of examples held back.
        score (`float`):
            Score of the choice on them.
        optimism (`float`):
            How much better the soup's score on the other examples looks than that.
    """

    rows: int
    score: float
    optimism: float


@dataclass(frozen=True, repr=False)
class Selection(Result):
    """What is known of how a recipe was found.

    Args:
        strategy (`str`):
            Name of the strategy.
        params (`Mapping`):
            Its parameters.
        metric (`str`), higher_is_better (`bool`), split (`str`):
            What it chose by.
        dataset ([`DataDescription`], *optional*):
            The examples it chose on; none where a function of a model scored.
        score (`float`, *optional*):
            Of the soup there; none where nothing was scored.
        trials (`tuple[Trial, ...]`):
            What was tried, in order.
        alpha (`float`, *optional*):
            How far along the way from the base model the soup lies, of a strategy that follows that way.
        temperature (`float`, *optional*):
            By what logits are divided, of a strategy that learned it beside the weights; the soup does not hold it.
        reference (`Mapping[str, float]`):
            Scores on the same examples of the best single ingredient, of the uniform soup and of the ensemble.
        why (`str`):
            The result in one sentence.
        holdout ([`Holdout`], *optional*), folds ([`Folds`], *optional*):
            What selection is worth on examples that it has not seen, where that was asked.
        rows (`int`, *optional*):
            How many examples it chose on, where a part was held back.
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
        """How many examples it chose on, if that is known."""
        if self.rows is not None:
            return self.rows
        if self.dataset is not None:
            return self.dataset.rows
        return None

    @property
    def scores(self) -> dict[str, Score]:
        """Validation score of each ingredient that was scored alone."""
        scores = {}
        for trial in self.trials:
            if trial.ingredient is not None and trial.score is not None:
                scores[trial.ingredient] = Score(self.metric, trial.score, self.higher_is_better, self.split)
        return scores

    def table(self) -> str:
        """Every trial, with the result below; of very many those that were kept, singles, and the last ones."""
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
        """All that were kept and all ingredients alone, filled up to the size of a table with the last of the rest."""
        important, others = [], []
        for index, trial in enumerate(self.trials):
            if trial.kept or trial.ingredient:
                important.append(index)
            else:
                others.append(index)
        left_out = max(len(important) + len(others) - SHOWN, 0)
        # What matters stays even where it alone is more than a table should have.
        return [self.trials[index] for index in sorted(important + others[left_out:])]

    @property
    def summary(self) -> str:
        """The result and what it is worth, line by line."""
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
                f"Cross-validated: {self.folds.mean:.4f} on average on the fold left out ({self.folds.k} searches), "
                f"so the score above flatters by {self.folds.optimism:+.4f}."
            )
        if self.holdout is not None:
            lines.append(
                f"Held back: {self.holdout.score:.4f} on {self.holdout.rows} examples that selection has not seen, so "
                f"the score above flatters by {self.holdout.optimism:+.4f}."
            )
        return "\n".join(lines)

    def plot(self) -> Figure:
        """The search as a picture: the score of each trial by name, or against alpha where they lie on a path.

        Returns:
            `matplotlib.figure.Figure`

        Raises:
            [`MissingExtraError`]: if matplotlib is not installed.
        """
        # Of a strategy that follows a path only the points on it are drawn.
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
            title=self.why or f"{self.strategy} by {self.metric}",
        )


def _point(trial: Trial, x: float, name: str) -> Tried | None:
    """A trial as the picture has it; `None` for one that was ruled out before it was run."""
    if trial.score is None:
        if trial.at_most is None:
            return None
        return Tried(x, trial.at_most, "stopped", name=name)
    low, high = None, None
    if trial.difference is not None:  # the interval is that of the difference: shift it to where the score lies
        shift = trial.score - trial.difference
        low, high = _shifted(trial.low, shift), _shifted(trial.high, shift)
    return Tried(x, trial.score, _state(trial), low, high, name)


def _state(trial: Trial) -> str:
    """How the picture marks a trial that was scored in full."""
    if trial.ingredient:
        return "single"
    return "kept" if trial.kept else "rejected"


def _shifted(bound: float | None, shift: float) -> float | None:
    """The bound of an interval, where there is one."""
    if bound is None:
        return None
    return shift + bound


def _cells(trial: Trial) -> list[str]:
    """The row of a table."""
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
    """A number of a table; an empty cell where there is none."""
    if value is None:
        return ""
    return format(value, form)
