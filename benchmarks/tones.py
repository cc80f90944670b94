"""Soups of models of speech, on a toy: a tiny Wav2Vec2 with CTC learns to write down tones as letters.

python benchmarks/tones.py

Each letter is a tone of its own height, and a blank is silence. The start is trained first, as a pre-trained model
would be; six runs with three learning rates and two seeds go on from it. All of it takes a minute.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import click
import datasets
import numpy as np

import hf_soup
from hf_soup import plugins, testing


HEIGHTS = {"A": 0.15, "B": 0.5, "C": 1.1, " ": 0.0}
SAMPLES = 80  # of each letter
NOISE = 0.3
TASK = "automatic-speech-recognition"


def spoken(rows: int, seed: int) -> datasets.Dataset:
    """Random words of a few letters, and their noisy tones."""
    rng = np.random.default_rng(seed)
    texts, sounds = [], []
    for _ in range(rows):
        letters = rng.choice(list(HEIGHTS), size=rng.integers(4, 12), p=[0.28, 0.28, 0.28, 0.16])
        text = " ".join("".join(letters).split()) or "A"
        tones = np.concatenate([np.sin(np.arange(SAMPLES) * HEIGHTS[letter]) for letter in text])
        texts.append(text)
        sounds.append((tones + NOISE * rng.normal(size=len(tones))).tolist())
    return datasets.Dataset.from_dict({"audio": sounds, "text": texts})


@click.command(help=__doc__)
def main() -> None:
    warnings.simplefilter("ignore")
    train, validation, test = spoken(256, 1), spoken(128, 2), spoken(500, 3)
    options = {"task": TASK, "validation": validation, "on_error": "raise"}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        blank = testing.save_model_for(plugins.load_module("task", TASK), work / "blank")
        args = {"epochs": 30, "batch_size": 8, "learning_rate": 5e-3}
        start = hf_soup.sweep(
            blank, train, space={"seed": [0]}, output_dir=work / "start", training_args=args, **options
        )[0].folder
        space = {"learning_rate": [1e-3, 2e-3, 4e-3], "seed": [0, 1]}
        runs = hf_soup.sweep(
            start, train, space=space, output_dir=work / "runs", training_args={**args, "epochs": 6}, **options
        )
        soup = hf_soup.merge(runs, strategy="greedy", evaluator=hf_soup.Evaluator(validation, task=TASK))
        on_test = hf_soup.Evaluator(test, task=TASK, metric=["wer", "cer"])
        click.echo(hf_soup.compare(soup, test=on_test).table())


if __name__ == "__main__":
    main()
