"""Which method: uniform and greedy soups of the same six runs by different methods.

python benchmarks/methods.py DATA --runs RUNS --only sst2 --only trec6

DATA and RUNS are those of `gain.py`, whose runs come first. The six are the first runs of its grid, at the end of
training (four learning rates with one seed, two with another). `fisher` and `regmean` estimate the importance of
weights on 1,000 training examples. Each row has the accuracy of the soup on validation, and its paired difference on
test from the run that is best on validation, in points with 95 % intervals; then the ingredients that greedy kept, and
the seconds of the whole call on two cores, importance included. The measurements are in `docs/strategies.md`.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
from gain import REFERENCE, RESAMPLES, SETS, Runs, best_of, load, score, sweep_task, with_interval

import hf_soup
from hf_soup.display.tables import align
from hf_soup.plugins import asks_for, load_function, method_traits


RUNS_USED = 6
METHODS: dict[str, dict[str, Any]] = {
    "linear": {},
    "ties": {"density": 0.2},
    "dare_ties": {"density": 0.5, "normalize": True},
    "model_stock": {},
    "fisher": {},
    "regmean": {},
}


class Measured(NamedTuple):
    """A soup's score on validation, its predictions and the labels on test, number of ingredients, and seconds."""

    validation: float
    predicted: np.ndarray
    labels: np.ndarray
    ingredients: int
    seconds: float


def measure(soup: hf_soup.Soup, examples: dict[str, Any], base: Path, name: str, started: float) -> Measured:
    """Build a soup's model, and run it on validation and test."""
    model, seconds = soup.model, time.perf_counter() - started
    scored = {}
    for split in ("validation", "test"):
        evaluator = hf_soup.Evaluator(examples[split], metric=SETS[name].metric, cache=False)
        scored[split] = evaluator.bound(str(base), sweep_task(name))
    predictions = scored["test"].predict(model)
    return Measured(
        validation=scored["validation"](model).value,
        predicted=predictions.logits.argmax(1),
        labels=predictions.labels,
        ingredients=len(soup.recipe.names),
        seconds=seconds,
    )


def compare_methods(name: str, folder: Path, examples: dict[str, Any], methods: Sequence[str]) -> list[list[str]]:
    """A row for each method and strategy, after one for the best run."""
    base = folder / "start"
    sweep = hf_soup.load_sweep(folder)
    evaluator = hf_soup.Evaluator(examples["validation"], metric=SETS[name].metric, cache=False)
    runs = Runs(sweep=sweep, evaluator=evaluator, base=base, train=None).grid[:RUNS_USED]
    sources = [run.folder for run in runs]
    best = measure(hf_soup.merge([best_of(runs)[0].folder]), examples, base, name, time.perf_counter())
    labels = best.labels
    rows = np.random.default_rng(0).integers(len(labels), size=(RESAMPLES, len(labels)))
    rows = np.concatenate([np.arange(len(labels))[None], rows])
    before = score(best.predicted, labels, rows, SETS[name].metric)
    lines = [
        ["method", "strategy", "validation", "test, less the best run", "ingredients", "seconds"],
        [REFERENCE, "", f"{100 * best.validation:.1f}", f"{100 * before[0]:.1f}", "1", ""],
    ]
    for method in methods:
        function = load_function("method", method)
        options: dict[str, Any] = {"method": method, **METHODS[method]}
        if asks_for(function, "base"):
            options["base_model"] = base
        if method_traits(function).importance is not None:
            options["importance_data"] = examples["train"]
        for strategy in ("uniform", "greedy"):
            click.echo(f"{name}: {method}, {strategy}", err=True)
            started = time.perf_counter()
            chosen = {"strategy": strategy, "evaluator": evaluator} if strategy == "greedy" else {}
            soup = measure(hf_soup.merge(sources, **options, **chosen), examples, base, name, started)
            gain = 100 * (score(soup.predicted, labels, rows, SETS[name].metric) - before)
            lines.append(
                [
                    method,
                    strategy,
                    f"{100 * soup.validation:.1f}",
                    with_interval(gain),
                    str(soup.ingredients),
                    f"{soup.seconds:.0f}",
                ]
            )
    return lines


@click.command(help=__doc__)
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--runs", required=True, type=click.Path(exists=True, path_type=Path), help="The runs of gain.py.")
@click.option("--only", multiple=True, required=True, type=click.Choice(list(SETS)), help="A set; repeat for several.")
@click.option("--method", multiple=True, type=click.Choice(list(METHODS)), help="A method; repeat for several.")
def main(data: Path, runs: Path, only: Sequence[str], method: Sequence[str]) -> None:
    warnings.simplefilter("ignore")
    for name in only:
        examples = load(name, data, draw=0)
        lines = compare_methods(name, runs / f"{name}-0", examples, method or list(METHODS))
        click.echo(f"{name} (n = {len(examples['test'])})\n{align(lines)}\n")


if __name__ == "__main__":
    main()
