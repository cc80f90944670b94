"""Similarity of ten BERT-base models: the package's single pass against a plain torch loop and reading the files.

python benchmarks/similarity.py              # ten models, three rounds: 4.4 GB of disk, some minutes

The lower bound ("floor") reads every file once. The plain loop loads all models and computes only the cosine of the
changes of each pair, tensor by tensor, in float64. The package computes cosines of weights and changes, distances,
angles and signs for every tensor. Each is timed on the second call in its own process, with the files in the page
cache. The target was twice the lower bound, but the product of eleven rows in float64 alone takes more than that.
Inputs are random numbers in the shapes of BERT-base.
"""

from __future__ import annotations

import itertools
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click


def make_models(folder: Path, count: int) -> list[Path]:
    """Save a base model and fine-tunes close to it."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(num_labels=2)
    model = transformers.BertForSequenceClassification(config)
    found = [folder / "base"]
    model.save_pretrained(found[0])
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for index in range(count):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(start[name] + 1e-3 * torch.randn_like(parameter))
        found.append(folder / f"run-{index}")
        model.save_pretrained(found[-1])
    return found


def floor(folders: list[Path]) -> None:
    """Read every file once, on one thread, into one buffer."""
    buffer = bytearray(2**20)
    for folder in folders:
        with open(folder / "model.safetensors", "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def plain_loop(folders: list[Path]) -> None:
    """Load all models into memory, and compute the cosine of the changes of each pair, tensor by tensor."""
    from safetensors.torch import load_file

    base, *runs = (load_file(folder / "model.safetensors") for folder in folders)
    for name, start in base.items():
        if not start.is_floating_point():
            continue
        deltas = [(run[name].double() - start.double()).flatten() for run in runs]
        lengths = [delta.norm() for delta in deltas]
        for i, j in itertools.combinations(range(len(runs)), 2):
            (deltas[i] @ deltas[j]) / (lengths[i] * lengths[j])


def ours(folders: list[Path]) -> None:
    """Compute all measures of every tensor in one pass."""
    from hf_soup.analysis.similarity import measure_similarity
    from hf_soup.checkpoints.source import open_all

    base, *runs = open_all(folders)
    measure_similarity(runs, base)


def without_signs(folders: list[Path]) -> None:
    """Compute only the inner products: cosines, distances, angles and lengths."""
    from hf_soup.analysis.gram import measure_grams
    from hf_soup.checkpoints.source import open_all

    base, *runs = open_all(folders)
    measure_grams(runs, base, [spec for spec in base.specs.values() if spec.is_floating])


TOOLS = {"floor": floor, "hf_soup, inner products": without_signs, "hf_soup, all": ours, "plain loop": plain_loop}


def measure(name: str, folders: list[Path]) -> tuple[float, int]:
    """Seconds of the second call in a separate process, and its peak memory in MB above the imports."""
    done = subprocess.run(
        [sys.executable, __file__, "--tool", name, *map(str, folders)], capture_output=True, text=True, check=True
    )
    seconds, peak = done.stdout.split()
    return float(seconds), int(peak)


@click.command(help=__doc__.split("\n")[0])
@click.argument("folders", nargs=-1)
@click.option("--tool", help="Run one tool on folders, and print seconds and MB.")
@click.option("--models", default=10, show_default=True)
@click.option("-r", "--rounds", default=3, show_default=True)
def main(folders: tuple[str, ...], tool: str | None, models: int, rounds: int) -> None:
    if tool is not None:
        import torch  # noqa: F401

        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        paths = [Path(folder) for folder in folders]
        TOOLS[tool](paths)
        start = time.perf_counter()
        TOOLS[tool](paths)
        seconds = time.perf_counter() - start
        click.echo(f"{seconds} {(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024}")
        return
    with tempfile.TemporaryDirectory() as folder:
        made = make_models(Path(folder), models)
        size = sum((path / "model.safetensors").stat().st_size for path in made) / 1e9
        click.echo(f"{models} fine-tunes and their base, {size:.1f} GB")
        found: dict[str, list[tuple[float, int]]] = {name: [] for name in TOOLS}
        for _ in range(rounds):
            for name in TOOLS:
                found[name].append(measure(name, made))
        reference = statistics.median(seconds for seconds, _ in found["floor"])
        for name, runs in found.items():
            median, peak = statistics.median(seconds for seconds, _ in runs), max(peak for _, peak in runs)
            click.echo(f"{name:26}{median:7.2f} s  {median / reference:6.2f} x floor  {peak:7,} MB at the peak")


if __name__ == "__main__":
    main()
