"""The command line: argv -> the verbs of `hf_soup`. Results go to stdout, progress, notes and errors to stderr.

Exit codes: 0 done, 1 an error in what was given, 2 a wrong call.
"""

from __future__ import annotations

import inspect
import itertools
import json
import os
import sys
import warnings
from collections.abc import Callable
from datetime import datetime
from typing import Any

import click

from .errors import SoupError
from .lookup import choices, load_function, names, parameters
from .tables import align
from .version import __version__


class Group(click.Group):
    """Turns the errors that users can put right into one line and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except SoupError as error:
            raise click.ClickException(str(error)) from None
        except KeyboardInterrupt:
            click.echo("Interrupted. What is whole is kept: the same command goes on from there.", err=True)
            sys.exit(130)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 119})
@click.version_option(__version__, prog_name="hf-soup")
def main() -> None:
    """Model soups: average fine-tuned models of the Hugging Face ecosystem, and see whether it helped."""
    warnings.showwarning = lambda message, *_, **__: click.echo(f"Note: {message}", err=True)
    if not sys.stderr.isatty() or os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS"):  # bars are for people
        _hide_bars()


def _help(function: Callable, parameter: inspect.Parameter) -> str:
    """What a docstring of Hugging Face's form says of a parameter: the deeper lines below its entry."""
    lines = (inspect.getdoc(function) or "").splitlines()
    start = next(
        (index for index, line in enumerate(lines) if line.strip().startswith(f"{parameter.name} (")), len(lines)
    )
    below = itertools.takewhile(lambda line: line.startswith(" " * 8), lines[start + 1 :])
    return " ".join(line.strip() for line in below)


