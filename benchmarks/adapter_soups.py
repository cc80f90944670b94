"""Soups of adapters beside soups of whole fine-tunes: six runs of each on the same data, and mixtures of both.

python benchmarks/adapter_soups.py DATA --runs RUNS --only sst2 --only banking77 --plot docs/adapters.png

DATA and RUNS are those of `gain.py`, whose first six runs are the whole fine-tunes. The adapters are LoRA runs of
rank 8 and 16 with two learning rates, and a second seed of the larger rank. Each row has the accuracy on validation
and test, its paired difference on test from the whole fine-tune that is best on validation, in points with 95 %
intervals, and the size of what is saved. The measurements are in `docs/adapters.md`.
"""

from __future__ import annotations

import shutil
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from gain import RESAMPLES, SETS, TEXT_ARGS, Runs, best_of, load, score, sweep_task, with_interval

import hf_soup
from hf_soup.display.figure import COLORS, WIDTH, in_style, new_panels
from hf_soup.display.tables import align
from hf_soup.metrics.statistics import Interval, interval


if TYPE_CHECKING:
    from matplotlib.figure import Figure

COUNT = 6
RATES = (5e-4, 2e-3)
SPACE = [{"peft.r": rank, "learning_rate": rate, "seed": 0} for rank in (8, 16) for rate in RATES]
SPACE += [{"peft.r": 16, "learning_rate": rate, "seed": 1} for rate in RATES]
SMALL = 8  # rank of a truncated soup


class Table:
    """Rows of models with their scores, all compared with one reference.

    Args:
        examples (`dict`):
            Validation and test examples.
        base (`Path`):
            Start of the runs, with its tokenizer.
        name (`str`):
            Name of the data set.
    """

    def __init__(self, examples: dict[str, Any], base: Path, name: str):
        self.lines = [["model", "validation", "test", "less the best whole run", "saved, MB", "seconds"]]
        self.title = f"{name} (n = {len(examples['test'])})"
        self.differences: dict[str, Interval] = {}
        self._metric, self._before = SETS[name].metric, None
        self._scored = {}
        for split in ("validation", "test"):
            evaluator = hf_soup.Evaluator(examples[split], metric=self._metric, cache=False)
            self._scored[split] = evaluator.bound(str(base), sweep_task(name))

    def add(self, title: str, model: Any, size: float = 0.0, seconds: float = 0.0) -> None:
        """Score a model; the first one is the reference."""
        predictions = self._scored["test"].predict(model)
        validation = self._scored["validation"](model).value
        self.add_predicted(title, predictions.logits, predictions.labels, validation, size, seconds)

    def add_ensemble(self, title: str, models: Sequence[Any]) -> None:
        """Score the mean of the logits of several models."""
        by_split = {}
        for split, evaluator in self._scored.items():
            all_predictions = [evaluator.predict(model) for model in models]
            by_split[split] = np.mean([each.logits for each in all_predictions], axis=0), all_predictions[0].labels
        logits, labels = by_split["validation"]
        validation = float((logits.argmax(1) == labels).mean())
        self.add_predicted(title, *by_split["test"], validation, 0.0, 0.0)

    def add_predicted(
        self, title: str, logits: np.ndarray, labels: np.ndarray, validation: float, size: float, seconds: float
    ) -> None:
        """Add a row for predictions on test."""
        rows = np.random.default_rng(0).integers(len(labels), size=(RESAMPLES, len(labels)))
        values = score(logits.argmax(1), labels, np.concatenate([np.arange(len(labels))[None], rows]), self._metric)
        if self._before is None:
            self._before = values
        difference = 100 * (values - self._before)
        self.differences[title] = interval(float(difference[0]), difference[1:])
        cells = [f"{100 * validation:.1f}", f"{100 * values[0]:.1f}", with_interval(difference)]
        for number, form in ((size, ".1f"), (seconds, ".0f")):
            cells.append(format(number, form) if number else "")
        self.lines.append([title, *cells])


def saved_size(soup: hf_soup.Soup, folder: Path, **options: Any) -> float:
    """The megabytes of the weights of a saved soup."""
    path = soup.save_pretrained(folder / "soup", overwrite=True, **options)
    return sum(file.stat().st_size for file in path.glob("*.safetensors")) / 1e6


