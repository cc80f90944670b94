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

from .api import compare, cook_recipe, merge, sweep
from .checkpoints.source import open_all
from .data import label_column, label_names, load_data
from .errors import RecipeError
from .evaluation.compare import Comparison
from .evaluation.evaluator import Evaluator
from .lookup import load_module
from .recipes import CookFile, Data, PretrainStage, is_recipe, load_cook_file, load_recipe, read_yaml
from .soup import Soup
from .training.run import write_json
from .training.sweep import Sweep
from .transforms import check_transform, shifted_copy


if TYPE_CHECKING:
    from datasets import Dataset

COOKED_FILE = "cooked.json"  # written last: what was cooked from what


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
) -> Cooked:
    """Do what a cook file says, or cook a recipe again.

    Args:
        path (`str` or `os.PathLike`):
            A cook file, a `soup_recipe.yaml`, or the folder of a soup.
        output_dir (`str` or `os.PathLike`, *optional*):
            For a recipe, the folder of the soup; for a cook file, instead of its `output_dir`.
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether a recipe's soup may replace a folder. A cook file owns its `output_dir` and needs none.
        overrides (`Sequence[str]`, *optional*):
            Values to use instead of those in a cook file, such as `"data.path=my_data"`.

    Returns:
        [`Cooked`]

    Raises:
        [`RecipeError`]: if the file is wrong, or a recipe comes without `output_dir`.
    """
    path = Path(path)
    if path.is_dir() or is_recipe(read_yaml(path)):
        if overrides:
            raise RecipeError(f"{path} is a recipe, which says what was done; only a cook file takes other values.")
        soup = cook_recipe(load_recipe(path))
        return Cooked(soup, soup.save_pretrained(output_dir, overwrite=overwrite) if output_dir else None)
    return _cook_stages(load_cook_file(path, overrides), Path(output_dir) if output_dir else None)


def _cook_stages(plan: CookFile, output_dir: Path | None) -> Cooked:
    folder = (output_dir or Path(plan.output_dir)).resolve()
    base = str(_pretrain(plan.pretrain, plan, folder / "pretrained")) if plan.pretrain else plan.base_model
    runs = _sweep(plan, base, folder / "runs") if plan.sweep else None
    if plan.merge is None:
        return Cooked(None, sweep=runs)
    ingredients = runs or plan.ingredients
    target = folder / "soup"
    key = _key(plan, ingredients)
    comparison = _read_comparison(target) if plan.compare else None
    whole = _read_json(folder / COOKED_FILE).get("key") == key and (target / "config.json").is_file()
    if whole and (comparison or not plan.compare):
        soup = cook_recipe(load_recipe(target))
    else:
        soup = _merge(plan, ingredients)
        comparison = _compare(plan, soup) if plan.compare else None
        soup.comparison = comparison
        soup.save_pretrained(target, overwrite=True)
        write_json(folder / COOKED_FILE, {"key": key})
    if plan.push:
        soup.comparison = comparison
        soup.push_to_hub(plan.push.repo_id, private=plan.push.private)
    return Cooked(soup, target, comparison, runs)


def _merge(plan: CookFile, ingredients: Any) -> Soup:
    options = dataclasses.asdict(plan.merge)
    metric, params = options.pop("metric"), options.pop("params")
    if options["strategy"] not in (None, "uniform"):
        options["evaluator"] = _evaluator(plan, _load(plan.data, plan.data.validation), "validation", metric)
    return merge(ingredients, **options, **params)


def _compare(plan: CookFile, soup: Soup) -> Comparison:
    data = plan.data
    metric = plan.compare.metric or plan.merge.metric
    shifted = {}
    for name, part in data.shifted.items():
        if part.path:
            examples = load_data(part.path, name=part.name, split=part.split or "test")
        else:
            examples = _load(data, part.split or data.test)
        if part.transform:
            examples = _transformed(examples, part.transform, plan)
        shifted[name] = _evaluator(plan, examples, name, metric)
    return compare(
        soup,
        test=_evaluator(plan, _load(data, data.test), "test", metric),
        shifted=shifted,
        validation=_evaluator(plan, _load(data, data.validation), "validation", metric),
        metric=metric,
    )


def _sweep(plan: CookFile, base: str, folder: Path) -> Sweep:
    stage = plan.sweep
    return sweep(
        base,
        _load(plan.data, plan.data.train),
        validation=_load(plan.data, plan.data.validation),
        metric=plan.merge.metric if plan.merge else None,
        space=stage.space,
        n_runs=stage.n_runs,
        seed=stage.seed,
        head_seed=stage.head_seed,
        output_dir=folder,
        training_args=stage.training_args,
        **_task(plan),
    )


def _pretrain(stage: PretrainStage, plan: CookFile, folder: Path) -> Path:
    """A model from a config, trained on its own part of the data: a sweep of one run."""
    data = _load(plan.data, stage.data)
    blank = folder / "blank"
    if not (blank / "config.json").is_file():
        _make_blank(stage, data, plan, blank)
    space = [{"augment": stage.transform} if stage.transform else {"seed": 0}]
    runs = sweep(
        blank, data, space=space, output_dir=folder / "runs", training_args=stage.training_args, **_task(plan)
    )
    return runs[0].folder


def _make_blank(stage: PretrainStage, data: Dataset, plan: CookFile, folder: Path) -> None:
    """Save a model with random weights, built from its config, and its processor."""
    import transformers

    from .checkpoints.memory import quiet_transformers
    from .checkpoints.writer import staged_folder

    config = dict(stage.config)
    kind = config.pop("model_type", None)
    if kind not in transformers.CONFIG_MAPPING:
        raise RecipeError(f"`pretrain.config.model_type` is {kind!r}; transformers knows no such model.")
    task = load_module("task", plan.task if plan.task != "auto" else "image-classification")
    labels = label_names(data, label_column(data, plan.data.label_column)) or []
    with quiet_transformers(), staged_folder(folder) as stage_folder:
        transformers.set_seed(0)
        config = transformers.AutoConfig.for_model(kind, **config, id2label=dict(enumerate(labels)))
        getattr(transformers, task.AUTO_CLASS).from_config(config).save_pretrained(stage_folder)
        write_json(stage_folder / "preprocessor_config.json", stage.processor)


def _load(data: Data, split: str) -> Dataset:
    return load_data(data.path, name=data.name, split=split)


def _transformed(examples: Dataset, transform: Mapping[str, float], plan: CookFile) -> Dataset:
    check_transform(transform)
    image = load_module("task", "image-classification")
    (column,) = image.columns(examples, None, label_column(examples, plan.data.label_column))
    return shifted_copy(examples, column, transform)


def _evaluator(plan: CookFile, examples: Dataset, split: str, metric: str | None) -> Evaluator:
    return Evaluator(examples, split=split, metric=metric, path=plan.data.path, **_task(plan))


def _task(plan: CookFile) -> dict[str, Any]:
    return {"task": plan.task, "label_column": plan.data.label_column, "text_columns": plan.data.text_columns}


def _key(plan: CookFile, ingredients: Any) -> str:
    """What the soup depends on: the stages after the sweep, and the ingredients as they are now."""
    import xxhash

    stages = {name: dataclasses.asdict(plan)[name] for name in ("data", "task", "merge", "compare")}
    pinned = [dataclasses.asdict(item.ingredient) for item in open_all(ingredients)]
    return xxhash.xxh3_128_hexdigest(json.dumps([stages, pinned], sort_keys=True).encode())


def _read_comparison(folder: Path) -> Comparison | None:
    data = _read_json(folder / "comparison.json")
    return Comparison.from_dict(data) if data else None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
