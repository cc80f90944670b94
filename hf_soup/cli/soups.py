"""The command `merge`, and those used before it: `check`, `modules`, `plan`, `strategies`, `methods`."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ..display.tables import align
from ..options import MergeOptions, PushOptions
from ..plugins import FunctionPlugin, load_function, names, parameters
from .examples import example_options, read_given_examples, take_example_options
from .ingredients import take_ingredients
from .options import (
    align_labels_option,
    allow_code_option,
    allow_pickle_option,
    options_of,
    output_options,
    plugin_options,
    read_pairs,
    take_from_option,
)
from .ranks import executor_here
from .results import described, show
from .stderr import note


if TYPE_CHECKING:
    from ..jobs.settings import JobCosts


@click.command("merge")
@click.argument("ingredients", nargs=-1)
@click.option("-o", "--output", help="Folder to create for the soup; not needed with --push-to-hub.")
@click.option(
    "-w",
    "--weights",
    multiple=True,
    metavar="[MODULE=]W,W,...",
    help="Relative weights of the ingredients; may be repeated, once for each module.",
)
@options_of(MergeOptions)
@click.option("--data", help="Data by which to choose: a folder with files named for their split, or a Hub data set.")
@click.option("--split", default="validation", show_default=True, help="Split of --data.")
@example_options
@click.option(
    "--batchnorm-data", help="Training data on which to estimate BatchNorm statistics again, if there are any."
)
@click.option(
    "--importance-data",
    help="Training data on which the methods fisher and regmean estimate how much each weight matters.",
)
@click.option("--base-model", help="Model that the INGREDIENTS were fine-tuned from, for methods that need it.")
@allow_pickle_option
@click.option("--device", default="cpu", show_default=True, help="Device on which to average: cpu, cuda ...")
@click.option("--max-shard-size", default="50GB", show_default=True, help="Maximum size of a weight file.")
@click.option("--overwrite", is_flag=True, help="Replace the folder if it exists.")
@click.option("--merged", is_flag=True, help="Save a soup of adapters as a whole model, and not as an adapter.")
@click.option("--rank", type=int, help="Largest rank of a soup that is an adapter; by default the exact one.")
@click.option("--push-to-hub", "repo_id", metavar="REPO_ID", help="Repository on the Hub to push the soup to.")
@options_of(PushOptions)
@plugin_options
@click.option(
    "--param",
    "more_params",
    multiple=True,
    metavar="NAME=VALUE",
    help="Parameter of your own method or strategy, as YAML; may be repeated.",
)
@click.option("--dry-run", is_flag=True, help="Check the ingredients, show what jobs would cost, and average nothing.")
@output_options
def merge_command(
    ingredients: tuple[str, ...],
    output: str | None,
    weights: tuple[str, ...],
    data: str | None,
    split: str,
    metric: str | None,
    max_shard_size: str,
    overwrite: bool,
    merged: bool,
    rank: int | None,
    repo_id: str | None,
    private: bool | None,
    name_private: bool,
    more_params: tuple[str, ...],
    dry_run: bool,
    form: str,
    **options: Any,
) -> None:
    """Average INGREDIENTS (folders or Hub ids) into one model.

    \b
    hf-soup merge run1 run2 run3 -o soup
    hf-soup merge run1 run2 -w 2,1 -w classifier=1,0 -o soup
    hf-soup merge runs/run-* --strategy greedy --data my_data -o soup
    hf-soup merge user/run1 user/run2@v1.0 -o soup --push-to-hub user/soup

    `hf-soup strategies` and `hf-soup methods` list the strategies and methods. In the options below, brackets name the
    strategies and methods that an option belongs to. Processes that torchrun or srun starts share out the weight files
    of the soup: `torchrun --nproc-per-node 2 -m hf_soup.cli merge ... --max-shard-size 5GB`.
    """
    import hf_soup

    from ..checkpoints.shard_size import shard_size
    from ..checkpoints.store import is_address
    from ..checkpoints.targets import refuse_target
    from ..jobs.settings import job_costs
    from ..publishing.adapter_weights import refuse_rank
    from ..publishing.store_target import refuse_store

    if output is None and repo_id is None and not dry_run:
        raise click.UsageError("the soup needs a place: -o FOLDER, --push-to-hub REPO_ID, or both.")
    if output is not None and is_address(output):
        refuse_store(output)
    elif output is not None:
        refuse_target(output, overwrite=overwrite)  # before anything is scored
    refuse_rank(rank, merged=merged)
    shard_size(max_shard_size)
    examples = take_example_options(options)
    options["evaluator"] = read_given_examples(data, split, examples, metric)
    for name in ("batchnorm_data", "importance_data"):
        options[name] = read_given_examples(options[name], "train", examples)
    arguments = {parameter: value for parameter, value in options.items() if value is not None}
    arguments |= read_pairs(more_params, option="--param")
    if click.get_current_context().get_parameter_source("executor") is not ParameterSource.COMMANDLINE:
        arguments["executor"] = executor_here(arguments["executor"])
    sources = take_ingredients(ingredients, arguments)
    costs = job_costs(arguments.get("resources")) if arguments["executor"] == "jobs" else None
    if dry_run:
        _show_dry_run(form, sources, arguments, costs)
        return
    if costs is not None:
        note(f"{costs.summary()}.")
    soup = hf_soup.merge(sources, weights=_weights(weights), **arguments)
    saving: dict[str, Any] = {"max_shard_size": max_shard_size, "merged": merged or None, "rank": rank}
    places = []
    folder = None
    if output is not None:
        folder = str(soup.save_pretrained(output, overwrite=overwrite, **saving))
        places.append(f"Saved to {folder}")
    if repo_id is not None:
        pushed = soup.push_to_hub(repo_id, private=private, name_private=name_private, **saving)
        places.append(f"Pushed to {pushed.repo_url}")
    for remark in soup.plan.report.notes:
        note(f"{remark}.")
    where = "\n".join(places)
    show(form, folder or repo_id, {"folder": folder, **described(soup)}, f"{soup.table()}\n{where}")


def _show_dry_run(form: str, sources: Sequence[Any], arguments: Mapping[str, Any], costs: JobCosts | None) -> None:
    """Show whether the ingredients can be averaged, and what trials in jobs would cost; the exit code is 1 if not."""
    import hf_soup

    options = {name: arguments[name] for name in ("align_labels", "take_from", "vocabulary") if name in arguments}
    report = hf_soup.check(sources, arguments.get("base_model"), **options)
    data: dict[str, Any] = {"ok": report.ok, **dataclasses.asdict(report)}
    paragraphs = [report.table()]
    if costs is not None:
        data["jobs"] = costs.to_dict()
        paragraphs.append(costs.summary())
    show(form, "ok" if report.ok else "not ok", data, "\n\n".join(paragraphs))
    if not report.ok:
        sys.exit(1)


@click.command("check")
@click.argument("ingredients", nargs=-1)
@click.option("--base-model", help="Model that the INGREDIENTS were fine-tuned from.")
@click.option("--vocabulary", help="For tokenizers with different added tokens, as for merge: union, or a name.")
@click.option("--deep", is_flag=True, help="Read all weights, not just heads, to check for fine-tunes of one model.")
@align_labels_option
@take_from_option
@allow_pickle_option
@output_options
def check_command(ingredients: tuple[str, ...], form: str, **options: Any) -> None:
    """Check whether INGREDIENTS (folders or Hub ids) can be averaged. The exit code is 1 if they cannot.

    \b
    hf-soup check runs/run-*
    hf-soup check user/run1 user/run2 --base-model google-bert/bert-base-cased --deep

    Without --deep only headers, configurations and heads are read.
    """
    import hf_soup

    sources = take_ingredients(ingredients, options)
    report = hf_soup.check(sources, **options)
    show(form, "ok" if report.ok else "not ok", {"ok": report.ok, **dataclasses.asdict(report)}, report.table())
    if not report.ok:
        sys.exit(1)


@click.command("modules")
@click.argument("ingredient")
@allow_pickle_option
@output_options
def modules_command(ingredient: str, allow_pickle: bool, form: str) -> None:
    """List the named modules of INGREDIENT (a folder or Hub id), each of which can have its own weights in a soup.

    \b
    hf-soup modules runs/run-0
    hf-soup modules google-bert/bert-base-cased
    """
    import hf_soup

    (source,) = take_ingredients([ingredient], {"allow_pickle": allow_pickle})
    modules = hf_soup.modules(source)
    lines = [["module", "tensors", "parameters"]]
    for module in modules:
        lines.append([module.name, str(module.tensors), f"{module.parameters:,}"])
    show(form, "\n".join(module.name for module in modules), [module._asdict() for module in modules], align(lines))


@click.command("plan")
@click.argument("recipe", nargs=-1, required=True)
@click.option("--stream", is_flag=True, help="Show what a streamed merge would take: bytes, disk, memory and time.")
@click.option(
    "--max-shard-size", default="50GB", show_default=True, help="Maximum size of a weight file, for --stream."
)
@click.option("--bandwidth", metavar="SIZE", help="Bytes a second of each process, such as 1GB, for the time.")
@click.option("--processes", type=click.IntRange(1), default=1, help="Number of processes that share the files.")
@allow_pickle_option
@allow_code_option
@output_options
def plan_command(
    recipe: tuple[str, ...],
    stream: bool,
    max_shard_size: str,
    bandwidth: str | None,
    processes: int,
    allow_pickle: bool,
    allow_code: bool,
    form: str,
) -> None:
    """Show what cooking RECIPE (its file, or the folder or Hub id of a soup) would do. Only headers are read.

    \b
    hf-soup plan soup/soup_recipe.yaml
    hf-soup plan user/soup
    hf-soup plan user/run1 user/run2 --stream --max-shard-size 5GB --bandwidth 1GB

    Several arguments are ingredients, and the plan is that of their mean.
    """
    import hf_soup

    from ..api.from_recipe import cook_recipe
    from ..checkpoints.output_layout import lay_out
    from ..checkpoints.shard_size import shard_size
    from ..formats.recipe_file import load_recipe
    from ..merging.costs import costs_of

    streams = True if stream else None
    if len(recipe) == 1:
        loaded = load_recipe(recipe[0], allow_code=allow_code)
        soup = cook_recipe(loaded, allow_pickle=allow_pickle, stream=streams)
    else:
        sources = take_ingredients(recipe, {"allow_pickle": allow_pickle})
        soup = hf_soup.merge(sources, stream=streams)
    plan = soup.plan
    if not stream:
        steps = [{**step.spec._asdict(), "inputs": step.inputs, "weights": step.weights} for step in plan.steps]
        show(form, "\n".join(spec.name for spec in plan.specs), steps, plan.table())
        return
    costs = costs_of(
        plan,
        soup.checkpoints,
        lay_out(plan.specs, max_shard_size),
        processes=processes,
        bandwidth=None if bandwidth is None else shard_size(bandwidth, "bandwidth"),
    )
    show(form, str(costs.read), costs._asdict(), costs.table())


def _list_command(plugin_type: FunctionPlugin, plural: str, title: str) -> click.Command:
    @click.command(plural, help=f"List the {plural}, {title}.\n\n\b\nhf-soup {plural}\nhf-soup {plural} --json")
    @output_options
    def command(form: str) -> None:
        entries = []
        width = max(map(len, names(plugin_type))) + 2
        lines = []
        for name in names(plugin_type):
            function = load_function(plugin_type, name)
            help_line = (inspect.getdoc(function) or "").splitlines()[0]
            taken = list(parameters(function))
            entries.append({plugin_type: name, "does": help_line, "parameters": taken})
            lines.append(f"{name:<{width}}{help_line}")
            if taken:
                lines.append(" " * width + "takes " + ", ".join(taken))
        show(form, "\n".join(names(plugin_type)), entries, "\n".join(lines))

    return command


strategies_command = _list_command("strategy", "strategies", "which choose the ingredients and their weights")
methods_command = _list_command("method", "methods", "which combine the tensors of one name")


def _weights(given: tuple[str, ...]) -> list[float] | dict[str, list[float]] | None:
    """Parse `2,1,1`, or several of `classifier=1,0,0`; a row without a module is that of the rest."""
    weights_by_module: dict[str, list[float]] = {}
    for item in given:
        module, _, numbers = item.rpartition("=")
        try:
            weights_by_module[module] = [float(number) for number in numbers.split(",")]
        except ValueError:
            raise click.BadParameter(f"{item!r}: write 2,1,1 or module=2,1,1.", param_hint="--weights") from None
    if not weights_by_module:
        return None
    return weights_by_module[""] if list(weights_by_module) == [""] else weights_by_module