def soups_of(
    table: Table, title: str, sources: Sequence[Path], evaluator: hf_soup.Evaluator, folder: Path, *, ensemble: bool
) -> hf_soup.Soup:
    """Add the uniform and the greedy soup of some runs, and their ensemble; the greedy soup is returned."""
    uniform = hf_soup.merge(sources)
    table.add(f"{title}: uniform", uniform.model, saved_size(uniform, folder))
    started = time.perf_counter()
    greedy = hf_soup.merge(sources, strategy="greedy", evaluator=evaluator)
    seconds = time.perf_counter() - started
    kept = len(greedy.recipe.mixture.used)
    table.add(f"{title}: greedy ({kept})", greedy.model, saved_size(greedy, folder), seconds)
    if ensemble:
        table.add_ensemble(f"{title}: ensemble", [hf_soup.merge([source]).model for source in sources])
    return greedy


@in_style
def plot(tables: Sequence[Table]) -> Figure:
    """A panel for each set: the difference of each model from the best whole run, with its interval."""
    height = 0.6 + 3.6 * len(tables)
    figure, panels = new_panels(
        WIDTH, height, "Soups of adapters and of whole fine-tunes", heights=[1] * len(tables), share_x=False
    )
    for axes, table in zip(panels, tables, strict=True):
        axes.axvline(0, color=COLORS["chosen"])
        for row, (title, found) in enumerate(table.differences.items()):
            color = COLORS["ingredient" if "best run" in title or "ensemble" in title else "soup"]
            axes.hlines(row, found.low, found.high, color=color, linewidth=2)
            axes.plot([found.value], [row], "o", color=color)
        axes.set_yticks(range(len(table.differences)), list(table.differences))
        axes.set_ylim(len(table.differences) - 0.5, -0.5)
        axes.set_title(table.title)
        axes.grid(axis="x")
    panels[-1].set_xlabel("points above the best whole run")
    return figure


@click.command(help=__doc__)
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--runs", required=True, type=click.Path(exists=True, path_type=Path), help="The runs of gain.py.")
@click.option("--only", multiple=True, required=True, type=click.Choice(list(SETS)), help="A set; repeat for several.")
@click.option("--plot", "picture", type=click.Path(), help="PNG of the differences.")
def main(data: Path, runs: Path, only: Sequence[str], picture: str | None) -> None:
    warnings.simplefilter("ignore")
    tables = []
    for name in only:
        examples = load(name, data, draw=0)
        folder = runs / f"{name}-0"
        lora = hf_soup.sweep(
            str(folder / "start"),
            examples["train"],
            validation=examples["validation"],
            space=SPACE,
            output_dir=runs / f"{name}-0-lora",
            metric=SETS[name].metric,
            keep="last",
            training_args={**TEXT_ARGS, **SETS[name].training_args},
            peft={"lora_alpha": 16, "target_modules": "all-linear"},
            head="checkpoint",
        )
        evaluator = hf_soup.Evaluator(examples["validation"], metric=SETS[name].metric, cache=False)
        whole = Runs(sweep=hf_soup.load_sweep(folder), evaluator=evaluator, base=folder / "start", train=None)
        first = whole.grid[:COUNT]
        table = Table(examples, folder / "start", name)
        work = Path(tempfile.mkdtemp())
        best = hf_soup.merge([best_of(first)[0].folder])
        table.add("whole: best run", best.model, saved_size(best, work))
        sources = [run.folder for run in first]
        soups_of(table, "whole", sources, evaluator, work, ensemble=True)
        best = hf_soup.merge([best_of(list(lora))[0].folder])
        table.add("adapters: best run", best.model, saved_size(best, work))
        adapters = [run.folder for run in lora]
        greedy = soups_of(table, "adapters", adapters, evaluator, work, ensemble=True)
        uniform = hf_soup.merge(adapters)
        for title, soup in (("uniform", uniform), ("greedy", greedy)):
            size = saved_size(soup, work, rank=SMALL)
            error = hf_soup.load_recipe(work / "soup").adapter.error
            model = hf_soup.merge([work / "soup"]).model
            table.add(f"adapters: {title}, rank {SMALL} (error {error:.0%})", model, size)
        soups_of(table, "both", [*sources, *adapters], evaluator, work, ensemble=False)
        shutil.rmtree(work)
        click.echo(f"{table.title}\n{align(table.lines)}\n")
        tables.append(table)
    if picture is not None:
        plot(tables).savefig(picture)


if __name__ == "__main__":
    main()
