# /// script
# requires-python = ">=3.11"
# dependencies = ["hf-soup[plot]"]
# ///
"""A soup of text classifiers in Python: a sweep, a greedy merge, and a comparison on a test set unseen by selection.

python examples/text_soup.py                                        # BERT on emotions in short texts; wants a GPU
python examples/text_soup.py --base my_model --data my_data         # a folder with train.csv, validation.csv, test.csv
python examples/text_soup.py --tiny                                 # random weights, made-up texts, half a minute
"""

import argparse
import tempfile
from pathlib import Path

import datasets

import hf_soup
from hf_soup import testing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="google-bert/bert-base-uncased")
    parser.add_argument("--data", default="dair-ai/emotion")
    parser.add_argument("--output", type=Path, default=Path("soups/text"))
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    if args.tiny:
        args.output = Path(tempfile.mkdtemp())
        args.base = testing.save_text_model(testing.tiny_text_model(), args.output / "base")
        data = datasets.DatasetDict(
            {name: testing.tiny_texts(200, seed) for seed, name in enumerate(("train", "test"))}
        )
    else:
        data = datasets.load_dataset(args.data)

    runs = hf_soup.sweep(
        args.base,
        data,  # without a validation split, a tenth of the training examples is held out
        space={"learning_rate": [1e-3, 3e-3] if args.tiny else [1e-5, 3e-5, 5e-5], "seed": range(2)},
        head="probe",  # one head for all runs, trained first with the body frozen
        training_args={"epochs": 3, "batch_size": 32, "warmup": 0.1, "weight_decay": 0.01},
        output_dir=args.output / "runs",
    )
    print(runs.table())
    try:
        runs.plot().savefig(args.output / "runs.png")
    except hf_soup.errors.MissingExtraError as error:  # everything else works without pictures
        print(error)

    _, validation = hf_soup.data.load_training(data)  # the same examples that the sweep scored its runs on
    soup = hf_soup.merge(runs, strategy="greedy", evaluator=validation)
    print(f"\n{soup.selection.table()}")
    print(f"\n{hf_soup.compare(soup, test=data['test'], validation=validation).table()}")
    print(f"\nSaved to {soup.save_pretrained(args.output / 'soup', overwrite=True)}")


if __name__ == "__main__":
    main()
