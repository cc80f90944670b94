"""The comparison: every ingredient, every soup and the ensemble on the test sets, and what follows from it.

Selection has seen validation; what is reported here it has not, or the comparison refuses. It takes recipes' parts
and opened checkpoints, not soups.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tqdm.auto import tqdm

from ..errors import EvaluationError, MissingExtraError
from ..lookup import load_module
from ..plots import Point, plot_scores
from ..tables import align
from .ensemble import mean_logits
from .evaluator import Evaluator, Predictions, task_of
from .statistics import Interval, mean_interval, paired_difference


if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from transformers import PreTrainedModel

VALIDATION, TEST = "validation", "test"
PICTURE = "comparison.png"
SHARED_ROWS = 0.01  # of the test rows may be known from selection before it is worth a warning


class Entry(NamedTuple):
    """One model to compare.

    Args:
        name (`str`):
            What the table calls it.
        kind (`str`):
            `"ingredient"`, `"uniform"`, `"soup"`.
        load (`Callable[[], PreTrainedModel]`):
            Gives the model, when its turn comes.
    """

    name: str
    kind: str
    load: Callable[[], PreTrainedModel]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        name (`str`):
            The model.
        kind (`str`):
            `"ingredient"`, `"chosen"` (the ingredient that is best on validation), `"uniform"`, `"soup"` or
            `"ensemble"`.
        scores (`dict[str, Interval]`):
            Set -> score with its 95 % interval.
        cost (`int`):
            Forward passes for each example.
    """

    name: str
    kind: str
    scores: dict[str, Interval]
    cost: int


