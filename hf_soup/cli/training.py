"""The commands `sweep`, `runs`, `cook` and `recipes`, the cook files that ship with the package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..display.tables import align
from ..errors import RecipeError, did_you_mean
from ..options import SweepOptions
from .options import (
    Command,
    allow_code_option,
    allow_pickle_option,
    complete_metrics,
    options_of,
    output_options,
    stream_option,
    take_fields,
)
from .output import remark
from .ranks import executor_here
from .results import described, show


if TYPE_CHECKING:
    from ..api.cook import Cooked
    from ..training.planning import SweepPlan
    from ..training.sweep import Sweep

RENAMED = {"seed": "draw_seed"}  # `--seed` is the seed of runs, `--draw-seed` that of the sweep

# Settings of runs that have their own option -> its help. Others are given by `--set`.
SETTINGS = {
    "learning_rate": "Peak learning rate.",
    "seed": "Random seed of data order and dropout, not of the head.",
    "epochs": "Number of epochs.",
    "batch_size": "Number of examples in a batch on each device.",
    "max_length": "Number of tokens at which texts are truncated; one value for all runs.",
    "early_stopping_patience": "Number of evaluations without improvement after which a run stops.",
    "early_stopping_threshold": "Smallest change of the score that counts as improvement.",
    "weight_decay": "Weight decay.",
    "warmup": "Warm-up, as a number or fraction of steps.",
    "scheduler": "Learning-rate schedule: cosine, linear, constant ...",
    "optimizer": "Optimizer: adamw, adam, sgd or adafactor.",
    "momentum": "Momentum of sgd.",
    "label_smoothing": "Label smoothing factor.",
    "class_weights": "Weights of classes in the loss: balanced, {class: weight, ...} or [weight, ...].",
    "layer_decay": "Factor by which the learning rate decreases from each layer to the one below it.",
    "bagging_fraction": "Fraction of the training data that each run is trained on.",
}


def setting_options(command: Command) -> Command:
    """One option for each usual setting: a value for all runs, or several values separated by commas."""
    for name, text in reversed(SETTINGS.items()):
        command = click.option(f"--{name.replace('_', '-')}", name, metavar="V[,V...]", help=text)(command)
    return command


@click.command("sweep")
@click.argument("base_model", metavar="BASE")
@click.option("--data", required=True, metavar="DATA", help="Data with a train split and, optionally, validation.")
@click.option("-o", "--output", required=True, help="Folder in which the runs are saved.")
@setting_options
@click.option(
    "--set",
    "more",
    multiple=True,
    metavar="NAME=VALUES",
    help="Another setting, as YAML: augment={flip: 0.5}, learning_rate={loguniform: [1e-5, 1e-4]}, max_steps=[9].",
)
@options_of(SweepOptions, RENAMED)
@click.option("--validation", metavar="DATA", help="Data to score runs on; by default the validation split of --data.")
@click.option(
    "--metric",
    shell_complete=complete_metrics,
    help="Metric that determines the best checkpoint and run; by default that of the task.",
)
@click.option(
    "--task", default="auto", show_default=True, help="Task of the models; by default inferred from the data."
)
@click.option("--label-column", help="Name of the label column; by default label, labels or that of the task.")
@click.option(
    "--text-column", "text_columns", multiple=True, help="Name of a text column; may be repeated. By default inferred."
)
@click.option("--report-to", multiple=True, help="Tracker: tensorboard, wandb, trackio ...; may be repeated.")
@click.option("--dry-run", is_flag=True, help="Show the runs, their steps, disk space and costs, and train nothing.")
@output_options
def sweep_command(
    base_model: str,
    data: str,
    output: str,
    more: tuple[str, ...],
    validation: str | None,
    metric: str | None,
    task: str,
    label_column: str | None,
    text_columns: tuple[str, ...],
    report_to: tuple[str, ...],
    dry_run: bool,
    form: str,
    **options: Any,
) -> None:
    """Fine-tune BASE (a folder or Hub id) several times from the same head, so that the runs can be averaged.

    \b
    hf-soup sweep bert-base-uncased --data my_data --learning-rate 1e-5,3e-5 --seed 0,1,2 --epochs 3 -o runs/
    hf-soup sweep BASE --data nyu-mll/glue/rte --set 'learning_rate={loguniform: [1e-5, 1e-4]}' --n-runs 8 -o runs/

    An option with one value applies to all runs; every combination of options with several values is a run. Without
    learning rates and seeds, four learning rates are tried, and four more runs refine the best one. When the command
    is run again, complete runs are skipped, interrupted runs resume, and more values add runs.
    `accelerate launch -m hf_soup.cli sweep ...` trains each run over several processes.
    """
    from ..api.sweep import plan_runs, train
    from ..data.load import split_data_source
    from ..data.splits import VALIDATION, Source
    from ..training.processes import is_main
    from ..training.space import share_single_values

    space, shared = share_single_values(_settings({name: options.pop(name) for name in SETTINGS}, more))
    uses_default = not space and not {"learning_rate", "seed"} & set(shared)
    training_args = {"report_to": list(report_to), **shared} if report_to else shared
    plan = plan_runs(
        base_model,
        Source(*split_data_source(data, "train")),
        space=None if uses_default else space,
        training_args=training_args,
        output_dir=output,
        validation=None if validation is None else Source(*split_data_source(validation, VALIDATION)),
        task=task,
        metric=metric,
        label_column=label_column,
        text_columns=text_columns or None,
        **take_fields(SweepOptions, options, RENAMED),
    )
    if dry_run:
        _show_plan(form, plan)
        return
    if form != "quiet" and is_main():
        remark(plan.summary())
        if plan.costs is not None:
            remark(plan.costs.summary())
    _show_runs(form, output, train(plan))


def _show_plan(form: str, plan: SweepPlan) -> None:
    runs = []
    for name, own in plan.runs.items():
        runs.append({"run": name, **own, "steps": plan.steps[name], "done": name in plan.done})
    data = {"training_args": dict(plan.context.training_args), "runs": runs, "disk": plan.disk}
    if plan.costs is not None:
        data["jobs"] = plan.costs.to_dict()
    show(form, "\n".join(plan.todo), data, plan.table())


@click.command("runs")
@click.argument("folder", type=click.Path(exists=True))
@click.option("--plot", metavar="FILE", help="PNG or PDF file for a plot of scores by setting and training curves.")
@output_options
def runs_command(folder: str, plot: str | None, form: str) -> None:
    """Show the runs in the FOLDER of a sweep: settings and scores, best first, and why other runs failed.

    \b
    hf-soup runs runs/
    hf-soup runs runs/ --plot runs.png
    """
    import hf_soup

    from ..checkpoints.staging import save_figure
    from ..checkpoints.targets import refuse_file

    target = refuse_file(plot) if plot else None
    sweep = hf_soup.load_sweep(folder)
    if target is not None:
        save_figure(sweep.plot(), target)
    _show_runs(form, folder, sweep)


def _show_runs(form: str, folder: str, sweep: Sweep) -> None:
    from ..training.processes import is_main

    if not is_main():  # one of several processes that train each run
        return
    runs = []
    for run in sweep:
        own = {"run": run.name, "folder": str(run.folder), "params": dict(run.params), "seed": run.seed}
        runs.append({**run.state, **own})
    failed = []
    for failure in sweep.failed:
        failed.append({"run": failure.name, "params": dict(failure.params), "reason": failure.reason})
    data = {
        "base_model": str(Path(folder) / "start"),
        "runs": runs,
        "failed": failed,
        "waiting": list(sweep.waiting),
    }
    paragraphs = [sweep.table()]
    if sweep.waiting:
        paragraphs.append("\n".join(f"{name} is not complete yet" for name in sweep.waiting))
    paragraphs.append(f"{len(sweep)} runs in {folder}")
    show(form, "\n".join(str(run.folder) for run in sweep), data, "\n\n".join(paragraphs))


def _settings(options: dict[str, str | None], more: tuple[str, ...]) -> dict[str, Any]:
    """Parse `1e-5,3e-5` into a list of numbers, and `NAME=VALUES` as YAML."""
    from ..formats.strict_yaml import read_value

    settings: dict[str, Any] = {}
    for name, text in options.items():
        if text is not None:
            settings[name] = read_value(f"[{text}]")
    for item in more:
        name, equals, text = item.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{item!r}: write NAME=VALUES, such as max_steps=[100, 200].", param_hint="--set")
        if name in settings:
            raise click.BadParameter(f"{name} is given twice.", param_hint="--set")
        settings[name] = read_value(text)
    return settings


@click.command("cook")
@click.argument("file", metavar="FILE_OR_SOUP")
@click.option("-o", "--output", help="Folder of a recipe's soup, or folder that replaces a cook file's output_dir.")
@click.option("--overwrite", is_flag=True, help="Let the soup of a recipe replace an existing folder.")
@click.option(
    *("--set", "overrides"),
    multiple=True,
    metavar="KEY=VALUE",
    help="Value that replaces that of a cook file (data.path=my_data) or recipe (strategy=uniform); may be repeated.",
)
@click.option("--add", multiple=True, metavar="RUN", help="Ingredient to add to a recipe; may be repeated.")
@click.option("--drop", multiple=True, metavar="NAME", help="Ingredient to leave out of a recipe; may be repeated.")
@click.option("--dry-run", is_flag=True, help="Show the stages, runs and data of a cook file, and train nothing.")
@stream_option
@allow_pickle_option
@allow_code_option
@output_options
def cook_command(file: str, output: str | None, dry_run: bool, form: str, **options: Any) -> None:
    """Run a cook file, from fine-tuning to a compared soup, or cook a soup again from its recipe.

    \b
    hf-soup cook digits-vit --dry-run
    hf-soup cook text-classification --set data.path=my_data --set base_model=google-bert/bert-base-cased -o out
    hf-soup cook soup/soup_recipe.yaml -o soup_again
    hf-soup cook user/soup -o again
    hf-soup cook user/soup --set strategy=uniform --add user/run9 --drop user/run2 -o other

    FILE_OR_SOUP is a cook file, the name of a shipped one (`hf-soup recipes` lists them; a file or folder of that name
    takes precedence), a soup_recipe.yaml, or the folder or Hub id of a soup. Complete stages are skipped, so an
    interrupted command resumes where it stopped.
    """
    import hf_soup

    from ..api.cook import names_recipe

    is_recipe = names_recipe(file)
    if dry_run:
        if is_recipe:
            raise click.UsageError("--dry-run is for cook files; `hf-soup plan` shows what a recipe makes.")
        _show_cook_plan(form, file, output, options)
        return
    if not output and is_recipe:
        raise click.UsageError("a recipe needs -o FOLDER, where the soup goes.")
    if is_recipe:
        options["executor"] = executor_here("local")
    cooked = hf_soup.cook(file, output_dir=output, **options)
    show(form, *_cooked(cooked))


def _show_cook_plan(form: str, file: str, output: str | None, options: dict[str, Any]) -> None:
    from ..api.cook_plan import plan_cook

    plan = plan_cook(file, output_dir=output, overrides=options["overrides"], allow_code=options["allow_code"])
    names = "\n".join(stage.name for stage in plan.stages)
    show(form, names, {"stages": [stage._asdict() for stage in plan.stages], "sets": plan.sets}, plan.table())


def _cooked(cooked: Cooked) -> tuple[str, dict[str, Any], str]:
    """The path, the data and the text of a result of `cook`, as `show` takes them."""
    data: dict[str, Any] = {"folder": "", "runs": []}
    paragraphs = []
    if cooked.sweep is not None:
        data["folder"] = str(cooked.sweep.base_model.parent)
        data["runs"] = [str(run.folder) for run in cooked.sweep]
    if cooked.soup is not None:
        data |= described(cooked.soup)
        paragraphs.append(cooked.soup.table())
    elif cooked.sweep is not None:
        paragraphs.append(f"{len(cooked.sweep)} runs are complete.")
    data["comparison"] = None
    if cooked.comparison is not None:
        data["comparison"] = cooked.comparison.to_dict()
        paragraphs.append(cooked.comparison.table())
    if cooked.folder is not None:
        data["folder"] = str(cooked.folder)
        paragraphs.append(f"Saved to {cooked.folder}")
    return data["folder"], data, "\n\n".join(filter(None, paragraphs))


@click.command("convert")
@click.argument("file")
@click.option(
    "-o", "--output", default="soup", show_default=True, help="Folder of the results, as the cook file names it."
)
@output_options
def convert_command(file: str, output: str, form: str) -> None:
    """Print the cook file that does the same as FILE, a configuration of mergekit.

    \b
    hf-soup convert merge.yml > cook.yaml
    """
    import yaml

    from ..formats.mergekit import as_cook_files, read_documents
    from ..formats.strict_yaml import dumper, read_yaml

    documents = read_documents(file)
    if not documents:
        read_yaml(file)  # whose error says that it is missing, or no YAML
        raise click.UsageError(f"{file} is no configuration of mergekit: it has no merge_method.")
    if len(documents) > 1:
        raise click.UsageError(
            f"{file} holds several configurations, and a cook file is one: run `hf-soup cook {file}`."
        )
    (content,) = as_cook_files(documents, file, output)
    text = yaml.dump(content, Dumper=dumper(), sort_keys=False, default_flow_style=None, width=100).rstrip()
    show(form, text, content, text)


@click.command("recipes")
@click.argument("name", required=False)
@output_options
def recipes_command(name: str | None, form: str) -> None:
    """List the cook files that ship with hf-soup, or print the one called NAME.

    \b
    hf-soup recipes
    hf-soup recipes digits-vit > cook.yaml
    hf-soup cook digits-vit -o out
    """
    from ..formats.shipped_recipes import shipped_recipes, summary

    recipes = shipped_recipes()
    if name is None:
        entries = [{"name": recipe, "about": summary(file)} for recipe, file in recipes.items()]
        table = align([["recipe", "about"], *([entry["name"], entry["about"]] for entry in entries)])
        show(form, "\n".join(recipes), entries, table)
        return
    if name not in recipes:
        raise RecipeError(f"there is no shipped recipe {name!r}{did_you_mean(name, recipes)}.")
    text = recipes[name].read_text(encoding="utf-8")
    show(form, recipes[name], {"name": name, "about": summary(recipes[name]), "text": text}, text)
