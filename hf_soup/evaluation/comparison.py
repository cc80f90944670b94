"""What a comparison found, as values: tables, a data frame, pictures, files. `compare.py` computes the scores."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import MissingExtraError, RecipeError, did_you_mean, warn
from ..plots import Curve, Dot, Point, plot_reliability, plot_scores, plot_shifts
from ..tables import align, escape_markup


if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

VALIDATION, TEST, SHIFTS = "validation", "test", "mean of shifts"
SINGLE, SUMMARIES = ("ingredient", "chosen"), ("mean", "oracle")
PICTURES = {"scores": "comparison.png", "shifts": "shifts.png", "reliability": "reliability.png"}
SHARES = ("accuracy", "f1", "f1_macro", "f1_micro", "seqeval_f1", "exact_match", "ece")  # shown in percent


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % interval, where one is known, in the unit of what was measured."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Difference(Interval):
    """One model's score less another's on the same examples.

    Args:
        value (`float`), low (`float`), high (`float`):
            The difference and its 95 % interval by paired bootstrap.
        p (`float`, *optional*):
            Of McNemar's exact test, where examples are right or wrong.
    """

    p: float | None = None


@dataclass(frozen=True)
class Calibrated:
    """Calibration of one model on one set, before and after dividing its logits by a temperature.

    Args:
        ece (`float`), ece_mass (`float`), mce (`float`), brier (`float`), nll (`float`):
            As in [`hf_soup.calibration.Calibration`].
        temperature (`float`, *optional*):
            Fitted on validation.
        ece_scaled (`float`, *optional*), nll_scaled (`float`, *optional*):
            With that temperature.
    """

    ece: float
    ece_mass: float
    mce: float
    brier: float
    nll: float
    temperature: float | None = None
    ece_scaled: float | None = None
    nll_scaled: float | None = None


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        name (`str`):
            The model.
        kind (`str`):
            `"ingredient"`, `"chosen"` (the ingredient that is best on validation), `"mean"` and `"oracle"` (of the
            ingredients: their mean, and the best on each set), `"uniform"`, `"soup"` or `"ensemble"`.
        scores (`dict[str, dict[str, Interval]]`):
            Set -> metric -> score with its 95 % interval; without sets or metrics that are not known of this model.
        passes (`int`):
            Forward passes for each example.
        parameters (`int`):
            Of all models that are run.
        latency (`float`, *optional*):
            Milliseconds for each example of the test set, measured while it was scored.
        calibration (`dict[str, Calibrated]`, *optional*):
            Set -> calibration, of classifiers.
        weights (`dict[str, float]`, *optional*):
            Of the ingredients in the learned mixture.
    """

    name: str
    kind: str
    scores: dict[str, dict[str, Interval]]
    passes: int
    parameters: int
    latency: float | None = None
    calibration: dict[str, Calibrated] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """Scores of ingredients, soups and ensembles on the same examples.

    Args:
        metrics (`dict[str, bool | None]`):
            What is measured -> whether higher is better, where that is known; the first is the one that counts.
        sizes (`dict[str, int]`):
            Set -> number of examples, in the order of the columns; 0 where a function scored and did not say.
        rows (`tuple[Row, ...]`):
            The table.
        differences (`dict[str, dict[str, dict[str, Difference]]]`):
            Soup -> set -> `"single"` (against the ingredient that is best on validation) and `"ensemble"` -> paired
            difference by the first metric.
        summary (`str`):
            What follows: a line for each soup, and one on the shifted sets.
        curves (`dict[str, dict[str, list[float]]]`):
            Model -> `confidence`, `accuracy` and `count` of the bins of its reliability diagram on the test set.
        sources (`dict[str, str]`):
            Set -> the Hub id of its data, where it has one.
    """

    metrics: dict[str, bool | None]
    sizes: dict[str, int]
    rows: tuple[Row, ...]
    differences: dict[str, dict[str, dict[str, Difference]]]
    summary: str
    curves: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)

    @property
    def metric(self) -> str:
        """The metric that counts."""
        return next(iter(self.metrics))

    def table(self) -> str:
        """Scores, differences, calibration, cost and summary in Markdown that also reads well in a terminal."""
        parts = [*map(align, self.tables()), *filter(None, [self.mixture])]
        return "\n\n".join([*parts, self.summary])

    def _markdown(self) -> str:
        """The same for a file that is shown as Markdown: names are text, and no markup."""
        sentences = [*filter(None, [self.mixture]), *self.summary.split("\n")]
        return "\n\n".join(
            [*(align(cells, escape_markup) for cells in self.tables()), "\n".join(map(escape_markup, sentences))]
        )

    def tables(self) -> list[list[list[str]]]:
        """The cells of each table: scores by each metric, differences, and what models cost."""
        scores = [self._scores(metric) for metric in self.metrics]
        return [*scores, *filter(None, [self._differences()]), self._costs()]

    def _scores(self, metric: str) -> list[list[str]]:
        """Scores by one metric: models below each other, sets beside each other."""
        unit = f"{metric}, %" if metric in SHARES else metric
        sets = list(self.sizes)
        lines = [[unit, *(f"{name} (n={n})" if n else name for name, n in self.sizes.items())]]
        for row in self.rows:
            lines.append([_called(row), *(_shown(metric, row.scores.get(part, {}).get(metric)) for part in sets)])
        return lines

    def _differences(self) -> list[list[str]]:
        """Each soup against the best single model and against the ensemble, with intervals; empty if there is none."""
        lines = [["soup", "against", "set", f"difference in {self.metric}", "95 % interval", "McNemar p"]]
        names = {"single": self._named("chosen"), "ensemble": self._named("ensemble")}
        for soup, sets in self.differences.items():
            for part, found in sets.items():
                for other, difference in found.items():
                    low, high = (signed(self.metric, end) for end in (difference.low, difference.high))
                    p = "" if difference.p is None else f"{difference.p:.3f}"
                    value = signed(self.metric, difference.value)
                    lines.append([soup, names[other], part, value, f"[{low}, {high}]", p])
        return lines if len(lines) > 1 else []

    def _costs(self) -> list[list[str]]:
        """Calibration on the test set, and what each model costs to run."""
        lines = [
            ["model", "ECE", "MCE", "Brier", "NLL", "temperature", "ECE then", "passes", "parameters", "ms/example"]
        ]
        for row in (row for row in self.rows if row.kind not in SUMMARIES):
            found = row.calibration.get(TEST)
            numbers = ["", "", "", "", "", ""]
            if found:
                ece, mce, brier, nll = found.ece, found.mce, found.brier, found.nll
                numbers = [f"{100 * ece:.1f}", f"{100 * mce:.1f}", f"{brier:.3f}", f"{nll:.3f}"]
                scaled = found.temperature is not None
                numbers += [f"{found.temperature:.2f}", f"{100 * found.ece_scaled:.1f}"] if scaled else ["", ""]
            latency = "" if row.latency is None else f"{row.latency:.2f}"
            lines.append([_called(row), *numbers, str(row.passes), f"{row.parameters / 1e6:.1f} M", latency])
        keep = [at for at, _ in enumerate(lines[0]) if any(line[at] for line in lines[1:])]
        return [[line[at] for at in keep] for line in lines]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Comparison:
        """The reverse of [`Comparison.to_dict`]."""
        import pydantic

        return pydantic.TypeAdapter(cls).validate_python(data)

    def to_pandas(self) -> pd.DataFrame:
        """A data frame with a line for each model, set and metric: `model, kind, set, metric, value, low, high`."""
        import pandas as pd

        lines = [
            (row.name, row.kind, part, metric, score.value, score.low, score.high)
            for row in self.rows
            for part, scores in row.scores.items()
            for metric, score in scores.items()
        ]
        return pd.DataFrame(lines, columns=["model", "kind", "set", "metric", "value", "low", "high"])

    def plot(self, kind: Literal["scores", "shifts", "reliability"] = "scores") -> Figure:
        """A picture of the comparison.

        Args:
            kind (`str`, *optional*, defaults to `"scores"`):
                `"scores"`: every test set with intervals; `"shifts"`: test against the mean of the shifted sets;
                `"reliability"`: accuracy by confidence on the test set.

        Raises:
            [`MissingExtraError`]: if matplotlib is not installed.
            [`RecipeError`]: if there is nothing to draw: no shifted set, no classifier.
        """
        if kind not in PICTURES:
            raise RecipeError(f'there is no picture "{kind}"{did_you_mean(kind, PICTURES)}')
        if kind not in self.pictures():
            raise RecipeError(f'the comparison has nothing for a picture of "{kind}".')
        return {"scores": self._plot_scores, "shifts": self._plot_shifts, "reliability": self._plot_reliability}[
            kind
        ]()

    def pictures(self) -> tuple[str, ...]:
        """Which pictures there is something to draw for."""
        return ("scores", *(["shifts"] if self._shifted() else []), *(["reliability"] if self.curves else []))

    def save(self, folder: str | os.PathLike, *, plots: bool = True) -> Path:
        """Write `comparison.md`, `comparison.json` and, where matplotlib is installed, the pictures.

        Files appear whole, and together where the folder is new.

        Args:
            folder (`str` or `os.PathLike`):
                Made where it is missing.
            plots (`bool`, *optional*, defaults to `True`):
                Whether pictures are drawn.

        Returns:
            `Path`: the folder.

        Raises:
            [`OutputError`]: if it cannot be written.
        """
        from ..checkpoints.staging import staged_files

        with staged_files(folder) as stage:
            (stage / "comparison.md").write_text(self._markdown() + "\n", encoding="utf-8")
            (stage / "comparison.json").write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")
            try:
                for kind in self.pictures() if plots else ():
                    self.plot(kind).savefig(stage / PICTURES[kind])
            except MissingExtraError as error:
                warn(f"no picture was drawn: {error}")
        return Path(folder)

    def _plot_scores(self) -> Figure:
        points = []
        for row in (row for row in self.rows if row.kind not in SUMMARIES):
            for part in (part for part in self.sizes if part != VALIDATION):
                score = row.scores.get(part, {}).get(self.metric)
                if score is None:
                    continue
                ends = (score.value if end is None else end for end in (score.low, score.high))
                if row.kind in SINGLE:
                    points.append(Point(part, row.name, "ingredient", score.value, score.value, score.value))
                if row.kind != "ingredient":
                    points.append(Point(part, _called(row), row.kind, score.value, *ends))
        return plot_scores(points, metric=self.metric, title=self.summary.split("\n")[0])

    def _plot_shifts(self) -> Figure:
        part = self._shifted()
        dots = [
            Dot(_called(row), row.kind, row.scores[TEST][self.metric].value, row.scores[part][self.metric].value)
            for row in self.rows
            if row.kind not in SUMMARIES
            and self.metric in row.scores.get(TEST, {})
            and self.metric in row.scores.get(part, {})
        ]
        sets = [name for name in self.sizes if name not in (VALIDATION, TEST, SHIFTS)]
        shifts = f"{len(sets)} shifted sets (mean)" if part == SHIFTS else part
        return plot_shifts(dots, metric=self.metric, shifts=shifts, title=self._shift_title(part))

    def _plot_reliability(self) -> Figure:
        curves = []
        for row in self.rows:
            if row.name in self.curves:
                ece = row.calibration[TEST].ece
                curves.append(Curve(f"{_called(row)} (ECE {100 * ece:.1f} %)", row.kind, **self.curves[row.name]))
        return plot_reliability(curves, title=f"Accuracy by confidence on {self.sizes[TEST]} test examples")

    def _shifted(self) -> str | None:
        """The set that stands for the shifts."""
        shifted = [name for name in self.sizes if name not in (VALIDATION, TEST)]
        return SHIFTS if SHIFTS in shifted else shifted[0] if shifted else None

    def _shift_title(self, part: str) -> str:
        found = [
            f"{soup} {signed(self.metric, sets[part]['single'].value)}"
            for soup, sets in self.differences.items()
            if "single" in sets.get(part, {})
        ]
        return f"On {part}, against the best on validation: {'; '.join(found)}" if found else f"Test against {part}"

    @property
    def mixture(self) -> str:
        """The weights of the learned mixture, where there is one."""
        mixed = next((row for row in self.rows if row.weights), None)
        shares = ", ".join(f"{weight:.2f} {name}" for name, weight in mixed.weights.items()) if mixed else ""
        return shares and f"The {mixed.name} is of {shares}."

    def _named(self, kind: str) -> str:
        return next((row.name for row in self.rows if row.kind == kind), "")


def signed(metric: str, difference: float | None) -> str:
    """A difference with its sign, in points where the metric is a share."""
    if difference is None:
        return "?"
    return f"{difference * 100:+.1f}" if metric in SHARES else f"{difference:+.4f}"


def _called(row: Row) -> str:
    return row.name + (" (best on validation)" if row.kind == "chosen" else "")


def _shown(metric: str, score: Interval | None) -> str:
    if score is None:
        return ""
    digits = 1 if metric in SHARES else 4
    value, low, high = (
        None if end is None else f"{end * (100 if metric in SHARES else 1):.{digits}f}"
        for end in (score.value, score.low, score.high)
    )
    return value if low is None else f"{value} [{low}, {high}]"