@dataclass(frozen=True)
class Comparison:
    """Scores of ingredients, soups and ensemble on the same examples.

    Args:
        metric (`str`):
            What is measured; higher is better.
        sizes (`dict[str, int]`):
            Set -> number of examples, in the order of the columns.
        rows (`tuple[Row, ...]`):
            The table.
        differences (`dict[str, dict[str, Interval]]`):
            Soup -> set -> paired difference in accuracy to the ingredient that is best on validation.
        summary (`str`):
            What follows, in one sentence for each soup.
    """

    metric: str
    sizes: dict[str, int]
    rows: tuple[Row, ...]
    differences: dict[str, dict[str, Interval]]
    summary: str

    def table(self) -> str:
        """The comparison as a table in Markdown that also reads well in a terminal, then the summary."""
        lines = [["model", *(f"{name} (n={n})" for name, n in self.sizes.items()), "passes"]]
        for row in self.rows:
            name = row.name + (" (best on validation)" if row.kind == "chosen" else "")
            lines.append([name, *(_percent([row.scores[part].value]) for part in self.sizes), str(row.cost)])
        single = [row for row in self.rows if row.kind in ("ingredient", "chosen")]
        means = [_percent([row.scores[part].value for row in single]) for part in self.sizes]
        lines.insert(1 + len(single), ["mean of ingredients", *means, "1"])
        return align(lines) + "\n\n" + self.summary

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        data = asdict(self)
        for row in data["rows"]:
            row["scores"] = {name: score._asdict() for name, score in row["scores"].items()}
        data["differences"] = {
            soup: {name: interval._asdict() for name, interval in sets.items()}
            for soup, sets in self.differences.items()
        }
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Comparison:
        """The reverse of [`Comparison.to_dict`]."""

        def intervals(scores: Mapping[str, Mapping[str, float]]) -> dict[str, Interval]:
            return {name: Interval(**score) for name, score in scores.items()}

        rows = tuple(Row(**{**row, "scores": intervals(row["scores"])}) for row in data["rows"])
        differences = {soup: intervals(sets) for soup, sets in data["differences"].items()}
        return cls(**{**data, "rows": rows, "differences": differences})

    def plot(self) -> Figure:
        """The scores as a picture: one column for each test set.

        Raises:
            [`MissingExtraError`]: if matplotlib is not installed.
        """
        points = []
        for row in self.rows:
            label = f"{row.name}, best on validation" if row.kind == "chosen" else row.name
            for name in (name for name in self.sizes if name != VALIDATION):
                value, low, high = row.scores[name]
                if row.kind in ("ingredient", "chosen"):
                    points.append(Point(name, row.name, "ingredient", value, value, value))
                if row.kind != "ingredient":
                    points.append(Point(name, label, row.kind, value, low, high))
        return plot_scores(points, metric=self.metric, title=self.summary.split("\n")[0])

    def save(self, folder: str | os.PathLike) -> Path:
        """Write `comparison.md`, `comparison.json` and, where matplotlib is installed, `comparison.png`.

        Args:
            folder (`str` or `os.PathLike`):
                Made where it is missing.

        Returns:
            `Path`: the folder.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "comparison.md").write_text(self.table() + "\n", encoding="utf-8")
        (folder / "comparison.json").write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")
        try:
            self.plot().savefig(folder / PICTURE)
        except MissingExtraError as error:
            warnings.warn(f"no picture was drawn: {error}", stacklevel=2)
        return folder


def compare_models(
    entries: Sequence[Entry],
    sets: Mapping[str, Evaluator],
    *,
    metric: str | None = None,
    selected_on: Iterable[str] = (),
) -> Comparison:
    """Run every entry over every set, one model in memory at a time, and the logit ensemble of the ingredients.

    Args:
        entries (`Sequence[Entry]`):
            Ingredients and soups.
        sets (`Mapping[str, Evaluator]`):
            Name -> examples; `"validation"` decides which ingredient is best, the others report.
        metric (`str`, *optional*):
            By default the task's own.
        selected_on (`Iterable[str]`, *optional*):
            Fingerprints of the data that selection has seen.

    Returns:
        [`Comparison`]

    Raises:
        [`EvaluationError`]: if a set that reports is the set that selection has seen.
    """
    refuse_seen_rows(sets, selected_on)
    predictions: dict[str, dict[str, Predictions]] = {}
    task = "auto"
    for entry in tqdm(entries, desc="Comparing", unit="model", leave=False):
        model = entry.load()
        task = task_of(type(model).__name__, next(iter(sets.values())).task)
        predictions[entry.name] = {name: evaluator.predict(model) for name, evaluator in sets.items()}
        del model
    single = [entry.name for entry in entries if entry.kind == "ingredient"]
    ensemble = "logit ensemble"
    if len(single) > 1:
        predictions[ensemble] = {name: mean_logits([predictions[member][name] for member in single]) for name in sets}
    metric = metric or next(iter(sets.values())).metric or load_module("task", task).METRIC

    def interval(name: str, part: str) -> Interval:
        made = predictions[name][part]
        if metric == "accuracy":
            return mean_interval(_right(made))
        value = sets[part].compute(made, metric)
        return Interval(value, value, value)

    scores = {name: {part: interval(name, part) for part in sets} for name in predictions}
    chosen = max(single, key=lambda name: scores[name][VALIDATION].value) if VALIDATION in sets and single else None
    kinds = {entry.name: "chosen" if entry.name == chosen else entry.kind for entry in entries} | {
        ensemble: "ensemble"
    }
    rows = tuple(Row(name, kinds[name], scores[name], len(single) if name == ensemble else 1) for name in predictions)
    soups = [name for kind in ("soup", "uniform") for name in predictions if kinds[name] == kind]
    differences = {
        soup: {
            part: paired_difference(_right(predictions[soup][part]), _right(predictions[chosen][part]))
            for part in sets
        }
        for soup in soups
        if chosen
    }
    sizes = {name: len(evaluator.dataset) for name, evaluator in sets.items()}
    return Comparison(metric, sizes, rows, differences, _summary(differences, sizes, len(single), chosen))


def refuse_seen_rows(sets: Mapping[str, Evaluator], selected_on: Iterable[str]) -> None:
    """What selects may not report: the same rows are an error, more than 1 % of shared rows a warning."""
    validation = sets[VALIDATION].rows if VALIDATION in sets else None
    seen = {*selected_on, *([validation.fingerprint] if validation else [])}
    for name, evaluator in sets.items():
        if name == VALIDATION:
            continue
        if evaluator.rows.fingerprint in seen:
            raise EvaluationError(
                f"the set {name!r} has the very rows that selection has seen and would flatter the soup. Take another."
            )
        shared = len(evaluator.rows.rows & validation.rows) if validation else 0
        if shared > SHARED_ROWS * len(evaluator.rows.rows):
            warnings.warn(
                f"{shared} of the {len(evaluator.rows.rows)} rows of {name!r} are also in the data that selects.",
                stacklevel=3,
            )


def _percent(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values) * 100:.1f}"


def _right(predictions: Predictions) -> Any:
    """1 for each example that was classified rightly, else 0."""
    return (predictions.logits.argmax(axis=1) == predictions.labels).astype(float)


def _summary(
    differences: Mapping[str, Mapping[str, Interval]], sizes: Mapping[str, int], members: int, chosen: str | None
) -> str:
    """A sentence on the test set for each soup, and one on the shifted sets; points are hundredths of accuracy."""
    lines = []
    for soup, sets in differences.items():
        value, low, high = sets[TEST]
        verdict = f"no difference that {sizes[TEST]} examples can show"
        if low == high == 0:
            verdict = "it is right on the same examples"
        elif low > 0:
            verdict = f"a gain, at 1/{members} of the ensemble's cost"
        elif high < 0:
            verdict = "it is worse"
        numbers = f"{value * 100:+.1f} [{low * 100:+.1f}, {high * 100:+.1f}]"
        lines.append(f"{soup}: {numbers} points of test accuracy against {chosen}, the best on validation: {verdict}.")
        shifts = [
            f"{name} {value * 100:+.1f} [{low * 100:+.1f}, {high * 100:+.1f}]"
            for name, (value, low, high) in sets.items()
            if name not in (VALIDATION, TEST)
        ]
        lines += [f"{soup}, on shifted sets: {', '.join(shifts)}."] if shifts else []
    return "\n".join(lines)
