"""Overhead of a sweep over a plain Trainer loop with the same runs, arguments, evaluations and checkpoints.

Both use the same saved start and score at each epoch; the loop tokenises once, as is usual. They run alternately, in
the order A B B A, each into an empty folder. The ratio of the total times is printed, and whether the weights are
equal.

python benchmarks/sweep_overhead.py --model MODEL --data DATA [--rounds 2]
"""

import argparse
import shutil
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import datasets
import transformers
from safetensors.torch import load_file

import hf_soup


SPACE = {"learning_rate": [5e-5, 1e-4], "seed": [0, 1]}
SHARED = {"num_train_epochs": 2, "per_device_train_batch_size": 32}


def bare_loop(start: Path, train: datasets.Dataset, validation: datasets.Dataset, out: Path) -> None:
    """The usual loop: for each setting a new model, arguments and a Trainer."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(start)

    def encode(data: datasets.Dataset) -> datasets.Dataset:
        texts = [name for name in data.column_names if name != "label"]
        made = data.map(
            lambda batch: tokenizer(*[batch[name] for name in texts], truncation=True),
            batched=True,
            remove_columns=texts,
            keep_in_memory=True,
        )
        return made.rename_column("label", "labels")

    train, validation = encode(train), encode(validation)
    for index, (rate, seed) in enumerate((rate, seed) for rate in SPACE["learning_rate"] for seed in SPACE["seed"]):
        transformers.set_seed(seed)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(start)
        args = transformers.TrainingArguments(
            output_dir=str(out / f"run-{index}"),
            learning_rate=rate,
            seed=seed,
            eval_strategy="epoch",
            save_strategy="epoch",
            logging_strategy="epoch",
            save_total_limit=1,
            metric_for_best_model="accuracy",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            **SHARED,
        )
        trainer = transformers.Trainer(
            model=model,
            args=args,
            train_dataset=train,
            eval_dataset=validation,
            processing_class=tokenizer,
            data_collator=transformers.DataCollatorWithPadding(tokenizer),
            compute_metrics=lambda said: {
                "accuracy": float((said.predictions.argmax(axis=-1) == said.label_ids).mean())
            },
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
        trainer.save_model(str(out / f"run-{index}"))


def sweep(start: Path, train: datasets.Dataset, validation: datasets.Dataset, out: Path) -> None:
    given = {"space": SPACE, "training_args": SHARED, "keep": "last", "metric": "accuracy", "output_dir": out}
    hf_soup.sweep(start, train, validation=validation, **given)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a pre-trained text model: a folder or a Hub id")
    parser.add_argument("--data", required=True, help="a folder with train.csv and validation.csv")
    parser.add_argument("--rows", type=int, default=800)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    folder = Path(tempfile.mkdtemp())
    train, validation = hf_soup.data.load_training(args.data)
    train, validation = train.select(range(args.rows)), validation.select(range(min(200, len(validation))))
    first = {"training_args": {"max_steps": 1, "report_to": "none"}, "space": [{}], "output_dir": folder / "first"}
    start = hf_soup.sweep(args.model, train, validation=validation, **first).base_model
    seconds: dict[str, list[float]] = {"loop": [], "sweep": []}
    kinds = {"loop": bare_loop, "sweep": sweep}
    for turn in range(args.rounds):
        for name in ("loop", "sweep") if turn % 2 == 0 else ("sweep", "loop"):
            out = folder / name
            shutil.rmtree(out, ignore_errors=True)
            began = time.perf_counter()
            kinds[name](start, train, validation, out)
            seconds[name].append(time.perf_counter() - began)
            print(f"{name}: {seconds[name][-1]:.1f} s", flush=True)
    same = all(
        (one[key] == two[key]).all()
        for index in range(4)
        for one, two in [[load_file(folder / name / f"run-{index}" / "model.safetensors") for name in kinds]]
        for key in one
    )
    ratios = [b / a for a, b in zip(seconds["loop"], seconds["sweep"], strict=True)]
    print(f"sweep / loop: {sum(seconds['sweep']) / sum(seconds['loop']):.3f} (median {statistics.median(ratios):.3f})")
    print(f"the same weights: {same}; the target is a ratio of at most 1.03")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
