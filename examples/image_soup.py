# /// script
# requires-python = ">=3.11"
# dependencies = ["hf-soup[plot]"]
# ///
"""A soup of image classifiers in Python: a random search, learned weights, and a comparison that has a shifted set.

python examples/image_soup.py                                       # a ViT on CIFAR-10; wants a GPU
python examples/image_soup.py --base my_model --data my_images      # a folder with train/CLASS/ and test/CLASS/
python examples/image_soup.py --tiny                                # random weights, made-up images, half a minute
"""

import argparse
import tempfile
from pathlib import Path

import datasets

import hf_soup
from hf_soup import testing, transforms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="google/vit-base-patch16-224-in21k")
    parser.add_argument("--data", default="uoft-cs/cifar10")
    parser.add_argument("--output", type=Path, default=Path("soups/images"))
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    if args.tiny:
        args.output = Path(tempfile.mkdtemp())
        args.base = testing.save_image_model(testing.tiny_image_model(), args.output / "base")
        data = {name: testing.tiny_images(120, seed=seed) for seed, name in enumerate(("train", "test"))}
        data = datasets.DatasetDict(data)
    else:
        data = datasets.load_dataset(args.data)

    train, validation = hf_soup.data.load_training(data)
    runs = hf_soup.sweep(
        args.base,
        train,
        validation=validation,
        space={
            "learning_rate": {"loguniform": [1e-3, 1e-2] if args.tiny else [1e-5, 1e-4]},
            "label_smoothing": [0.0, 0.1],
            "augment": [{"flip": 0.5}, {"flip": 0.5, "crop": 0.2}],
            "seed": {"integers": [0, 1000]},
        },
        n_runs=4,
        training_args={"epochs": 2, "batch_size": 32, "scheduler": "cosine", "warmup": 0.1},
        output_dir=args.output / "runs",
    )
    print(runs.table())

    soup = hf_soup.merge(runs, strategy="learned", evaluator=validation)
    print(f"\n{soup.selection.table()}")
    image = next(name for name, feature in data["test"].features.items() if isinstance(feature, datasets.Image))
    rotated = transforms.shifted_copy(data["test"], image, {"rotate": 30})
    comparison = hf_soup.compare(soup, test=data["test"], shifted={"rotated": rotated}, validation=validation)
    print(f"\n{comparison.table()}")
    print(f"\nSaved to {soup.save_pretrained(args.output / 'soup', overwrite=True)}")


if __name__ == "__main__":
    main()
