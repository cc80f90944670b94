"""How a soup was chosen: one row for each trial, what it is to be compared with, and the reason in one sentence.

It chooses nothing; a recipe's `selection` is what it reads.
"""

from __future__ import annotations

import contextlib
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from .plots import Tried, plot_search
from .tables import align
from .types import Recipe, Score, Trial


if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 60  # rows of a table; a search over subsets has hundreds


@dataclass(frozen=True)
class Selection:
    """What is known of how a recipe was found.

    Args:
        strategy (`str`):
            Which.
        params (`Mapping`):
            Its parameters.
        metric (`str`), higher_is_better (`bool`), split (`str`):
            What it chose by.
        score (`float`, *optional*):
            Of the soup there; none where nothing was scored.
        rows (`int`, *optional*):
            How many examples it chose on.
        trials (`tuple[Trial, ...]`):
            What was tried, in order.
        reference (`Mapping[str, float]`):
            Scores on the same examples of the best single ingredient, of the uniform soup and of the ensemble.
        why (`str`):
            The result in one sentence.
        folds (`Mapping`), holdout (`Mapping`):
            What selection is worth on examples that it has not seen, where that was asked.
    """

    strategy: str
    params: Mapping[str, Any] = field(default_factory=dict)
    metric: str = "score"
    higher_is_better: bool = True
    split: str = "validation"
    score: float | None = None
    rows: int | None = None
    trials: tuple[Trial, ...] = ()
    reference: Mapping[str, float] = field(default_factory=dict)
    why: str = ""
    folds: Mapping[str, int | float | list[float]] = field(default_factory=dict)
    holdout: Mapping[str, int | float] = field(default_factory=dict)

    @classmethod
    def of(cls, recipe: Recipe) -> Selection | None:
        """That of a recipe, if it was chosen at all; what is not as this version writes it is left out."""
        found = dict(recipe.selection)
        if not isinstance(found.get("strategy"), str):
            return None
        data, trials = found.get("dataset"), found.get("trials")
        if isinstance(data, Mapping):
            found.setdefault("rows", data.get("rows"))
        read = [_read(Trial, row) for row in (trials if isinstance(trials, (list, tuple)) else ())]
        found["trials"] = tuple(row for row in read if row is not None)
        return _read(cls, found)

    @property
    def scores(self) -> dict[str, Score]:
        """Validation score of each ingredient that was scored alone."""
        return {
            trial.ingredient: Score(self.metric, trial.score, self.higher_is_better, self.split)
            for trial in self.trials
            if trial.ingredient is not None and trial.score is not None
        }

    def table(self) -> str:
        """Every trial, with the result below; of very many those that were kept, singles, and the last ones."""
        head = ["tried", self.metric, "difference", "95 % interval", "kept", "why"]
        dull = [not (row.kept or row.ingredient) for row in self.trials]
        order = sorted(range(len(dull)), key=lambda at: (dull[at], -at))
        lines = [_cells(self.trials[at]) for at in sorted(order[: max(SHOWN, dull.count(False))])]
        left_out = len(self.trials) - len(lines)
        of = f" ({self.rows} examples)" if self.rows else ""
        title = f"{self.strategy}, by {self.metric} on {self.split}{of}"
        parts = [title, align([head, *lines])] if lines else [title]
        if left_out:
            parts.append(f"... and {left_out} more trials, all in the recipe.")
        return "\n\n".join([*parts, *([self.summary] if self.summary else [])])

    @property
    def summary(self) -> str:
        """The result and what it is worth, line by line."""
        lines = []
        if self.score is not None:
            more = ", ".join(f"{name} {value:.4f}" for name, value in self.reference.items())
            of = f", the choice of {len(self.trials)} trials" if self.trials else ""
            lines.append(f"{self.metric} {self.score:.4f} on {self.split}{of}" + (f"; {more}." if more else "."))
        lines += [self.why] if self.why else []
        folds, holdout = _numbers(self.folds), _numbers(self.holdout)
        if {"k", "mean", "optimism"} <= set(folds):
            lines.append(
                f"Cross-validated: {folds['mean']:.4f} on average on the fold left out ({folds['k']} searches), so "
                f"the score above flatters by {folds['optimism']:+.4f}."
            )
        if {"rows", "score", "optimism"} <= set(holdout):
            lines.append(
                f"Held back: {holdout['score']:.4f} on {holdout['rows']} examples that selection has not seen, so the "
                f"score above flatters by {holdout['optimism']:+.4f}."
            )
        return "\n".join(lines)

    def plot(self) -> Figure:
        """The search as a picture: score against step, or against alpha where the trials lie on a path.

        Returns:
            `matplotlib.figure.Figure`

        Raises:
            [`MissingExtraError`]: if matplotlib is not installed.
        """
        path = [row for row in self.trials if row.alpha is not None]
        tried = [
            Tried(
                row.alpha if path else step,
                row.at_most if row.score is None else row.score,
                "stopped" if row.score is None else "alone" if row.ingredient else "kept" if row.kept else "rejected",
                *(None if limit is None else row.score - row.difference + limit for limit in (row.low, row.high)),
            )
            for step, row in enumerate(path or self.trials, start=1)
            if row.score is not None or row.at_most is not None
        ]
        where = "alpha (0: base model, 1: fine-tuned)" if path else "trial"
        title = self.why or f"{self.strategy} by {self.metric}"
        metric = f"{self.metric} on {self.split}"
        return plot_search(tried, metric=metric, where=where, lines=self.reference, title=title)


def _numbers(found: Mapping[str, int | float | list[float]]) -> dict[str, int | float]:
    """What is one number, in a file that may say anything."""
    return {name: value for name, value in found.items() if isinstance(value, (int, float))}


def _read(cls: type, found: Any) -> Any:
    """A value from a file: fields of another type are as if they were not there; `None` if it lacks one it needs."""
    import pydantic

    if not isinstance(found, Mapping):
        return None
    hints, known = typing.get_type_hints(cls), {}
    for item in fields(cls):
        with contextlib.suppress(KeyError, pydantic.ValidationError):
            value = pydantic.TypeAdapter(hints[item.name]).validate_python(found[item.name], strict=True)
            if not isinstance(value, float) or math.isfinite(value):
                known[item.name] = value
    with contextlib.suppress(TypeError):
        return cls(**known)
    return None


def _cells(row: Trial) -> list[str]:
    def number(value: float | None, form: str = ".4f") -> str:
        return "" if value is None else format(value, form)

    interval = "" if row.low is None or row.high is None else f"[{row.low:+.4f}, {row.high:+.4f}]"
    return [
        row.tried,
        number(row.score),
        number(row.difference, "+.4f"),
        interval,
        "yes" if row.kept else "no",
        row.why,
    ]
