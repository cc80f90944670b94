"""The results of a comparison: tables, a data frame, pictures, files. `measure.py` computes the scores."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..display.results import Result
from ..display.tables import align, escape_markup
from ..errors import MissingExtraError, RecipeError, did_you_mean, warn
from ..metrics.statistics import SHARES, Interval, formatted, signed


if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Role = Literal["ingredient", "chosen", "mean", "oracle", "uniform", "soup", "ensemble"]
Rival = Literal["single", "ensemble"]
Picture = Literal["scores", "shifts", "reliability"]

COMPARISON_FILE = "comparison.json"
VALIDATION, TEST, SHIFTS = "validation", "test", "mean of shifts"  # names of data sets
SINGLE: tuple[Role, ...] = ("ingredient", "chosen")  # single fine-tuned models
SUMMARIES: tuple[Role, ...] = ("mean", "oracle")  # summaries of the ingredients' scores, not models
PICTURES: dict[Picture, str] = {  # picture -> file in a saved comparison
    "scores": "comparison.png",
    "shifts": "shifts.png",
    "reliability": "reliability.png",
}


@dataclass(frozen=True)
class Difference(Interval):
    """The difference between the scores of two models on the same examples.

    Args:
        value (`float`), low (`float`), high (`float`):
            The difference, and its 95 % interval by paired bootstrap.
        p (`float`, *optional*):
            The p-value of McNemar's exact test, if each example is either correct or wrong.
    """

    p: float | None = None


@dataclass(frozen=True)
class Calibrated:
    """Calibration of one model on one data set, before and after dividing its logits by a temperature.

    Args:
        ece (`float`), ece_mass (`float`), mce (`float`), brier (`float`), nll (`float`):
            Calibration without a temperature, as in [`hf_soup.metrics.calibration.Calibration`].
        temperature (`float`, *optional*):
            Temperature fitted on validation data.
        ece_scaled (`float`, *optional*), nll_scaled (`float`, *optional*):
            ECE and NLL with that temperature.
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
class ModelScores:
    """The measurements of one model, a row of the table.

    Args:
        name (`str`):
            Name of the model.
        role (`str`):
            Role of the model: `"ingredient"`, `"chosen"` (the best ingredient on validation data), `"mean"` (the mean
            of the ingredients' scores), `"oracle"` (the best ingredient on each data set), `"uniform"`, `"soup"` or
            `"ensemble"`.
        scores (`dict[str, dict[str, Interval]]`):
            Scores with their 95 % intervals by data set and metric, as far as they are known.
        passes (`int`):
            Number of forward passes for each example.
        parameters (`int`):
            Number of parameters of all models that are run.
        latency (`float`, *optional*):
            Milliseconds for each example of the test set, measured during scoring.
        calibration (`dict[str, Calibrated]`, *optional*):
            Calibration by data set, for classifiers.
        weights (`dict[str, float]`, *optional*):
            Weights of the ingredients in the learned mixture.
    """

    name: str
    role: Role
    scores: dict[str, dict[str, Interval]]
    passes: int
    parameters: int
    latency: float | None = None
    calibration: dict[str, Calibrated] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Name of the model in tables and pictures."""
        return f"{self.name} (best on validation)" if self.role == "chosen" else self.name

    def score(self, set_name: str, metric: str) -> Interval | None:
        """The score by one metric on one data set, if it is known."""
        return self.scores.get(set_name, {}).get(metric)


@dataclass(frozen=True, repr=False)
class Comparison(Result):
    """Scores of ingredients, soups and ensembles on the same examples.

    Args:
        metrics (`dict[str, bool | None]`):
            Metrics, and whether higher is better if that is known; the first metric ranks the models.
        sizes (`dict[str, int]`):
            Number of examples of each data set, in the order of the columns; 0 if a function scored.
        models (`tuple[ModelScores, ...]`):
            Rows of the table.
        differences (`dict[str, dict[str, dict[str, Difference]]]`):
            Paired differences by the first metric, by soup, data set and rival: `"single"`, the best ingredient on
            validation data, or `"ensemble"`.
        summary (`str`):
            Conclusions: a line for each soup, and one on the shifted test sets.
        curves (`dict[str, dict[str, list[float]]]`):
            Reliability diagrams on the test set by model: `confidence`, `accuracy` and `count` of each bin.
        sources (`dict[str, str]`):
            Hub ids of the data sets that have one.
    """

    metrics: dict[str, bool | None]
    sizes: dict[str, int]
    models: tuple[ModelScores, ...]
    differences: dict[str, dict[str, dict[Rival, Difference]]]
    summary: str
    curves: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)

    @property
    def metric(self) -> str:
        """The metric that ranks the models."""
        return next(iter(self.metrics))

    @property
    def mixture(self) -> str:
        """A sentence with the weights of the learned mixture; empty if there is none."""
        for model in self.models:
            if model.weights:
                shares = [f"{weight:.2f} {name}" for name, weight in model.weights.items()]
                return f"The {model.name} has the weights {', '.join(shares)}."
        return ""

    def table(self) -> str:
        """Scores, differences, calibration, cost and summary, in Markdown that also reads well in a terminal."""
        paragraphs = [align(cells) for cells in self.tables()]
        if self.mixture:
            paragraphs.append(self.mixture)
        return "\n\n".join([*paragraphs, self.summary])

    def _markdown(self) -> str:
        """The tables for a file that is rendered as Markdown, with names escaped."""
        tables = [align(cells, escape_markup) for cells in self.tables()]
        sentences = self.summary.split("\n")
        if self.mixture:
            sentences.insert(0, self.mixture)
        return "\n\n".join([*tables, "\n".join(map(escape_markup, sentences))])

    def tables(self) -> list[list[list[str]]]:
        """The cells of each table: scores by each metric, differences, and costs of models."""
        tables = [self._scores(metric) for metric in self.metrics]
        differences = self._differences()
        if differences:
            tables.append(differences)
        return [*tables, self._costs()]

    def _scores(self, metric: str) -> list[list[str]]:
        """Scores by one metric, with a row for each model and a column for each data set."""
        head = [f"{metric}, %" if metric in SHARES else metric]
        for set_name, size in self.sizes.items():
            # The number of examples is not known for a function, and not defined for a mean of data sets.
            head.append(f"{set_name} (n={size})" if size else set_name)
        lines = [head]
        for model in self.models:
            cells = [_score_cell(metric, model.score(set_name, metric)) for set_name in self.sizes]
            lines.append([model.title, *cells])
        return lines

    def _differences(self) -> list[list[str]]:
        """Each soup against the best single model and against the ensemble, with intervals; empty if there is none."""
        head = ["soup", "against", "set", f"difference in {self.metric}", "95 % interval", "McNemar p"]
        rivals: dict[Rival, str] = {"single": self._first_of("chosen"), "ensemble": self._first_of("ensemble")}
        lines = []
        for soup, by_set in self.differences.items():
            for set_name, by_rival in by_set.items():
                for rival, difference in by_rival.items():
                    lines.append([soup, rivals[rival], set_name, *self._difference_cells(difference)])
        return [head, *lines] if lines else []

    def _difference_cells(self, difference: Difference) -> list[str]:
        """A difference, its interval, and its p-value if there is one."""
        low, high = signed(self.metric, difference.low), signed(self.metric, difference.high)
        p = "" if difference.p is None else f"{difference.p:.3f}"
        return [signed(self.metric, difference.value), f"[{low}, {high}]", p]

    def _costs(self) -> list[list[str]]:
        """Calibration on the test set, and the cost of running each model, without empty columns."""
        head = ["model", "ECE", "MCE", "Brier", "NLL", "temperature", "ECE then", "passes", "parameters", "ms/example"]
        lines = []
        for model in self.models:
            if model.role in SUMMARIES:
                continue
            latency = "" if model.latency is None else f"{model.latency:.2f}"
            costs = [str(model.passes), f"{model.parameters / 1e6:.1f} M", latency]
            lines.append([model.title, *_calibration_cells(model.calibration.get(TEST)), *costs])
        # Only classifiers have calibration, temperatures need validation data, and latency needs a data set.
        is_filled = list(map(any, zip(*lines, strict=True)))
        return [list(itertools.compress(line, is_filled)) for line in [head, *lines]]

    def _first_of(self, role: Role) -> str:
        """Name of the first model with a role; empty if there is none."""
        return next((model.name for model in self.models if model.role == role), "")

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, which [`Comparison.from_dict`] reads."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Comparison:
        """The reverse of [`Comparison.to_dict`]."""
        import pydantic

        return pydantic.TypeAdapter(cls).validate_python(data)

    def to_pandas(self) -> pd.DataFrame:
        """A data frame of scores with the columns `model`, `role`, `set`, `metric`, `value`, `low` and `high`."""
        import pandas as pd

        lines = []
        for model in self.models:
            for set_name, scores in model.scores.items():
                for metric, score in scores.items():
                    lines.append((model.name, model.role, set_name, metric, score.value, score.low, score.high))
        return pd.DataFrame(lines, columns=["model", "role", "set", "metric", "value", "low", "high"])

    def plot(self, picture: Picture = "scores") -> Figure:
        """Draw a picture of the comparison.

        Args:
            picture (`str`, *optional*, defaults to `"scores"`):
                Picture to draw: `"scores"`, the scores on every test set with intervals; `"shifts"`, the test set
                against the mean of the shifted test sets; or `"reliability"`, accuracy by confidence on the test set.

        Raises:
            [`MissingExtraError`]: if matplotlib is not installed.
            [`RecipeError`]: if there is nothing to draw, because there is no shifted set or no classifier.
        """
        if picture not in PICTURES:
            raise RecipeError(f'there is no picture "{picture}"{did_you_mean(picture, PICTURES)}')
        if picture not in self.pictures():
            raise RecipeError(f'the comparison has no data for the picture "{picture}".')
        from .pictures import draw_reliability, draw_scores, draw_shifts  # which imports this module

        draw = {"scores": draw_scores, "shifts": draw_shifts, "reliability": draw_reliability}
        return draw[picture](self)

    def pictures(self) -> tuple[str, ...]:
        """The pictures for which there is data."""
        pictures = ["scores"]
        if shifted_sets(self.sizes):
            pictures.append("shifts")
        if self.curves:
            pictures.append("reliability")
        return tuple(pictures)

    def save(self, folder: str | os.PathLike[str], *, plots: bool = True) -> Path:
        """Write `comparison.md`, `comparison.json` and, if matplotlib is installed, the pictures.

        Each file only appears when it is complete; a new folder appears with all of its files.

        Args:
            folder (`str` or `os.PathLike`):
                Folder to write to; it is created if it does not exist.
            plots (`bool`, *optional*, defaults to `True`):
                Whether pictures are drawn.

        Returns:
            `Path`: the folder.

        Raises:
            [`OutputError`]: if the folder cannot be written.
        """
        from ..checkpoints.staging import staged_files

        with staged_files(folder) as stage:
            # Names are untrusted, and could be rendered as links or HTML in Markdown.
            (stage / "comparison.md").write_text(self._markdown() + "\n", encoding="utf-8")
            (stage / COMPARISON_FILE).write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")
            drawn = self.pictures() if plots else ()
            try:
                for picture, file_name in PICTURES.items():
                    if picture in drawn:
                        self.plot(picture).savefig(stage / file_name)
            except MissingExtraError as error:  # the numbers are worth saving without matplotlib
                warn(f"no picture was drawn: {error}")
        return Path(folder)


def shifted_sets(names: Iterable[str]) -> list[str]:
    """The shifted test sets among some data sets, without their mean.

    Args:
        names (`Iterable[str]`):
            Names of data sets.
    """
    return [name for name in names if name not in (VALIDATION, TEST, SHIFTS)]


def _score_cell(metric: str, score: Interval | None) -> str:
    """A score and its interval as a cell."""
    if score is None:
        return ""
    value = formatted(metric, score.value)
    if score.low is None or score.high is None:
        return value
    return f"{value} [{formatted(metric, score.low)}, {formatted(metric, score.high)}]"


def _calibration_cells(calibration: Calibrated | None) -> list[str]:
    """ECE, MCE, Brier score, NLL, temperature, and ECE with that temperature."""
    if calibration is None:  # not a classifier
        return [""] * 6
    cells = [f"{100 * calibration.ece:.1f}", f"{100 * calibration.mce:.1f}"]
    cells += [f"{calibration.brier:.3f}", f"{calibration.nll:.3f}"]
    if calibration.temperature is None or calibration.ece_scaled is None:
        return [*cells, "", ""]
    return [*cells, f"{calibration.temperature:.2f}", f"{100 * calibration.ece_scaled:.1f}"]
