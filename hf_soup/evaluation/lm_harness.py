"""Scores language models with lm-evaluation-harness (`lm_eval`), task by task."""

from __future__ import annotations

import contextlib
import logging
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
    with _quiet():
        results = _results(model, tasks, limit, num_fewshot, batch_size, processing_class)
    values, directions = _values(results)
    leaves = {name: value for name, value in values.items() if not results["group_subtasks"].get(name)}
    if len({directions[name] for name in leaves}) > 1:
        raise EvaluationError(
            f"some tasks are better with a higher value and some with a lower one ({', '.join(leaves)}): make one "
            "evaluator for each direction."
        )
    higher_is_better = next(iter(directions[name] for name in leaves))
    asked = [values[name] for name in results["asked"]]
    chosen = {MEAN: sum(asked) / len(asked), WORST: (min if higher_is_better else max)(leaves.values()), **values}
    if metric not in chosen:
        raise RecipeError(f'lm_eval gave no "{metric}"{did_you_mean(metric, chosen)}')
    samples = sum(results["n-samples"][name]["effective"] for name in leaves)
    others = {name: value for name, value in leaves.items() if name != metric}
    return Score(metric, chosen[metric], higher_is_better, split="lm_eval", n=samples, others=others)


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


def _results(
    model: PreTrainedModel,
    tasks: Sequence[str],
    limit: int | float | None,
    num_fewshot: int | None,
    batch_size: int,
    processing_class: Any,
) -> dict[str, Any]:
    """The results of lm_eval, with the names of the requested tasks as `asked`."""
    try:
        import lm_eval
        from lm_eval.models.huggingface import HFLM
    except ImportError:
        raise MissingExtraError("tasks of lm_eval need it: pip install 'hf-soup[lm-eval]'") from None
    manager = _task_manager(with_defaults=not all(name.endswith(FILES) for name in tasks))
    with as_error(RecipeError, f"lm_eval does not load {', '.join(tasks)}"):
        loaded = manager.load(list(tasks))
    put_on_device(model, "auto")
    if processing_class is None:
        processing_class = _tokenizer_of(str(model.name_or_path))
    # the harness changes the padding side of a tokenizer
    harness = HFLM(pretrained=model, tokenizer=processing_class, batch_size=batch_size)
    with as_error(EvaluationError, f"lm_eval fails on {', '.join(tasks)}"):
        results: dict[str, Any] = lm_eval.simple_evaluate(
            model=harness,
            tasks=list(tasks),
            task_manager=manager,
            limit=limit,
            num_fewshot=num_fewshot,
            bootstrap_iters=0,
            log_samples=False,
            random_seed=None,  # the caller's generators stay as they are
            numpy_random_seed=None,
            torch_random_seed=None,
        )
    asked = [name for name in (*loaded["groups"], *loaded["tasks"]) if name in map(_name_of, tasks)]
    return {**results, "asked": asked or list(loaded["tasks"])}


@lru_cache(maxsize=2)  # its index of all tasks takes ten seconds
def _task_manager(*, with_defaults: bool) -> Any:
    """The index of tasks; without those of lm_eval if all tasks are files of the user."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_defaults=with_defaults)


def _name_of(task: str) -> str:
    """The name of a task, or of one in a file."""
    if not task.endswith(FILES):
        return task
    import yaml

    return str(yaml.safe_load(Path(task).read_text(encoding="utf-8")).get("task"))


def _values(results: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, bool]]:
    """The main metric of each task and group, and whether higher is better; groups without one have their mean."""
    values: dict[str, float] = {}
    directions: dict[str, bool] = {}
    for name, entries in results["results"].items():
        numbers = {key: value for key, value in entries.items() if _is_metric(key, value)}
        if not numbers:
            continue
        metrics = sorted(numbers, key=_rank)
        values[name] = float(numbers[metrics[0]])
        directions[name] = bool(results["higher_is_better"].get(name, {}).get(metrics[0].split(",")[0], True))
    for group, members in results["group_subtasks"].items():
        if group not in values and members:
            own = [values[member] for member in members]
            values[group] = sum(own) / len(own)
            directions[group] = directions[members[0]]
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
