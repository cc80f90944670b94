"""Similarity of ten BERT-base models: our one pass against a plain torch loop and against reading the files, in turn.

python benchmarks/similarity.py              # ten models, three rounds: 4.4 GB of disk, some minutes

The floor reads every file once. The plain loop loads all models and computes the cosine of the changes of each pair,
tensor by tensor, in float64, and nothing else. Ours has cosines of weights and changes, distances, angles and signs of
every tensor. Each is a function call in one process, after a warm-up; the files are in the page cache. The target is
twice the floor for the inner products; signs are told apart. Inputs are random numbers in the shapes of BERT-base.
"""

from __future__ import annotations

import itertools
import resource
import statistics
import tempfile
import time
from pathlib import Path

import click


def make_models(folder: Path, count: int) -> list[Path]:
    """A base model and fine-tunes that lie near it."""
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
    """All models in memory; the cosine of the changes of each pair, tensor by tensor."""
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
    """Everything of every tensor, in one pass."""
    from hf_soup.analysis.similarity import measure_similarity
    from hf_soup.checkpoints.source import open_all

    base, *runs = open_all(folders)
    measure_similarity(runs, base)


def without_signs(folders: list[Path]) -> None:
    """The inner products alone: cosines, distances, angles, lengths."""
    import numpy as np

    from hf_soup.checkpoints.gram import inner_products
    from hf_soup.checkpoints.source import open_all

    base, *runs = open_all(folders)
    specs = [spec for spec in base.specs.values() if spec.is_floating]
    grams = {spec.name: np.zeros((len(folders),) * 2) for spec in specs}
    inner_products([*runs, base], specs, grams.__getitem__, deltas=True)


@click.command(help=__doc__.split("\n")[0])
@click.option("--models", default=10, show_default=True)
@click.option("-r", "--rounds", default=3, show_default=True)
def main(models: int, rounds: int) -> None:
    tools = {"floor": floor, "hf_soup, inner products": without_signs, "hf_soup, all": ours, "plain loop": plain_loop}
    with tempfile.TemporaryDirectory() as folder:
        folders = make_models(Path(folder), models)
        size = sum((path / "model.safetensors").stat().st_size for path in folders) / 1e9
        click.echo(f"{models} fine-tunes and their base, {size:.1f} GB")
        seconds: dict[str, list[float]] = {name: [] for name in tools}
        memory: dict[str, int] = {}
        for _ in range(rounds + 1):
            for name, tool in tools.items():
                before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                start = time.perf_counter()
                tool(folders)
                seconds[name].append(time.perf_counter() - start)
                memory.setdefault(name, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
        reference = statistics.median(seconds["floor"][1:])
        for name, times in seconds.items():
            median = statistics.median(times[1:])
            peak = f"{memory[name]:6,} MB more at the peak"
            click.echo(f"{name:26}{median:7.2f} s  {median / reference:6.2f} x floor  {peak}")


if __name__ == "__main__":
    main()
