"""Checks of a cook file before data is loaded or a model is trained: folders, names, types, parameters."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..checkpoints.targets import refuse_folder, refuse_target
from ..errors import RecipeError
from ..formats.cook_file import CookFile
from ..merging.averaging import check_dtype
from ..metrics.load import load_metrics
from ..options import MergeOptions, check_choices
from ..parallel import check_executor
from ..plugins import chooses, share_out
from ..publishing.adapter_weights import refuse_rank
from ..seeds import check_seed
from ..strategies.weighted import is_by_name, varies_by_tensor
from ..training.folds import check_folds
from ..training.refinement import read_refinement
from ..training.space import expand_space
from ..types import Ingredient, Mixture, as_weights
from .snapshots import check_grouping


def check_cook_file(plan: CookFile, output_dir: str | os.PathLike[str] | None = None) -> Path:
    """Raise an error for wrong values in a well-formed cook file.

    Args:
        plan ([`CookFile`]):
            The parsed cook file.
        output_dir (`str` or `os.PathLike`, *optional*):
            Folder that replaces the file's own `output_dir`.

    Returns:
        `Path`: the folder for all results.

    Raises:
        [`RecipeError`]: if no folder is given, or a name, type or parameter of a stage is wrong.
        [`OutputError`]: if the folder cannot be written.
    """
    folder = output_dir or plan.output_dir
    if not folder:
        raise RecipeError(
            "a cook file needs a folder for its results: write `output_dir: ...` in it, or pass output_dir=... "
            "(-o FOLDER)."
        )
    target = refuse_folder(folder).resolve()
    _refuse_targets(plan, target)
    _check_settings(plan)
    return target


def _refuse_targets(plan: CookFile, folder: Path) -> None:
    """Raise an error for folders that cannot be written, before anything is trained."""
    if plan.sweep is not None:
        refuse_folder(folder / "runs")
    if plan.pretrain is not None:
        refuse_folder(folder / "pretrained")
    if plan.merge is not None:
        refuse_target(folder / "soup", overwrite=True)


def _check_settings(plan: CookFile) -> None:
    """Check names, types and parameters of all stages, before anything is loaded or trained."""
    if plan.merge is not None and plan.merge.metric:
        load_metrics(plan.merge.metric)
    if plan.compare is not None:
        for metric in plan.compare.metrics:
            load_metrics(metric)
    count = len(plan.ingredients)
    if plan.sweep is not None:
        check_choices(plan.sweep)
        check_executor(plan.sweep.executor, plan.sweep.resources)
        check_seed(plan.sweep.init_seed, "`sweep.init_seed`")
        count = len(expand_space(plan.sweep.space_or_default, n_runs=plan.sweep.n_runs, seed=plan.sweep.seed))
        refinement = read_refinement(plan.sweep.refine_or_default)
        count += 0 if refinement is None else refinement.runs
        check_folds(plan.sweep)
        if plan.merge is not None and plan.sweep.folds is not None and chooses(plan.merge.strategy):
            raise RecipeError(
                "`sweep.folds` trains on the validation data as well, so that none is left to choose by: leave "
                "`merge.strategy` out. The runs of the best settings are averaged."
            )
        if plan.merge is not None and plan.sweep.folds is not None and isinstance(plan.merge.weights, list):
            raise RecipeError("`sweep.folds` averages the runs of the best settings: leave `merge.weights` out.")
        if plan.merge is not None and plan.merge.within is not None and plan.sweep.keep != "all":
            raise RecipeError("`merge.within` averages the snapshots of each run: write `sweep.keep: all`.")
    if plan.merge is not None:
        _check_merge(plan.merge, count)
        if plan.merge.executor == "jobs" and plan.sweep is not None and not plan.sweep.push_runs:
            raise RecipeError("jobs read the runs from the Hub: write `push_runs: true` in `sweep`.")
    _check_save(plan)


def _check_save(plan: CookFile) -> None:
    """Refuse ways to save the soup that will not work."""
    save, merge = plan.save, plan.merge
    refuse_rank(save.rank, merged=save.merged)
    wants_adapter = save.rank is not None or save.merged is False
    if merge is None and (wants_adapter or save.merged):
        raise RecipeError("`save` is about the soup of a `merge` section, and there is none.")
    if merge is not None and wants_adapter and merge.method != "linear":
        raise RecipeError(f"a soup by the method {merge.method} is no adapter: leave `save.rank` out.")
    trains_wholes = plan.sweep is not None and not plan.sweep.peft and not any("peft" in name for name in _axes(plan))
    if wants_adapter and trains_wholes:
        raise RecipeError("the sweep trains whole models, whose soup is no adapter: leave `save.rank` out.")


def _axes(plan: CookFile) -> set[str]:
    """The names of the settings of a sweep."""
    sweep = plan.sweep
    if sweep is None:
        return set()
    names: set[str] = set(sweep.training_args or {})
    space_or_list = sweep.space or {}
    spaces: Sequence[Mapping[str, Any]] = [space_or_list] if isinstance(space_or_list, Mapping) else space_or_list
    for space in spaces:
        names.update(space)
    return names


def _check_merge(options: MergeOptions, count: int) -> None:
    """Check the options of a merge, given the number of ingredients that the cook file lists or trains."""
    check_seed(options.seed, "`merge.seed`")
    share_out(options.method, options.strategy, options.params)
    check_grouping(options.within, options.k, options.group_by, options.method)
    check_dtype(options.dtype)
    check_executor(options.executor, options.resources)
    if options.executor == "jobs" and not chooses(options.strategy):
        raise RecipeError("`merge.executor: jobs` runs the trials of a search: it needs a strategy that chooses.")
    asks_what_it_is_worth = options.folds is not None or options.holdout is not None
    if asks_what_it_is_worth and not chooses(options.strategy):
        raise RecipeError("`merge.folds` and `merge.holdout` need a strategy that chooses, such as greedy.")
    if options.weights is not None:
        _check_weights(options.weights, count)


def _check_weights(weights: object, count: int) -> None:
    # weights by name need ingredients, which are not opened yet
    if not is_by_name(weights) and not varies_by_tensor(weights):
        # a mixture checks the number of its weights without opening its ingredients
        ingredients = tuple(Ingredient(f"ingredient {index}", "") for index in range(count))
        Mixture(ingredients, as_weights(weights))
