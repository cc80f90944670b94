"""`analyze` and `advise`: why a soup works, and whether to make one."""

from __future__ import annotations

from typing import Any

import click

from .options import (
    align_labels_option,
    allow_pickle_option,
    example_options,
    output_options,
    read_examples,
    show,
    take_from_option,
)


def data_options(command: Any) -> Any:
    """Models, their base, and the examples to look at them with."""
    options = [
        click.option("--data", metavar="DATA", help="Examples to score on: a folder, file or Hub data set."),
        click.option("--split", default="validation", show_default=True, help="Which part of --data."),
        click.option("--metric", help="What scores; the task's own by default."),
        click.option("--base-model", help="What they were fine-tuned from: changes say more than weights."),
        click.option("--batchnorm-data", help="Training data (its train split), for models with BatchNorm."),
        click.option(
            "--budget", type=int, help="Score so many models at most (analyze: in landscape, plane, advice each)."
        ),
        align_labels_option,
        take_from_option,
        click.option("--device", default="cpu", show_default=True, help="Where to average: cpu, cuda ..."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.command("analyze")
@click.argument("ingredients", nargs=-1, required=True, metavar="RUN...")
@click.option("-o", "--output", help="A folder for the report: one HTML file, Markdown, JSON and pictures.")
@click.option(
    "--part",
    "parts",
    multiple=True,
    help="similarity, diversity, landscape, plane, contribution, modules or advice; may be repeated. By default "
    "similarity, and with --data diversity, landscape and advice.",
)
@click.option("--points", default=11, show_default=True, help="Of each line, and in each direction of the plane.")
@click.option("--beyond", default=0.0, show_default=True, help="How far lines go on beyond their ends.")
@click.option("--corner", "corners", multiple=True, help="A model that the plane goes through: three of them.")
@click.option("--path", "path", multiple=True, help="Models of a greedy soup in its order, to be drawn on the plane.")
@click.option("--samples", type=int, help="Orders to draw for Shapley values; exact for up to 8 models by default.")
@data_options
@example_options
@click.option("--dry-run", is_flag=True, help="Tell how many models each part would score; score nothing.")
@allow_pickle_option
@output_options
def analyze_command(
    ingredients: tuple[str, ...],
    output: str | None,
    parts: tuple[str, ...],
    dry_run: bool,
    form: str,
    **options: Any,
) -> None:
    """See why a soup of RUNs (folders or Hub ids) works or does not: similarity, barriers, diversity, advice.

    \b
    hf-soup analyze runs/run-* --base-model runs/start --data my_data -o report/
    hf-soup analyze runs/run-* --part plane --part contribution --data my_data -o report/

    What was scored is kept: the same command goes on where it was interrupted.
    """
    import hf_soup
    from hf_soup.analyzing import analysis_cost, chosen_parts
    from hf_soup.checkpoints.targets import refuse_folder

    if output:
        refuse_folder(output)  # before anything is scored
    given = _with_examples(options)
    if dry_run:
        chosen = chosen_parts(parts or None, given["evaluator"] is not None)
        count = (
            len(hf_soup.modules(ingredients[0], allow_pickle=options["allow_pickle"])) if "modules" in chosen else 0
        )
        how = {name: options[name] for name in ("points", "beyond", "samples", "budget")} | {"modules": count}
        costs = analysis_cost(len(ingredients), chosen, **how)
        lines = [f"{part}: {cost} models at most" for part, cost in costs.items()]
        show(form, sum(costs.values()), costs, "\n".join([*lines, "Each is scored once, whatever needs it."]))
        return
    listed = {name: options[name] or None for name in ("corners",)}
    found = hf_soup.analyze(list(ingredients), parts=parts or None, **{**given, **listed})
    where = found.save(output) if output else None
    text = found.table() + (f"\n\nSaved to {where}" if where else "")
    show(form, where or "", {"report": where and str(where), **found.to_dict()}, text)


@click.command("advise")
@click.argument("ingredients", nargs=-1, required=True, metavar="RUN...")
@data_options
@example_options
@allow_pickle_option
@output_options
def advise_command(ingredients: tuple[str, ...], form: str, **options: Any) -> None:
    """Say whether and how to make a soup of RUNs (folders or Hub ids), with the evidence for it.

    \b
    hf-soup advise runs/run-* --base-model runs/start --data my_data

    Without --data only the weights are looked at.
    """
    import hf_soup

    found = hf_soup.advise(list(ingredients), **_with_examples(options))
    show(form, "soup" if found.ok else "no soup", found.to_dict(), found.table())


def _with_examples(options: dict[str, Any]) -> dict[str, Any]:
    """The options of a verb, with evaluators instead of what says how to read them."""
    given = dict(options)
    read = {name: given.pop(name) for name in ("task", "label_column", "text_columns", "batch_size", "no_cache")}
    data, split, metric = (given.pop(name) for name in ("data", "split", "metric"))
    given["evaluator"] = read_examples(data, split, read, metric)
    given["batchnorm_data"] = read_examples(given["batchnorm_data"], "train", read)
    return given
