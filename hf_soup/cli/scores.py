"""The commands `compare`, `importance`, and `cache`, which lists the scores that are kept."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from ..display.tables import align
from ..options import CompareOptions
from .examples import example_options, read_examples, read_given_examples, take_example_options
from .ingredients import take_ingredients
from .options import allow_pickle_option, named, options_of, output_options, take_fields, take_from_option
from .results import show


@click.command("compare")
@click.argument("ingredients", nargs=-1, metavar="[RUN]...")
@click.option("--soup", "soups", multiple=True, metavar="[NAME=]SOUP", help="Saved soup; may be repeated.")
@click.option("--test", required=True, metavar="DATA", help="Test set, which was not used for selection.")
@click.option("--shifted", multiple=True, metavar="NAME=DATA", help="Further test set; may be repeated.")
@click.option("--validation", metavar="DATA", help="Data used for selection, to find the best single run.")
@options_of(CompareOptions)
@example_options
@click.option(
    "--batchnorm-data", help="Training data on which to estimate the uniform soup's BatchNorm statistics again."
)
@take_from_option
@click.option("-o", "--output", help="Folder for tables (Markdown, JSON) and pictures.")
@allow_pickle_option
@output_options
def compare_command(
    ingredients: tuple[str, ...],
    soups: tuple[str, ...],
    test: str,
    shifted: tuple[str, ...],
    validation: str | None,
    batchnorm_data: str | None,
    take_from: str | None,
    allow_pickle: bool,
    output: str | None,
    form: str,
    **options: Any,
) -> None:
    """Score RUNs (folders or Hub ids), their uniform soup and ensembles, and saved soups, on held-out test data.

    \b
    hf-soup compare runs/run-* --soup soup --test my_data --validation my_data -o report/
    hf-soup compare runs/run-* --soup greedy=soup --test my_data --shifted tweets=tweets.csv -o report/

    Without RUN, the ingredients of the soups are scored. DATA is a file, a folder with files named for their split,
    or a Hub data set (user/data, user/data/configuration). To use another split than the option's own, write it
    after a #: "user/data#train[:500]".
    """
    import hf_soup

    from ..checkpoints.targets import refuse_folder

    if output:
        refuse_folder(output)  # before anything is scored
    examples = take_example_options(options)
    reported = CompareOptions(**take_fields(CompareOptions, options))
    shifted_sets = {}
    for name, data in named(shifted, "--shifted", "NAME=DATA").items():
        shifted_sets[name] = read_examples(data, "test", examples, reported.metrics)
    comparison = hf_soup.compare(
        named(soups, "--soup", None),
        ingredients=list(ingredients) or None,
        test=read_examples(test, "test", examples, reported.metrics),
        shifted=shifted_sets,
        validation=read_given_examples(validation, "validation", examples, reported.metrics),
        batchnorm_data=read_given_examples(batchnorm_data, "train", examples),
        take_from=take_from,
        allow_pickle=allow_pickle,
        ensembles=reported.ensembles,
    )
    folder = comparison.save(output) if output else None
    saved = f"\n\nSaved to {folder}" if folder else ""
    show(form, folder or comparison.summary, comparison.to_dict(), comparison.table() + saved)


@click.command("importance")
@click.argument("ingredients", nargs=-1)
@click.option("--data", required=True, help="Examples, such as the training data of the INGREDIENTS.")
@click.option("--split", default="train", show_default=True, help="Split of --data.")
@click.option(
    "--kind",
    type=click.Choice(("fisher", "gram")),
    default="fisher",
    show_default=True,
    help="fisher for the method fisher, gram for regmean.",
)
@click.option("--max-examples", type=int, default=1000, show_default=True, help="Number of examples to draw.")
@click.option("--seed", type=int, default=0, show_default=True, help="Random seed of what is drawn.")
@click.option("--max-memory", help="Memory for Gram matrices, such as 8GB; by default a quarter of what is free.")
@example_options
@allow_pickle_option
@output_options
def importance_command(
    ingredients: tuple[str, ...], data: str, split: str, allow_pickle: bool, form: str, **options: Any
) -> None:
    """Estimate how much each weight of INGREDIENTS (folders or Hub ids) matters, for the methods fisher and regmean.

    \b
    hf-soup importance runs/run-* --data my_data
    hf-soup merge runs/run-* --method fisher -o soup

    The statistics are kept beside each ingredient. Labels are not needed.
    """
    import hf_soup

    examples = read_examples(data, split, take_example_options(options))
    folders = []
    for source in take_ingredients(ingredients, {"allow_pickle": allow_pickle}):
        folders.append(str(hf_soup.importance(source, examples, **options)))
    show(form, "\n".join(folders), {"folders": folders}, "\n".join(f"Saved to {folder}" for folder in folders))


@click.command("cache")
@click.option("--clear", is_flag=True, help="Delete all kept scores and predictions.")
@output_options
def cache_command(clear: bool, form: str) -> None:
    """Show the scores and predictions that are kept so that no model is run twice, or delete them.

    \b
    hf-soup cache
    hf-soup cache --clear
    """
    from ..evaluation import cache

    path = cache.cache_file()
    if clear:
        count = cache.clear()
        show(form, path, {"file": str(path), "deleted": count}, f"{count} scores and predictions deleted from {path}")
        return
    kept = cache.kept()
    text = f"{len(kept)} scores and predictions, {sum(item.bytes for item in kept) / 1e6:.1f} MB, in {path}"
    if kept:
        lines = [["kept", "of", "MB", "since"]]
        for item in kept:
            since = f"{datetime.fromtimestamp(item.created):%F %R}"
            lines.append([item.value_type, item.about, f"{item.bytes / 1e6:.2f}", since])
        text = f"{align(lines)}\n\n{text}"
    show(form, path, {"file": str(path), "kept": [item._asdict() for item in kept]}, text)
