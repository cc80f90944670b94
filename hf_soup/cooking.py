"""`cook`: from one file to a soup: pretrain, sweep, merge, compare, save, push. Stages that are whole are skipped.

It only strings the verbs together. A recipe file (`soup_recipe.yaml`) is cooked again from its ingredients.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .api import cook_recipe, merge, share_out
from .checkpoints.check import is_statistic
from .checkpoints.checkpoint import Checkpoint, contents_of
from .checkpoints.content import content_digests
from .checkpoints.hub import split_revision, split_source
from .checkpoints.memory import quiet_transformers
from .checkpoints.source import open_all
from .checkpoints.staging import staged_folder, write_json
from .checkpoints.targets import as_output_error, refuse_folder, refuse_target
from .comparing import compare
from .cook_file import CookFile, Data, load_cook_file
from .data.content import hash_rows
from .data.load import load_data
from .data.splits import load_training
from .errors import DataError, RecipeError, SoupError
from .evaluation.comparison import TEST, VALIDATION, Comparison
from .evaluation.evaluator import Evaluator
from .lookup import chooses, is_code, load_module
from .merging.plan import check_dtype
from .metrics import load_metrics
from .parallel import check_executor
from .recipes import RECIPE_FILE, is_recipe, load_recipe
from .seeds import check_seed
from .soup import Soup
from .sweeping import plan_runs, train
from .training.examples import check_examples, guess_task
from .training.planning import plan_sweep
from .training.space import expand_space
from .training.sweep import Sweep, run_plan
from .transforms import shifted_copy
from .types import Ingredient, Recipe
from .untrusted import as_error, one_line, read_json
from .variations import cook_variation
from .yaml_files import read_yaml


if TYPE_CHECKING:
    from datasets import Dataset

COOKED_FILE = "cooked.json"  # written last: what was cooked from what
BLANK_FILE = "made_from.json"  # beside a model with random weights: its section of the cook file
PRETRAIN, TRAIN = "pretrain", "train"  # sets that nobody is scored on


class Cooked(NamedTuple):
    """What came of a cook file; `None` where the file has no such stage.

    Args:
        soup ([`Soup`], *optional*):
            The soup.
        folder (`Path`, *optional*):
            Where it was saved.
        comparison ([`Comparison`], *optional*):
            Its scores.
        sweep ([`Sweep`], *optional*):
            The runs.
    """

    soup: Soup | None
    folder: Path | None = None
    comparison: Comparison | None = None
    sweep: Sweep | None = None


def cook(
    path: str | os.PathLike,
    *,
    output_dir: str | os.PathLike | None = None,
    overwrite: bool = False,
    overrides: Sequence[str] = (),
    add: Sequence[str] = (),
    drop: Sequence[str] = (),
    allow_pickle: bool = False,
    allow_code: bool = False,
) -> Cooked:
    """Do what a cook file says, or cook a recipe again, as it is or with changes.

    Args:
        path (`str` or `os.PathLike`):
            A cook file, a `soup_recipe.yaml`, the folder of a soup, or its Hub id.
        output_dir (`str` or `os.PathLike`, *optional*):
            For a recipe, the folder of the soup, which is not saved without it; for a cook file, instead of its own.
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether a recipe's soup may replace a folder. A cook file owns its `output_dir` and needs none.
        overrides (`Sequence[str]`, *optional*):
            Values to use instead of those in a cook file, such as `"data.path=my_data"`; of a recipe, arguments of
            [`merge`], such as `"strategy=uniform"`.
        add (`Sequence[str]`, *optional*):
            More ingredients for a recipe.
        drop (`Sequence[str]`, *optional*):
            Names or Hub ids of ingredients that a recipe is cooked without.
        allow_pickle (`bool`, *optional*, defaults to `False`):
            Read ingredients that are `pytorch_model.bin`, as [`merge`] does.
        allow_code (`bool`, *optional*, defaults to `False`):
            Import and call what the file or the overrides name that is not of this package: methods, strategies and
            data functions (`package.module:function`), metrics of `evaluate`. Only for files that you trust.

    Returns:
        [`Cooked`]

    Raises:
        [`RecipeError`]: if the file is wrong, or names code that is not allowed.
        [`OutputError`]: if `output_dir` cannot be written.
    """
    if names_recipe(path):
        if output_dir:
            refuse_target(output_dir, overwrite=overwrite)  # before an ingredient is read
        recipe = load_recipe(path, allow_code=allow_code)
        changes = {"overrides": overrides, "add": add, "drop": drop}
        if any(changes.values()):
            soup = cook_variation(recipe, **changes, allow_pickle=allow_pickle, allow_code=allow_code)
        else:
            soup = cook_recipe(recipe, allow_pickle=allow_pickle)
        return Cooked(soup, soup.save_pretrained(output_dir, overwrite=overwrite) if output_dir else None)
    if add or drop:
        raise RecipeError(f"{path} is a cook file: change its list of `ingredients` instead of adding or dropping.")
    plan = load_cook_file(path, overrides, allow_code=allow_code)
    return _cook_stages(plan, Path(output_dir) if output_dir else None, allow_pickle)


def names_recipe(path: str | os.PathLike) -> bool:
    """Whether something to cook is a recipe: its file, the folder of a soup, or its Hub id.

    Raises:
        [`RecipeError`]: if there is nothing of that name.
    """
    if not os.path.exists(path) and split_source(split_revision(path)[0]) is None:
        raise RecipeError(f"{path} does not exist, and it is no Hub id (owner/name, owner/name@revision) either.")
    if os.path.isfile(path) or os.fspath(path).endswith((".yaml", ".yml")):
        return is_recipe(read_yaml(path))
    return True


def _cook_stages(plan: CookFile, output_dir: Path | None, allow_pickle: bool) -> Cooked:
    folder = refuse_folder(output_dir or plan.output_dir).resolve()
    if plan.sweep:
        refuse_folder(folder / "runs")  # before anything is trained
    if plan.pretrain:
        refuse_folder(folder / "pretrained")
    if plan.merge:
        refuse_target(folder / "soup", overwrite=True)
    _check_settings(plan)
    sets = _load_sets(plan)
    base = str(_pretrain(plan, sets, folder / "pretrained")) if plan.pretrain else plan.base_model
    runs = _sweep(plan, sets, base, folder / "runs") if plan.sweep else None
    if plan.merge is None:
        return Cooked(None, sweep=runs)
    ingredients = runs or plan.ingredients
    target, marker = folder / "soup", folder / COOKED_FILE
    candidates = open_all(ingredients, allow_pickle=allow_pickle)
    key = _key(plan, sets, candidates)
    comparison = _read_comparison(target) if plan.compare else None
    made = _read_json(marker)
    whole = made.get("key") == key and made.get("files") == _soup_files(target)
    if whole and (comparison or not plan.compare):
        recipe = load_recipe(target, allow_code=is_code(plan.merge.method))  # as the cook file was allowed
        soup = cook_recipe(recipe, candidates=candidates, allow_pickle=allow_pickle)
        soup.comparison = comparison
    else:
        soup = _merge(plan, _with_training(plan, sets, candidates), ingredients, allow_pickle)
        soup.comparison = comparison = _compare(plan, sets, soup) if plan.compare else None
        with as_output_error(marker):
            marker.unlink(missing_ok=True)  # it may not vouch for the soup that comes
        soup.save_pretrained(target, overwrite=True)
        write_json(marker, {"key": key, "files": _soup_files(target)})
    if plan.push:
        soup.push_to_hub(**vars(plan.push))
    return Cooked(soup, target, comparison, runs)


def _check_settings(plan: CookFile) -> None:
    """Names, types and parameters of all stages, told before anything is loaded or trained."""
    for metric in filter(None, [plan.merge and plan.merge.metric, *(plan.compare.metrics if plan.compare else ())]):
        load_metrics(metric)
    if plan.sweep is not None:
        check_seed(plan.sweep.init_seed, "`sweep.init_seed`")
    if plan.merge is not None:
        check_seed(plan.merge.seed, "`merge.seed`")
        share_out(plan.merge.method, plan.merge.strategy, plan.merge.params)
        check_dtype(plan.merge.dtype)
        check_executor(plan.merge.executor)
        worth = plan.merge.folds is not None or plan.merge.holdout is not None
        if worth and not chooses(plan.merge.strategy):
            raise RecipeError("`merge.folds` and `merge.holdout` are of a strategy that chooses, such as greedy.")
    runs = expand_space(plan.sweep.space, n_runs=plan.sweep.n_runs, seed=plan.sweep.seed) if plan.sweep else ()
    n = len(runs or plan.ingredients)
    if plan.merge is not None and plan.merge.weights is not None:
        weights = plan.merge.weights
        Recipe([Ingredient(f"ingredient {index}", "") for index in range(n)], weights)  # which checks their number


def _load_sets(plan: CookFile) -> dict[str, Dataset]:
    """Every set of examples that a stage will need; their columns and labels are those of the training data."""
    data = plan.data
    if data is None:
        return {}
    choosing = plan.merge is not None and chooses(plan.merge.strategy)
    splits = {PRETRAIN: plan.pretrain.data} if plan.pretrain else {}
    splits |= {TRAIN: data.train} if plan.sweep else {}
    splits |= {VALIDATION: data.validation} if plan.sweep or plan.compare or choosing else {}
    splits |= {TEST: data.test} if plan.compare else {}
    if plan.sweep:  # which needs validation data, and keeps some of the training data for it where there is none
        given = {"train": splits.pop(TRAIN), "validation": splits.pop(VALIDATION)}
        given |= {"label_column": data.label_column, "seed": plan.sweep.seed}
        train, validation = load_training(data.path, name=data.name, **given)
    sets = {name: load_data(data.path, name=data.name, split=split) for name, split in splits.items()}
    sets |= {TRAIN: train, VALIDATION: validation} if plan.sweep else {}
    for name, part in data.shifted.items() if plan.compare else ():
        config = part.name if part.path or part.name else data.name
        examples = load_data(part.path or data.path, name=config, split=part.split or data.test)
        sets[name] = _transformed(examples, part.transform, data) if part.transform else examples
    if TRAIN in sets:
        _check_sets(plan, {name: part for name, part in sets.items() if name != PRETRAIN})
    return sets


def _check_sets(plan: CookFile, sets: Mapping[str, Dataset]) -> None:
    """Columns and labels of all sets, by what the training data has, told before anything is trained."""
    from transformers import PretrainedConfig

    task = load_module("task", plan.task if plan.task != "auto" else guess_task(sets[TRAIN]))
    label, texts = plan.data.label_column, plan.data.text_columns
    head = PretrainedConfig(**task.head(sets[TRAIN], task.label_column(sets[TRAIN], label)))
    read: list[str] = []
    for name in (TRAIN, *(name for name in sets if name != TRAIN)):
        try:
            columns, _ = check_examples(task, sets[name], label, texts, head, name)
        except DataError as error:
            raise DataError(f"{name}, for a model of the training data: {error}") from None
        read = read or columns
        if columns != read and set(read) <= set(sets[name].column_names):
            raise DataError(
                f"the texts of {name} would be {', '.join(columns)}, and those of {TRAIN} {', '.join(read)}: name the "
                "columns in `data.text_columns`."
            )


def _with_training(
    plan: CookFile, sets: Mapping[str, Dataset], candidates: Sequence[Checkpoint]
) -> Mapping[str, Dataset]:
    """The sets with the training data too, where it is there and BatchNorm is to be estimated on it."""
    if plan.data is None or TRAIN in sets or not any(map(is_statistic, candidates[0].specs)):
        return sets
    try:
        return {**sets, TRAIN: load_data(plan.data.path, name=plan.data.name, split=plan.data.train)}
    except DataError:
        return sets


def _merge(plan: CookFile, sets: Mapping[str, Dataset], ingredients: Any, allow_pickle: bool) -> Soup:
    options = dataclasses.asdict(plan.merge)
    metric, params = options.pop("metric"), options.pop("params")
    if chooses(options["strategy"]):
        options["evaluator"] = _evaluator(plan, sets, VALIDATION, metric)
    base = None if plan.sweep else plan.base_model  # a sweep knows what its runs started from, head included
    training = _evaluator(plan, sets, TRAIN, None) if TRAIN in sets else None
    return merge(ingredients, base_model=base, batchnorm_data=training, allow_pickle=allow_pickle, **options, **params)


def _compare(plan: CookFile, sets: Mapping[str, Dataset], soup: Soup) -> Comparison:
    metric = plan.compare.metrics or plan.merge.metric
    evaluators = {name: _evaluator(plan, sets, name, metric) for name in sets if name not in (PRETRAIN, TRAIN)}
    validation, test = evaluators.pop(VALIDATION), evaluators.pop(TEST)
    return compare(soup, test=test, shifted=evaluators, validation=validation, ensembles=plan.compare.ensembles)


def _sweep(plan: CookFile, sets: Mapping[str, Dataset], base: str, folder: Path) -> Sweep:
    metric = plan.merge.metric if plan.merge else None
    given = {**vars(plan.sweep), **_task(plan), "path": plan.data.path, "metric": metric}
    where = {name: given.pop(name) for name in ("on_error", "executor", "resources", "push_runs", "private")}
    if where["push_runs"] is True:  # `runs` is what the folder is called in every cook
        where["push_runs"] = folder.parent.name
    return train(plan_runs(base, sets[TRAIN], validation=sets[VALIDATION], output_dir=folder, **given), **where)


def _pretrain(plan: CookFile, sets: Mapping[str, Dataset], folder: Path) -> Path:
    """A model from a config, trained on its own part of the data: a sweep of one run."""
    stage = plan.pretrain
    blank = folder / "blank"
    made_from = {"config": stage.config, "processor": stage.processor}
    if not blank.is_dir():
        _make_blank(plan, sets[PRETRAIN], made_from, blank)
    if _read_json(blank / BLANK_FILE) != made_from:
        raise RecipeError(
            f"{blank} was made from another `pretrain` section. Use another output_dir, or delete {folder}."
        )
    one = {"space": [{"augment": stage.transform} if stage.transform else {}], "training_args": stage.training_args}
    runs = run_plan(plan_sweep(blank, sets[PRETRAIN], output_dir=folder / "runs", **one, **_task(plan)))
    return runs[0].folder


def _make_blank(plan: CookFile, data: Dataset, made_from: Mapping[str, Any], folder: Path) -> None:
    """Save a model with random weights, built from its config, and its processor."""
    import transformers

    config = dict(made_from["config"])
    kind = config.pop("model_type", None)
    if not isinstance(kind, str) or kind not in transformers.CONFIG_MAPPING:
        raise RecipeError(f"`pretrain.config.model_type` is {one_line(repr(kind))}; transformers knows no such model.")
    task = load_module("task", plan.task if plan.task != "auto" else "image-classification")
    head = task.head(data, task.label_column(data, plan.data.label_column))
    with quiet_transformers(), staged_folder(folder) as stage_folder:
        transformers.set_seed(0)
        with as_error(RecipeError, "`pretrain.config` makes no model"):
            config = transformers.AutoConfig.for_model(kind, **{**config, **head})
            model = getattr(transformers, task.AUTO_CLASS).from_config(config)
        model.save_pretrained(stage_folder)
        write_json(stage_folder / "preprocessor_config.json", made_from["processor"])
        write_json(stage_folder / BLANK_FILE, made_from)


def _transformed(examples: Dataset, transform: Mapping[str, float], data: Data) -> Dataset:
    (column,) = load_module("task", "image-classification").columns(examples, None, data.label_column)
    return shifted_copy(examples, column, transform)


def _evaluator(plan: CookFile, sets: Mapping[str, Dataset], name: str, metric: str | None) -> Evaluator:
    return Evaluator(sets[name], split=name, metric=metric, path=plan.data.path, **_task(plan))


def _task(plan: CookFile) -> dict[str, Any]:
    return {"task": plan.task, "label_column": plan.data.label_column, "text_columns": plan.data.text_columns}


def _key(plan: CookFile, sets: Mapping[str, Dataset], candidates: Sequence[Checkpoint]) -> str:
    """What the soup depends on: the stages after the sweep, the content of the data, and the ingredients."""
    import xxhash

    stages = {name: dataclasses.asdict(plan)[name] for name in ("base_model", "data", "task", "merge", "compare")}
    content = {name: hash_rows(data).fingerprint for name, data in sets.items() if name not in (PRETRAIN, TRAIN)}
    contents = contents_of(candidates)
    pinned = [
        dataclasses.asdict(dataclasses.replace(item.ingredient, files=content))
        for item, content in zip(candidates, contents, strict=True)
    ]
    return xxhash.xxh3_128_hexdigest(json.dumps([stages, content, pinned], sort_keys=True).encode())


def _soup_files(folder: Path) -> dict[str, str]:
    """The recipe and the weight files of a saved soup, each with the digest of its content."""
    files = [folder / RECIPE_FILE, *sorted(folder.glob("*.safetensors")), *sorted(folder.glob("*.safetensors.*"))]
    there = [path for path in files if path.is_file()]
    return {Path(path).name: digest for path, digest in content_digests(there).items()}


def _read_comparison(folder: Path) -> Comparison | None:
    """What was saved of it; nothing where it is missing or damaged, and it is made again."""
    try:
        return Comparison.from_dict(_read_json(folder / "comparison.json"))
    except ValueError:  # pydantic's, of a form that is not written
        return None


def _read_json(path: Path) -> dict[str, Any]:
    """A mapping that an earlier call has written; an empty one where it is missing or damaged."""
    try:
        found = read_json(path)
    except (OSError, SoupError):
        return {}
    return found if isinstance(found, dict) else {}
