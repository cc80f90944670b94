"""The commands `analyze` and `advise`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import click

from ..options import AnalyzeOptions, keywords
from .examples import example_options, read_given_examples, take_example_options
from .ingredients import take_ingredients
from .options import (
    Command,
    align_labels_option,
    allow_pickle_option,
    field_option,
    options_of,
    output_options,
    take_fields,
    take_from_option,
)
from .results import show


def data_options(command: Command) -> Command:
    """Options of the base model, the data and how models are averaged and scored."""
    options: list[Callable[[Command], Command]] = [
        click.option("--data", metavar="DATA", help="Examples to score on: a folder, file or Hub data set."),
        click.option("--split", default="validation", show_default=True, help="Split of --data."),
        click.option("--metric", help="Metric to score by; by default that of the task."),
        click.option("--base-model", help="Model that the RUNs were fine-tuned from, to compare their changes."),
        click.option("--batchnorm-data", help="Training data on which to estimate BatchNorm statistics again."),
        align_labels_option,
        take_from_option,
        click.option("--device", default="cpu", show_default=True, help="Device on which to average: cpu, cuda ..."),
    ]
    for add_option in reversed(options):
        command = add_option(command)
    return command


@click.command("analyze")
@click.argument("ingredients", nargs=-1, required=True, metavar="RUN...")
@click.option("-o", "--output", help="Folder for the report: one HTML file, Markdown, JSON and pictures.")
@options_of(AnalyzeOptions)
@data_options
@example_options
@click.option("--dry-run", is_flag=True, help="Show how many models each part would score, and score none.")
@allow_pickle_option
@output_options
def analyze_command(
    ingredients: tuple[str, ...],
    output: str | None,
    dry_run: bool,
    form: str,
    **options: Any,
) -> None:
    """Analyze why a soup of RUNs (folders or Hub ids) works or not: similarity, barriers, diversity, advice.

    \b
    hf-soup analyze runs/run-* --base-model runs/start --data my_data -o report/
    hf-soup analyze runs/run-* --part plane --part contribution --data my_data -o report/

    Scores are kept: rerun the command to resume after an interruption.
    """
    import hf_soup

    from ..checkpoints.targets import refuse_folder

    if output:
        refuse_folder(output)  # before anything is scored
    chosen = AnalyzeOptions(**take_fields(AnalyzeOptions, options))
    sources = take_ingredients(ingredients, options)
    arguments = _with_examples(options)
    if dry_run:
        _show_costs(sources, chosen, arguments["evaluator"] is not None, form)
        return
    analysis = hf_soup.analyze(sources, **keywords(chosen), **arguments)
    if not output:
        show(form, "", {"report": None, **analysis.to_dict()}, analysis.table())
        return
    report = analysis.save(output)
    show(form, report, {"report": str(report), **analysis.to_dict()}, f"{analysis.table()}\n\nSaved to {report}")


def _show_costs(ingredients: list[Any], options: AnalyzeOptions, scored: bool, form: str) -> None:
    """Show how many models each part would score."""
    import hf_soup

    from ..api.analyze import analysis_cost, chosen_parts
    from ..api.ingredients import read_ingredients

    ingredients = list(read_ingredients(ingredients))
    parts = chosen_parts(options.parts, scored)
    modules = 0
    if "modules" in parts:
        modules = len(hf_soup.modules(ingredients[0]))
    costs = analysis_cost(len(ingredients), replace(options, parts=parts), modules=modules)
    lines = [f"{part}: {cost} models at most" for part, cost in costs.items()]
    show(form, sum(costs.values()), costs, "\n".join([*lines, "A model that several parts need is scored once."]))


@click.command("advise")
@click.argument("ingredients", nargs=-1, required=True, metavar="RUN...")
@data_options
@field_option(AnalyzeOptions, "budget")
@example_options
@allow_pickle_option
@output_options
def advise_command(ingredients: tuple[str, ...], form: str, **options: Any) -> None:
    """Recommend whether and how to make a soup of RUNs (folders or Hub ids), with the evidence.

    \b
    hf-soup advise runs/run-* --base-model runs/start --data my_data

    Without --data only the weights are compared.
    """
    import hf_soup

    sources = take_ingredients(ingredients, options)
    advice = hf_soup.advise(sources, **_with_examples(options))
    show(form, "soup" if advice.ok else "no soup", advice.to_dict(), advice.table())


def _with_examples(options: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `analyze` or `advise`, with evaluators in place of the options that describe data."""
    arguments = dict(options)
    examples = take_example_options(arguments)
    data, split, metric = arguments.pop("data"), arguments.pop("split"), arguments.pop("metric")
    arguments["evaluator"] = read_given_examples(data, split, examples, metric)
    arguments["batchnorm_data"] = read_given_examples(arguments["batchnorm_data"], "train", examples)
    return arguments