def _hide_bars() -> None:
    os.environ |= {"TQDM_DISABLE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


def _without_bars_if_quiet(_: click.Context, __: click.Parameter, form: str | None) -> str | None:
    if form == "quiet":
        _hide_bars()
    return form


def output_options(command: Callable) -> Callable:
    """`--format`, `--json` and `--quiet`, as in the `hf` command; quiet shows no bars either."""
    options = [
        click.option(
            *("--format", "form"),
            type=click.Choice(["human", "json", "quiet"]),
            default="human",
            show_default=True,
            callback=_without_bars_if_quiet,
            help="What goes to stdout.",
        ),
        click.option("--json", "form", flag_value="json", help="Same as --format json."),
        click.option(
            *("-q", "--quiet", "form"),
            flag_value="quiet",
            callback=_without_bars_if_quiet,
            help="Same as --format quiet: the result's path only.",
        ),
    ]
    for option in options:
        command = option(command)
    return command


def plugin_options(command: Callable) -> Callable:
    """One option for each parameter of methods and strategies, which several may share; what is not given keeps its
    default.
    """
    found: dict[str, list[tuple[str, Callable]]] = {}
    for kind in ("strategy", "method"):
        for name in names(kind):
            function = load_function(kind, name)
            for parameter in parameters(function):
                found.setdefault(parameter, []).append((name, function))
    for name, users in reversed(found.items()):
        if name != "weights":  # the merge has these itself
            command = _plugin_option(name, users)(command)
    return command


def _plugin_option(name: str, users: list[tuple[str, Callable]]) -> Callable:
    function = users[0][1]
    parameter = parameters(function)[name]
    text = f"[{', '.join(user for user, _ in users)}] {_help(function, parameter)}"
    flag = f"--{name.replace('_', '-')}"
    if isinstance(parameter.default, bool):
        return click.option(f"{flag}/--no-{name.replace('_', '-')}", name, default=None, help=text)
    allowed = list(dict.fromkeys(choice for _, f in users for choice in choices(parameters(f)[name], f)))
    if allowed:
        return click.option(flag, name, type=click.Choice(allowed), default=None, help=text)
    hint = str(parameter.annotation)
    if hint.startswith("Sequence["):
        each = float if "float" in hint else str
        return click.option(flag, name, type=_List(each), default=None, help=text)
    option_type = next(kind for word, kind in (("int", int), ("float", float), ("str", str)) if word in hint)
    return click.option(flag, name, type=option_type, default=None, help=text)


class _List(click.ParamType):
    """Values with commas between them."""

    name = "LIST"

    def __init__(self, each: type):
        self._each = each

    def convert(self, value: Any, param: Any, ctx: Any) -> list[Any]:
        """`0,0.5,1` -> a list."""
        if not isinstance(value, str):
            return value
        try:
            return [self._each(item.strip()) for item in value.split(",")]
        except ValueError:
            self.fail(f"{value!r}: write numbers with commas between them.", param, ctx)


def example_options(command: Callable) -> Callable:
    """How examples are read, as of `hf_soup.Evaluator`."""
    options = [
        click.option("--task", default="auto", show_default=True, help="Read off the model by default."),
        click.option("--label-column", help="By default label, labels, or what else the task calls it."),
        click.option("--text-column", "text_columns", multiple=True, help="By default every column of strings."),
        click.option("--batch-size", type=int, help="Examples at a time."),
        click.option("--no-cache", is_flag=True, help="Run every model again, and keep nothing."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _examples(source: str | None, split: str, options: dict[str, Any], metric: Any = None) -> Any:
    """An evaluator of what the command line calls data, with the values of `example_options`."""
    import hf_soup
    from hf_soup.data import load_data, split_data_source

    if source is None:
        return None
    path, name, part = split_data_source(source, split)
    given = {key: options[key] for key in ("task", "label_column", "batch_size")}
    given |= {"text_columns": options["text_columns"] or None, "cache": not options["no_cache"]}
    found = load_data(path, name=name, split=part)
    return hf_soup.Evaluator(found, split=part, metric=metric or None, path=path, **given)


allow_pickle_option = click.option(
    "--allow-pickle", is_flag=True, help="Read pytorch_model.bin too; only tensors are taken from it."
)


@main.command("merge")
@click.argument("ingredients", nargs=-1)
@click.option("-o", "--output", required=True, help="The folder to make.")
@click.option(
    "-w",
    "--weights",
    multiple=True,
    metavar="[MODULE=]W,W,...",
    help="One weight for each ingredient; repeat for modules.",
)
@click.option(
    "--method", default="linear", show_default=True, help=f"How tensors combine: {', '.join(names('method'))}."
)
@click.option("--strategy", help=f"Who goes in: {', '.join(names('strategy'))}.")
@click.option("--data", help="Data to choose by: a folder with files named for their split, or a Hub data set.")
@click.option("--split", default="validation", show_default=True, help="Which part of --data.")
@click.option("--metric", help="What to choose by; the task's own by default.")
@click.option("--folds", type=int, help="Search so many times on all folds but one: what is the choice worth?")
@click.option("--holdout", type=float, help="Part of --data that the search does not see, to score the choice on.")
@click.option("--executor", default="local", show_default=True, help="Where independent trials run: local or ray.")
@example_options
@click.option(
    "--batchnorm-data", help="Training data (its train split) to estimate BatchNorm again on, if there is any."
)
@click.option("--base-model", help="What the ingredients were fine-tuned from, for methods that need it.")
@click.option("--dtype", default="auto", show_default=True, help="Of the soup: bfloat16, float16, float32 ...")
@click.option("--seed", default=0, show_default=True, help="Of what methods and strategies draw at random.")
@allow_pickle_option
@click.option("--align-labels", is_flag=True, help="Permute heads whose labels are in another order.")
@click.option("--device", default="cpu", show_default=True, help="Where to average: cpu, cuda ...")
@click.option("--max-shard-size", default="50GB", show_default=True, help="Of the weight files.")
@click.option("--overwrite", is_flag=True, help="Replace the folder if it is there.")
@plugin_options
@output_options
def merge_command(
    ingredients: tuple[str, ...],
    output: str,
    weights: tuple[str, ...],
    data: str | None,
    split: str,
    metric: str | None,
    max_shard_size: str,
    overwrite: bool,
    form: str,
    **options: Any,
) -> None:
    """Average INGREDIENTS (folders or Hub ids) into one model.

    \b
    hf-soup merge run1 run2 run3 -o soup
    hf-soup merge run1 run2 -w 2,1 -w classifier=1,0 -o soup
    hf-soup merge runs/run-* --strategy greedy --data my_data -o soup

    `hf-soup strategies` and `hf-soup methods` list what there is. An option below names in brackets who takes it.
    """
    import hf_soup
    from hf_soup.checkpoints.writer import refuse_target

    refuse_target(output, overwrite=overwrite)  # before anything is scored
    read = {name: options.pop(name) for name in ("task", "label_column", "text_columns", "batch_size", "no_cache")}
    options["evaluator"] = _examples(data, split, read, metric)
    options["batchnorm_data"] = _examples(options["batchnorm_data"], "train", read)
    given = {parameter: value for parameter, value in options.items() if value is not None}
    soup = hf_soup.merge(list(ingredients), weights=_weights(weights), **given)
    folder = soup.save_pretrained(output, max_shard_size=max_shard_size, overwrite=overwrite)
    for note in soup.plan.report.notes:
        click.echo(f"Note: {note}.", err=True)
    _show(form, folder, {"folder": str(folder), **_described(soup)}, _trial_table(soup) + f"\nSaved to {folder}")


@main.command("compare")
@click.argument("ingredients", nargs=-1, metavar="[RUN]...")
@click.option("--soup", "soups", multiple=True, metavar="[NAME=]SOUP", help="A saved soup; repeat for several.")
@click.option("--test", required=True, metavar="DATA", help="What is reported; selection may not have seen it.")
@click.option("--shifted", multiple=True, metavar="NAME=DATA", help="Another test set; repeat for several.")
@click.option("--validation", metavar="DATA", help="What selected: says which single run is the one to beat.")
@click.option("--metric", "metrics", multiple=True, help="The first one counts; the task's own by default.")
@click.option("--ensemble", "ensembles", multiple=True, help="logits, probabilities, vote, mixture; all by default.")
@example_options
@click.option(
    "--batchnorm-data", help="Training data (its train split), for the uniform soup of models with BatchNorm."
)
@click.option("-o", "--output", help="A folder for tables (Markdown, JSON) and pictures.")
@allow_pickle_option
@output_options
def compare_command(
    ingredients: tuple[str, ...],
    soups: tuple[str, ...],
    test: str,
    shifted: tuple[str, ...],
    validation: str | None,
    metrics: tuple[str, ...],
    ensembles: tuple[str, ...],
    batchnorm_data: str | None,
    allow_pickle: bool,
    output: str | None,
    form: str,
    **options: Any,
) -> None:
    """Score each RUN (folder or Hub id), their uniform soup and ensembles, and saved soups, on data they did not see.

    \b
    hf-soup compare runs/run-* --soup soup --test my_data --validation my_data -o report/
    hf-soup compare runs/run-* --soup greedy=soup --test my_data --shifted tweets=tweets.csv -o report/

    Without RUN, those are taken that went into the soups. DATA is a file, a folder with files named for their split,
    or a Hub data set (user/data, user/data/configuration); another split than the option's own follows a #:
    "user/data#train[:500]".
    """
    import hf_soup

    sets = _named(shifted, "--shifted", "NAME=DATA")
    comparison = hf_soup.compare(
        _named(soups, "--soup", None),
        ingredients=list(ingredients) or None,
        test=_examples(test, "test", options, metrics),
        shifted={name: _examples(data, "test", options, metrics) for name, data in sets.items()},
        validation=_examples(validation, "validation", options, metrics),
        batchnorm_data=_examples(batchnorm_data, "train", options),
        allow_pickle=allow_pickle,
        ensembles=ensembles or None,
    )
    folder = comparison.save(output) if output else None
    saved = f"\n\nSaved to {folder}" if folder else ""
    _show(form, folder or comparison.summary, comparison.to_dict(), comparison.table() + saved)


@main.command("cache")
@click.option("--clear", is_flag=True, help="Delete everything that is kept.")
@output_options
def cache_command(clear: bool, form: str) -> None:
    """Show what scores and predictions are kept, so that nothing is run twice; or delete them."""
    from hf_soup.evaluation import cache

    path = cache.cache_file()
    if clear:
        n = cache.clear()
        _show(form, path, {"file": str(path), "deleted": n}, f"{n} scores and predictions deleted from {path}")
        return
    kept = cache.kept()
    lines = [["kept", "of", "MB", "since"]]
    for item in kept:
        lines.append(
            [item.kind, item.about, f"{item.bytes / 1e6:.2f}", f"{datetime.fromtimestamp(item.created):%F %R}"]
        )
    total = f"{len(kept)} scores and predictions, {sum(item.bytes for item in kept) / 1e6:.1f} MB, in {path}"
    data = {"file": str(path), "kept": [item._asdict() for item in kept]}
    _show(form, path, data, "\n\n".join([*([align(lines)] if kept else []), total]))


@main.command("check")
@click.argument("ingredients", nargs=-1)
@click.option("--base-model", help="What they were fine-tuned from.")
@click.option("--deep", is_flag=True, help="Read the weights too: do they look like fine-tunes of one model?")
@allow_pickle_option
@output_options
def check_command(ingredients: tuple[str, ...], form: str, **options: Any) -> None:
    """Tell whether INGREDIENTS can be averaged, from headers and configurations. Exit code 1 if not."""
    import dataclasses

    import hf_soup

    report = hf_soup.check(list(ingredients), **options)
    _show(form, "ok" if report.ok else "not ok", {"ok": report.ok, **dataclasses.asdict(report)}, report.table())
    if not report.ok:
        sys.exit(1)


@main.command("cook")
@click.argument("file", type=click.Path(exists=True))
@click.option("-o", "--output", help="The soup's folder for a recipe; instead of output_dir for a cook file.")
@click.option("--overwrite", is_flag=True, help="Let a recipe's soup replace a folder that is there.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Instead of the cook file's: data.path=my_data."
)
@allow_pickle_option
@output_options
def cook_command(file: str, output: str | None, form: str, **options: Any) -> None:
    """Do what a cook FILE says, from fine-tuning to a compared soup; or cook a soup_recipe.yaml again.

    \b
    hf-soup cook recipes/digits-vit.yaml
    hf-soup cook recipes/text-classification.yaml --set data.path=my_data --set base_model=google-bert/bert-base-cased
    hf-soup cook soup/soup_recipe.yaml -o soup_again

    Stages that are whole are skipped, so an interrupted cook goes on where it was.
    """
    import hf_soup
    from hf_soup.recipes import is_recipe, read_yaml

    if not output and (os.path.isdir(file) or is_recipe(read_yaml(file))):
        raise click.UsageError("a recipe needs -o FOLDER, where the soup goes.")
    cooked = hf_soup.cook(file, output_dir=output, **options)
    parts = [_trial_table(cooked.soup)] if cooked.soup else [f"{len(cooked.sweep)} runs are whole."]
    if cooked.comparison:
        parts += [cooked.comparison.table()]
    if cooked.folder:
        parts += [f"Saved to {cooked.folder}"]
    data = {
        "folder": str(cooked.folder or cooked.sweep.base_model.parent),
        "runs": [str(run.folder) for run in cooked.sweep or ()],
        **(_described(cooked.soup) if cooked.soup else {}),
        "comparison": cooked.comparison.to_dict() if cooked.comparison else None,
    }
    _show(form, data["folder"], data, "\n\n".join(filter(None, parts)))


def _list_command(kind: str, plural: str, title: str) -> None:
    @main.command(plural, help=f"List the {plural}: {title}.")
    @output_options
    def command(form: str) -> None:
        found = []
        for name in names(kind):
            function = load_function(kind, name)
            help_line = (inspect.getdoc(function) or "").splitlines()[0]
            found.append({kind: name, "does": help_line, "parameters": list(parameters(function))})
        width = max(map(len, names(kind))) + 2
        lines = []
        for item in found:
            lines.append(f"{item[kind]:<{width}}{item['does']}")
            lines += [" " * width + "takes " + ", ".join(item["parameters"])] if item["parameters"] else []
        _show(form, "\n".join(names(kind)), found, "\n".join(lines))


_list_command("strategy", "strategies", "who goes into a soup, and with what weight")
_list_command("method", "methods", "how the tensors of one name combine")


@main.command("modules")
@click.argument("ingredient")
@allow_pickle_option
@output_options
def modules_command(ingredient: str, allow_pickle: bool, form: str) -> None:
    """List the named modules of INGREDIENT (a folder or Hub id), which can have weights of their own."""
    import hf_soup

    found = hf_soup.modules(ingredient, allow_pickle=allow_pickle)
    lines = [["module", "tensors", "parameters"], *([m.name, str(m.tensors), f"{m.parameters:,}"] for m in found)]
    _show(form, "\n".join(module.name for module in found), [module._asdict() for module in found], align(lines))


@main.command("plan")
@click.argument("recipe", type=click.Path(exists=True))
@allow_pickle_option
@output_options
def plan_command(recipe: str, allow_pickle: bool, form: str) -> None:
    """Show what cooking RECIPE (a soup_recipe.yaml or the folder of a soup) would do; only headers are read."""
    from hf_soup.api import cook_recipe
    from hf_soup.recipes import load_recipe

    plan = cook_recipe(load_recipe(recipe), allow_pickle=allow_pickle).plan
    steps = [{**step.spec._asdict(), "inputs": step.inputs, "weights": step.weights} for step in plan.steps]
    _show(form, "\n".join(spec.name for spec in plan.specs), steps, plan.table())


def _show(form: str, path: Any, data: Any, text: str) -> None:
    click.echo({"human": text.strip(), "json": json.dumps(data, indent=2, default=str), "quiet": str(path)}[form])


def _named(given: tuple[str, ...], option: str, form: str | None) -> dict[str, str]:
    """`NAME=VALUE`, each name once; where no form is demanded, a folder is called like itself."""
    found: dict[str, str] = {}
    for item in given:
        name, equals, value = item.partition("=")
        if not equals and form is None:
            name, value = os.path.basename(os.path.normpath(item)), item
        if not name or not value:
            raise click.BadParameter(f"{item!r}: write {form or '[NAME=]SOUP'}.", param_hint=option)
        if name in found:
            raise click.BadParameter(f"two are called {name!r}; write NAME=... for one of them.", param_hint=option)
        found[name] = value
    return found


def _weights(given: tuple[str, ...]) -> list[float] | dict[str, list[float]] | None:
    """`2,1,1`, or several of `classifier=1,0,0`; a row without a module is that of the rest."""
    rows = {}
    for item in given:
        module, _, numbers = item.rpartition("=")
        try:
            rows[module] = [float(number) for number in numbers.split(",")]
        except ValueError:
            raise click.BadParameter(f"{item!r}: write 2,1,1 or module=2,1,1.", param_hint="--weights") from None
    return rows.get("") if set(rows) <= {""} else rows


def _described(soup: Any) -> dict[str, Any]:
    recipe = soup.recipe
    return {
        "ingredients": recipe.names,
        "weights": recipe.weights,
        "method": recipe.method,
        "selection": recipe.selection,
    }


def _trial_table(soup: Any) -> str:
    """What was tried, and why it was kept or not; and who went in with what weight, where these differ."""
    rows, selection = soup.recipe.rows, soup.selection
    named = [f"weight of {prefix or 'the rest'}" if len(rows) > 1 else "weight" for prefix in rows]
    weights = align(
        [
            ["ingredient", *named],
            *[[n, *[f"{row[i]:.4g}" for row in rows.values()]] for i, n in enumerate(soup.recipe.names)],
        ]
    )
    if not selection or not selection.trials:
        return weights
    alike = len({weight for row in rows.values() for weight in row}) == 1
    return selection.table() + ("" if alike else f"\n\n{weights}")
