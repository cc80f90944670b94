"""A first soup from Python: sweep, greedy merge, comparison. Tiny and offline; replace model and data by your own.

python examples/greedy_soup.py
"""

import tempfile
from pathlib import Path

import hf_soup
from hf_soup import testing


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    base = testing.save_text_model(testing.tiny_text_model(), folder / "base")  # or "google-bert/bert-base-uncased"
    train, validation, test = (
        testing.tiny_texts(200, seed=seed) for seed in range(3)
    )  # or datasets.load_dataset(...)

    runs = hf_soup.sweep(
        base,
        train,
        validation=validation,
        space={"learning_rate": [1e-3, 3e-3], "seed": range(2)},
        training_args={"num_train_epochs": 3, "per_device_train_batch_size": 16},
        output_dir=folder / "runs",
    )
    soup = hf_soup.merge(runs, strategy="greedy", evaluator=validation)
    comparison = hf_soup.compare(soup, test=test, validation=validation)
    print(comparison.table())
    soup.save_pretrained(folder / "soup")
    print(f"\nSaved to {folder / 'soup'}")


if __name__ == "__main__":
    main()
