"""`cook`: make a soup from one file: pretrain, sweep, merge, compare, save, push. Complete stages are skipped.

It only calls the public functions in order. A recipe file (`soup_recipe.yaml`) is cooked again from its ingredients.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoints.check import is_statistic
from ..checkpoints.checkpoint import Checkpoint, contents_of
from ..checkpoints.content import content_digests
from ..checkpoints.hub import split_revision, split_source
from ..checkpoints.modules import count_layers
from ..checkpoints.source import open_all
from ..checkpoints.staging import write_json
from ..checkpoints.targets import as_output_error, refuse_target
from ..comparison.comparison import TEST, VALIDATION, Comparison
from ..data.content import hash_content
from ..data.splits import TrainingData
from ..display.results import Result
from ..errors import RecipeError, SoupError, did_you_mean
from ..formats.cook_file import CookFile, PretrainStage, load_cook_file
from ..formats.mergekit import as_cook_files, layers_of, read_documents
from ..formats.recipe_file import RECIPE_FILE, is_recipe, load_recipe
from ..formats.shipped_recipes import resolve_shipped, shipped_recipes
from ..formats.strict_yaml import build, read_yaml
from ..options import CompareOptions, MergeOptions, SweepOptions, answers_keywords, keywords
from ..plugins import chooses, importance_kind, is_code
from ..training.pretraining import Blank, pretrain
from ..training.sweep import Sweep
from ..types import Recipe
from ..untrusted import read_json
from .compare import compare
from .cook_checks import check_cook_file
from .cook_data import PRETRAIN, TRAIN, Examples, load_examples
from .from_recipe import cook_recipe
from .ingredients import read_ingredients
from .load import read_comparison
from .merge import merge
from .soup import Soup
from .sweep import plan_runs, train
from .variations import cook_variation


COOKED_FILE = "cooked.json"  # written last: what the soup was made from


@dataclass(frozen=True, repr=False)
class Cooked(Result):
    """Results of [`cook`]; `None` for stages that the file does not have.

    Args:
        soup ([`Soup`], *optional*):
            The soup.
        folder (`Path`, *optional*):
            Folder that the soup was saved in.
        comparison ([`Comparison`], *optional*):
            Scores of the soup and of what it is compared with.
        sweep ([`Sweep`], *optional*):
            The training runs.
    """

    soup: Soup | None
    folder: Path | None = None
    comparison: Comparison | None = None
    sweep: Sweep | None = None

    def table(self) -> str:
        """The results of the stages, one below the other."""
        results = [result.table() for result in (self.sweep, self.soup, self.comparison) if result is not None]
        if self.folder is not None:
            results.append(f"Saved to {self.folder}")
        return "\n\n".join(results)


@answers_keywords
def cook(
    path: str | os.PathLike[str] | Recipe,
    *,
    output_dir: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    overrides: Sequence[str] = (),
    add: Sequence[str] = (),
    drop: Sequence[str] = (),
    allow_pickle: bool = False,
    allow_code: bool = False,
    stream: bool | None = None,
    executor: str = "local",
) -> Cooked:
    """Run the stages of a cook file, or cook a recipe again, unchanged or with changes.

    Args:
        path (`str`, `os.PathLike` or [`Recipe`]):
            A cook file or the name of a shipped one (`"digits-vit"`; `hf-soup recipes` lists them), a configuration of
            mergekit, a `soup_recipe.yaml`, the folder or Hub id of a soup, or a recipe read by [`load_recipe`].
        output_dir (`str` or `os.PathLike`, *optional*):
            For a recipe, folder in which the soup is saved; without it the soup is not saved. For a cook file, folder
            that replaces the file's own `output_dir`.
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether the soup of a recipe may replace an existing folder. It has no effect on a cook file, which owns
            its `output_dir`.
        overrides (`Sequence[str]`, *optional*):
            Values that replace those of a cook file, such as `"data.path=my_data"`; for a recipe, arguments of
            [`merge`], such as `"strategy=uniform"`.
        add (`Sequence[str]`, *optional*):
            Folders or Hub ids of ingredients that are added to a recipe.
        drop (`Sequence[str]`, *optional*):
            Names or Hub ids of ingredients that are left out of a recipe.
        allow_pickle (`bool`, *optional*, defaults to `False`):
            Whether `pytorch_model.bin` is read where there are no safetensors weights, as for [`load_ingredient`].
        allow_code (`bool`, *optional*, defaults to `False`):
            Whether code from outside of this package that the file or the overrides name is imported and called:
            methods, strategies and data functions (`package.module:function`) and metrics of `evaluate`. Only for
            files that you trust.
        stream (`bool`, *optional*):
            For a recipe, whether weights on the Hub are streamed instead of downloaded, as for [`merge`]; a cook file
            says that in its `merge` section.
        executor (`str`, *optional*, defaults to `"local"`):
            For a recipe, where the weight files of the soup are made when it is saved or pushed, as for [`merge`].

    Returns:
        [`Cooked`]

    Raises:
        [`RecipeError`]: if the file is invalid, or names code that is not allowed.
        [`OutputError`]: if `output_dir` cannot be written.
    """
    if not isinstance(path, Recipe):
        path = resolve_shipped(path)
    if isinstance(path, Recipe) or names_recipe(path):
        return _cook_again(
            path,
            output_dir,
            overwrite=overwrite,
            overrides=overrides,
            add=add,
            drop=drop,
            allow_pickle=allow_pickle,
            allow_code=allow_code,
            stream=stream,
            executor=executor,
        )
    if stream is not None or executor != "local":
        raise RecipeError(f"{path} is a cook file, which says in its `merge` section whether to stream, and where.")
    if add or drop:
        raise RecipeError(f"{path} is a cook file: change its list of `ingredients` instead of adding or dropping.")
    documents = read_documents(path)
    if len(documents) > 1:
        return _cook_documents(documents, path, output_dir, overrides, allow_pickle)
    plan = load_cook_file(path, overrides, allow_code=allow_code)
    _refuse_fewer_layers(documents, path, allow_pickle)
    return _cook_stages(plan, Path(output_dir) if output_dir else None, allow_pickle)


def _cook_documents(
    documents: Sequence[Mapping[str, Any]],
    path: str | os.PathLike[str],
    output_dir: str | os.PathLike[str] | None,
    overrides: Sequence[str],
    allow_pickle: bool,
) -> Cooked:
    """Cook several configurations of mergekit in one file, which build on each other; the last result is returned."""
    if output_dir is None:
        raise RecipeError(f"{path} needs a folder for its results: pass output_dir=... (-o FOLDER).")
    if overrides:
        raise RecipeError(f"{path} holds several configurations, so that overrides have no place; change the file.")
    stages = as_cook_files(documents, str(path), os.fspath(output_dir))
    plans = [build(CookFile, content, str(path)) for content in stages]  # all are checked before the first is cooked
    _refuse_fewer_layers(documents, path, allow_pickle)
    cooked = [_cook_stages(plan, None, allow_pickle) for plan in plans]
    return cooked[-1]


def _refuse_fewer_layers(
    documents: Sequence[Mapping[str, Any]], path: str | os.PathLike[str], allow_pickle: bool
) -> None:
    """Refuse slices that leave out the last layers of a model, of which mergekit would make a smaller one.

    Raises:
        [`RecipeError`]: naming the model.
    """
    for source, layers in layers_of(documents, str(path)).items():
        (checkpoint,) = open_all([source], allow_pickle=allow_pickle)
        of_model = count_layers(checkpoint.specs)
        if of_model != layers:
            raise RecipeError(
                f"{path}: the slices end after {layers} layers, and {source} has {of_model}: make models of other "
                "shapes with mergekit."
            )


def names_recipe(path: str | os.PathLike[str]) -> bool:
    """Whether `path` names a recipe (its file, or the folder or Hub id of a soup) rather than a cook file.

    Raises:
        [`RecipeError`]: if nothing has that name.
    """
    path = resolve_shipped(path)
    is_hub_id = "/" in os.fspath(path) and split_source(split_revision(path)[0]) is not None
    if not os.path.exists(path) and not is_hub_id:
        shipped = did_you_mean(str(path), shipped_recipes()).replace("Known:", "Shipped recipes:")
        raise RecipeError(
            f"{path} does not exist, and is neither a Hub id (owner/name, owner/name@revision) nor a shipped "
            f"recipe{shipped}."
        )
    if read_documents(path):
        return False
    if os.path.isfile(path) or os.fspath(path).endswith((".yaml", ".yml")):
        return is_recipe(read_yaml(path))
    return True


def _cook_again(
    path: str | os.PathLike[str] | Recipe,
    output_dir: str | os.PathLike[str] | None,
    *,
    overwrite: bool,
    overrides: Sequence[str],
    add: Sequence[str],
    drop: Sequence[str],
    allow_pickle: bool,
    allow_code: bool,
    stream: bool | None,
    executor: str,
) -> Cooked:
    """Make the soup of a recipe, unchanged or with changes; the arguments are those of [`cook`]."""
    if output_dir:
        refuse_target(output_dir, overwrite=overwrite)  # before an ingredient is read
    recipe = path if isinstance(path, Recipe) else load_recipe(path, allow_code=allow_code)
    if overrides or add or drop:
        overrides = [*overrides, f"executor={executor}"] if executor != "local" else overrides
        overrides = [*overrides, f"stream={str(stream).lower()}"] if stream is not None else overrides
        soup = cook_variation(
            recipe, overrides=overrides, add=add, drop=drop, allow_pickle=allow_pickle, allow_code=allow_code
        )
    else:
        soup = cook_recipe(recipe, allow_pickle=allow_pickle, stream=stream, executor=executor)
    if not output_dir:
        return Cooked(soup)
    return Cooked(soup, Path(soup.save_pretrained(output_dir, overwrite=overwrite)))


def _cook_stages(plan: CookFile, output_dir: Path | None, allow_pickle: bool) -> Cooked:
    folder = check_cook_file(plan, output_dir)
    examples = load_examples(plan)
    base_model = plan.base_model
    if plan.pretrain is not None:
        base_model = str(_pretrain(plan.pretrain, examples, folder / "pretrained"))
    runs: Sweep | None = None
    if plan.sweep is not None:
        runs = _sweep(plan.sweep, base_model, examples, folder / "runs")
    if plan.merge is None:
        return Cooked(None, sweep=runs)
    if runs is not None and plan.sweep is not None and plan.sweep.folds is not None:
        runs, examples = runs.best_settings(), examples.without_validation()
    soup, comparison = _make_soup(plan.merge, examples, runs, folder, allow_pickle)
    if plan.push is not None:
        soup.push_to_hub(**keywords(plan.push))
    return Cooked(soup, folder / "soup", comparison, runs)


def _pretrain(stage: PretrainStage, examples: Examples, folder: Path) -> Path:
    """Train a model from a config on the data of the `pretrain` section; its folder is returned."""
    section = examples.plan.examples
    return pretrain(
        Blank(stage.config, stage.processor),
        examples.sets[PRETRAIN],
        folder,
        transform=stage.transform,
        training_args=stage.training_args,
        task=examples.plan.task,
        label_column=section.label_column,
        text_columns=section.text_columns,
    )


def _sweep(options: SweepOptions, base_model: str | None, examples: Examples, folder: Path) -> Sweep:
    plan, section = examples.plan, examples.plan.examples
    if base_model is None:
        raise RecipeError("a `sweep` needs a `base_model`, or a `pretrain` section that makes one.")
    if options.push_runs is True:  # repositories would be named after the folder, which is `runs` for every cook file
        options = dataclasses.replace(options, push_runs=folder.parent.name)
    sweep_plan = plan_runs(
        base_model,
        TrainingData(examples.sets[TRAIN], examples.sets[VALIDATION], section.path),
        output_dir=folder,
        task=plan.task,
        metric=plan.merge.metric if plan.merge is not None else None,
        label_column=section.label_column,
        text_columns=section.text_columns,
        **keywords(options),
    )
    return train(sweep_plan)


def _make_soup(
    options: MergeOptions, examples: Examples, runs: Sweep | None, folder: Path, allow_pickle: bool
) -> tuple[Soup, Comparison | None]:
    """The saved soup and its comparison; they are reused if nothing that they depend on has changed."""
    plan, target, marker = examples.plan, folder / "soup", folder / COOKED_FILE
    ingredients: Sequence[Any] = runs if runs is not None else read_ingredients(plan.ingredients)
    candidates = open_all(ingredients, allow_pickle=allow_pickle)
    # on the training data BatchNorm is estimated again, and how much each weight matters
    takes_training = importance_kind(options.method) or any(map(is_statistic, candidates[0].specs))
    if takes_training:
        examples = examples.with_training()
    key = _key(examples, candidates, with_training=bool(takes_training))
    if _is_whole(marker, key, target):
        comparison = read_comparison(target) if plan.compare is not None else None
        if plan.compare is None or comparison is not None:
            recipe = load_recipe(target, allow_code=is_code(options.method))  # the cook file's code was allowed before
            soup = cook_recipe(recipe, candidates=candidates, allow_pickle=allow_pickle)
            soup.comparison = comparison
            return soup, comparison
    # a sweep is passed unchanged: it knows what its runs started from, head included
    sources: Sequence[Any] = candidates
    if runs is not None or options.within is not None or options.group_by is not None:
        sources = ingredients  # an opened checkpoint does not know the other snapshots of its run
    soup = _merge(options, examples, sources)
    comparison = _compare(plan.compare, options, examples, soup) if plan.compare is not None else None
    soup.comparison = comparison
    with as_output_error(marker):
        marker.unlink(missing_ok=True)  # the marker must not describe the next soup
    soup.save_pretrained(target, overwrite=True, **keywords(plan.save))
    write_json(marker, {"key": key, "files": _soup_files(target)})
    return soup, comparison


def _merge(options: MergeOptions, examples: Examples, ingredients: Sequence[Any]) -> Soup:
    choosing = chooses(options.strategy)
    evaluator = examples.evaluator(VALIDATION, options.metric) if choosing else None
    training = examples.evaluator(TRAIN, None) if TRAIN in examples.sets else None
    arguments = keywords(options)
    del arguments["metric"], arguments["params"]  # arguments of the evaluator, and of the method and strategy
    return merge(
        ingredients,
        # a sweep knows what its runs started from, head included
        base_model=None if examples.plan.sweep is not None else examples.plan.base_model,
        evaluator=evaluator,
        batchnorm_data=training,
        importance_data=training if importance_kind(options.method) else None,
        **arguments,
        **options.params,
    )


def _compare(options: CompareOptions, merged: MergeOptions, examples: Examples, soup: Soup) -> Comparison:
    metric = options.metrics or merged.metric
    evaluators = {name: examples.evaluator(name, metric) for name in examples.scored}
    validation, test = evaluators.pop(VALIDATION, None), evaluators.pop(TEST)
    return compare(soup, test=test, shifted=evaluators, validation=validation, ensembles=options.ensembles)


# Whether a soup is up to date


def _key(examples: Examples, candidates: Sequence[Checkpoint], *, with_training: bool) -> str:
    """A key of all that the soup depends on: the stages after the sweep, the data's content, and the ingredients."""
    import xxhash

    sections = dataclasses.asdict(examples.plan)
    stages = {name: sections[name] for name in ("base_model", "data", "task", "merge", "compare", "save")}
    for name in ("executor", "resources"):  # where trials run does not change them
        stages["merge"].pop(name, None)
    sets = dict(examples.scored)
    if with_training and TRAIN in examples.sets:
        sets[TRAIN] = examples.sets[TRAIN]
    fingerprints = {name: hash_content(data).fingerprint for name, data in sets.items()}
    pinned = []
    for candidate, content in zip(candidates, contents_of(candidates), strict=True):
        pinned.append(dataclasses.asdict(dataclasses.replace(candidate.ingredient, files=content)))
    return xxhash.xxh3_128_hexdigest(json.dumps([stages, fingerprints, pinned], sort_keys=True).encode())


def _is_whole(marker: Path, key: str, soup: Path) -> bool:
    """Whether a marker has the key and the digests of the files of a saved soup."""
    content = _read_json(marker)
    return content.get("key") == key and content.get("files") == _soup_files(soup)


def _soup_files(folder: Path) -> dict[str, str]:
    """Digests of the recipe and the weight files of a saved soup, by file name."""
    files = [folder / RECIPE_FILE, *sorted(folder.glob("*.safetensors")), *sorted(folder.glob("*.safetensors.*"))]
    existing = [path for path in files if path.is_file()]
    return {Path(path).name: digest for path, digest in content_digests(existing).items()}


def _read_json(path: Path) -> dict[str, Any]:
    """A mapping written by an earlier call; empty if the file is missing or damaged."""
    try:
        content = read_json(path)
    except (OSError, SoupError):
        return {}
    return content if isinstance(content, dict) else {}
