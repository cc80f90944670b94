"""Scores language models with lm-evaluation-harness (`lm_eval`), task by task."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError, EvaluationError, MissingExtraError, RecipeError, did_you_mean
from ..plugins import load_module
from ..types import Score
from ..untrusted import as_error
from .running import put_on_device


if TYPE_CHECKING:
    from transformers import PreTrainedModel

MEAN, WORST = "mean", "worst"
PREFERRED = ("acc_norm", "acc", "exact_match")  # metrics of a task that are taken before others
FILES = (".yaml", ".yml")
FEWSHOT_SEED = 1234  # the default of lm_eval


def lm_eval_score(
    model: PreTrainedModel,
    *,
    tasks: Sequence[str],
    metric: str,
    limit: int | float | None,
    num_fewshot: int | None,
    batch_size: int,
    processing_class: Any,
) -> Score:
    """Score a model; the arguments are those of [`Evaluator.lm_eval`].

    Raises:
        [`EvaluationError`]: if a task fails, or their metrics have different directions.
        [`MissingExtraError`]: if lm_eval is not installed.
        [`RecipeError`]: if there is no such task or category.
    """
    try:
        import lm_eval
        from lm_eval.models.huggingface import HFLM
    except ImportError:
        raise MissingExtraError("tasks of lm_eval need it: pip install 'hf-soup[lm-eval]'") from None
    put_on_device(model, "auto")
    if processing_class is None:
        processing_class = _tokenizer_of(str(model.name_or_path))
    with _quiet():
        loaded, asked = _load(tasks, num_fewshot)
        # a copy of the tokenizer, to which the harness may add a padding token
        harness = HFLM(pretrained=model, tokenizer=copy.deepcopy(processing_class), batch_size=batch_size)
        with as_error(EvaluationError, f"lm_eval fails on {', '.join(tasks)}"):
            results = lm_eval.evaluate(harness, loaded, limit=limit, bootstrap_iters=0, log_samples=False)
    values, directions = _values(results)
    leaves = {name: value for name, value in values.items() if name in loaded["tasks"]}
    lacking = [name for name in (*asked, *loaded["tasks"]) if name not in values]
    if lacking:
        raise EvaluationError(f"lm_eval gives no number for {lacking[0]}.")
    if len({directions[name] for name in leaves}) > 1:
        raise EvaluationError(
            f"some tasks are better with a higher value and some with a lower one ({', '.join(leaves)}): make one "
            "evaluator for each direction."
        )
    higher_is_better = next(iter(directions[name] for name in leaves))
    mean = sum(values[name] for name in asked) / len(asked)
    chosen = {MEAN: mean, WORST: (min if higher_is_better else max)(leaves.values()), **values}
    if metric not in chosen:
        raise RecipeError(f'lm_eval gave no "{metric}"{did_you_mean(metric, chosen)}')
    samples = sum(results["n-samples"][name]["effective"] for name in leaves)
    others = {name: value for name, value in leaves.items() if name != metric}
    return Score(metric, chosen[metric], higher_is_better, split="lm_eval", n=samples, others=others)


def _load(tasks: Sequence[str], num_fewshot: int | None) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Load tasks, groups and tags by name, or from files.

    Args:
        tasks (`Sequence[str]`), num_fewshot (`int`, *optional*):
            The arguments of [`Evaluator.lm_eval`].

    Returns:
        `tuple[dict, list[str]]`: all tasks and groups in the form of lm_eval, and the names of those whose mean
        counts: what was requested, and in place of a tag its tasks.
    """
    manager = _task_manager(with_defaults=not all(_is_task_file(name) for name in tasks))
    loaded: dict[str, dict[str, Any]] = {"tasks": {}, "groups": {}, "group_map": {}}
    asked = []
    for name in tasks:
        with as_error(RecipeError, f"lm_eval does not load {name}"):
            parts = manager.load([os.path.expanduser(name) if name.endswith(FILES) else name])
        for kind, items in loaded.items():
            items.update(parts[kind])
        inner = {child for children in parts["group_map"].values() for child in children}
        asked += [part for part in parts["groups"] or parts["tasks"] if part not in inner]
    for task in loaded["tasks"].values():  # as lm_eval.simple_evaluate does
        own = task.get_config("num_fewshot")
        if own is None or (num_fewshot is not None and own != 0):
            task.set_config(key="num_fewshot", value=num_fewshot or 0)
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
    return loaded, asked


@lru_cache(maxsize=2)  # its index of all tasks takes ten seconds
def _task_manager(*, with_defaults: bool) -> Any:
    """The index of tasks; without those of lm_eval if all requested ones are files with a task."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_defaults=with_defaults)


def _is_task_file(name: str) -> bool:
    """Whether a name is a file with a single task; one with a group may refer to tasks of lm_eval."""
    if not name.endswith(FILES):
        return False
    try:
        text = Path(name).expanduser().read_text(encoding="utf-8")
    except OSError:  # reported when it is loaded
        return True
    return re.search(r"^(group|include):", text, flags=re.MULTILINE) is None


def lacks_tokenizer(function: Any) -> bool:
    """Whether a function of a model is [`lm_eval_score`] without a tokenizer."""
    is_ours = isinstance(function, partial) and function.func is lm_eval_score
    return is_ours and function.keywords["processing_class"] is None


def with_tokenizer(function: Any, source: str | None) -> Any:
    """The same function with the tokenizer of a checkpoint.

    Raises:
        [`DataError`]: if there is none.
    """
    if source is None:
        raise DataError("the ingredients have no tokenizer, which lm_eval needs: pass one as processing_class.")
    return partial(function, processing_class=_tokenizer_of(source))


def _tokenizer_of(source: str) -> Any:
    """The tokenizer of a checkpoint."""
    return load_module("task", "text-generation").load_processing_class(source)


def _values(results: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, bool]]:
    """The main metric of each task and group, and whether higher is better; groups without one have their mean."""
    values: dict[str, float] = {}
    directions: dict[str, bool] = {}
    for name, entries in results["results"].items():
        numbers = {key: value for key, value in entries.items() if _is_metric(key, value)}
        if not numbers:
            continue
        main = min(numbers, key=_rank)  # of equal ones the first
        values[name] = float(numbers[main])
        higher = results["higher_is_better"].get(name, {}).get(main.split(",")[0])
        directions[name] = higher is None or bool(higher)
    for group, members in reversed(results["group_subtasks"].items()):  # parts come after their groups
        own = [member for member in members if member in values]
        if group not in values and own:
            values[group] = sum(values[member] for member in own) / len(own)
            directions[group] = directions[own[0]]
    return values, directions


def _is_metric(key: str, value: Any) -> bool:
    """Whether an entry is a metric with its filter, such as `acc,none`, and no standard error."""
    return "," in key and "_stderr" not in key and isinstance(value, (int, float))


def _rank(key: str) -> int:
    """The place of a metric among those that are preferred; others keep the order of the task."""
    metric = key.split(",")[0]
    return PREFERRED.index(metric) if metric in PREFERRED else len(PREFERRED)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide warnings of lm_eval, such as those about a model that is in memory."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
