"""What a strategy sees of the world: recipes in, scores out. Each recipe is cooked once, in memory."""

from __future__ import annotations

import json
import numbers
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from ..checkpoints.check import is_statistic, label_names
from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.memory import build_model
from ..errors import EvaluationError, RecipeError, did_you_mean
from ..merging.blend import blend
from ..merging.plan import Plan, make_plan
from ..tasks import task_of
from ..types import Recipe, Score
from .batchnorm import update_batchnorm
from .cache import cached_score
from .evaluator import Evaluator
from .running import resolve_device


if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedModel

    Evaluation = Evaluator | Dataset | str | Callable[[PreTrainedModel], Score | float | Mapping[str, float]]


class ModelTrials:
    """Scores recipes by cooking them in memory and asking an evaluator.

    Args:
        checkpoints (`Mapping[str, Checkpoint]`):
            The opened ingredients by name.
        evaluator (`Callable[[PreTrainedModel], Score | float]`):
            An [`Evaluator`], or any function of a model that returns a score or a number (higher is better).
        complete (`Callable[[Recipe], Recipe]`):
            Fills in method, parameters, type and seed of the whole merge.
        base (`Checkpoint`, *optional*):
            The base model, for methods that need it.
        device (`str`, *optional*, defaults to `"cpu"`):
            Where to average.
        batchnorm ([`Evaluator`], *optional*):
            Training data on which BatchNorm is estimated again where a recipe says so.
    """

    def __init__(
        self,
        checkpoints: Mapping[str, Checkpoint],
        evaluator: Callable[[PreTrainedModel], Score | float],
        complete: Callable[[Recipe], Recipe],
        base: Checkpoint | None = None,
        *,
        device: str = "cpu",
        batchnorm: Evaluator | None = None,
    ):
        self._batchnorm = batchnorm
        self._checkpoints = checkpoints
        self._device = device
        self._evaluator = evaluator
        self._complete = complete
        self._base = base
        self._scores: dict[str, Score] = {}
        self._bar = tqdm(desc="Scoring recipes", unit="recipe", leave=False)

    def score(self, recipe: Recipe) -> Score:
        """Cook and score one recipe; the same one again costs nothing, nor does one that an earlier process scored.

        Raises:
            [`EvaluationError`]: if the evaluator returns something else than a score or a number.
        """
        recipe = self._complete(recipe)
        key = recipe.fingerprint()
        if key not in self._scores:
            checkpoints = [self._checkpoints[name] for name in recipe.names]
            plan = make_plan(recipe, checkpoints, self._base)

            def load() -> PreTrainedModel:
                model = cook_in_memory(plan, checkpoints, device=self._device)
                return estimate_again(model, recipe, self._batchnorm)

            self._scores[key] = self._ask(recipe, checkpoints, load)
            self._bar.set_postfix_str(f"{'+'.join(recipe.names)[:40]} {self._scores[key]}")
            self._bar.update()
        return self._scores[key]

    def _ask(self, recipe: Recipe, checkpoints: Sequence[Checkpoint], load: Callable[[], PreTrainedModel]) -> Score:
        if not isinstance(self._evaluator, Evaluator):
            return as_score(self._evaluator(load()))
        task = task_of(checkpoints[0].config, self._evaluator.task)
        single = len(recipe.names) == 1
        return cached_score(self._evaluator, lasting_fingerprint(recipe, checkpoints), task, load, single=single)

    def close(self) -> None:
        """End the progress bar."""
        self._bar.close()


class NoTrials:
    """For strategies that ask for no score, where there is no evaluator."""

    def score(self, recipe: Recipe) -> Score:
        """There is nothing to score with.

        Raises:
            [`RecipeError`]: always.
        """
        raise RecipeError("this strategy chooses by validation score: pass evaluator=hf_soup.Evaluator(data).")


def bind_evaluator(
    evaluator: Evaluation,
    candidates: Sequence[Checkpoint],
    *,
    split: str = "validation",
    metric: Any = None,
    higher_is_better: bool | None = None,
) -> Any:
    """An evaluator with the ingredients' tokenizer or image processor, or a function of a model that gives a score.

    Raises:
        [`RecipeError`]: if it is neither an evaluator, nor data, nor a function.
    """
    import datasets

    if isinstance(evaluator, (str, os.PathLike, datasets.Dataset)):
        evaluator = Evaluator(evaluator, split=split)
    if isinstance(evaluator, Evaluator):
        asked = {"metric": metric, "higher_is_better": higher_is_better}
        evaluator = replace(evaluator, **{key: value for key, value in asked.items() if value is not None})
        folder = next((item.folder for item in candidates if item.companions and item.folder), None)
        task = task_of(candidates[0].config, evaluator.task)
        return evaluator.bound(folder and str(folder), task)
    if not callable(evaluator):
        raise RecipeError(f"an evaluator is an Evaluator, a data set, or a function of a model, not {evaluator!r}.")

    def score(model: PreTrainedModel) -> Score:
        return as_score(evaluator(model), metric, higher_is_better is not False)

    return score


def bind_training(data: Any, candidates: Sequence[Checkpoint]) -> Evaluator | None:
    """The training data for BatchNorm, bound to the ingredients' processing; `None` if they have no BatchNorm."""
    if data is None or not any(map(is_statistic, candidates[0].specs)):
        return None
    bound = bind_evaluator(data, candidates, split="train")
    if not isinstance(bound, Evaluator):
        raise RecipeError("BatchNorm is estimated on examples: give a data set as batchnorm_data.")
    return bound


def as_score(value: Any, metric: str | None = None, higher_is_better: bool = True) -> Score:
    """What a function returned as a [`Score`].

    Args:
        value (`Score`, `float` or `Mapping[str, float]`):
            A bare number is one of the metric `score`.
        metric (`str`, *optional*):
            Which value of a mapping selects; not needed where it has one.
        higher_is_better (`bool`, *optional*, defaults to `True`):
            Direction of numbers.

    Raises:
        [`EvaluationError`]: if it is something else, or has no such value.
    """
    if isinstance(value, Score):
        return value
    several = isinstance(value, Mapping)
    given = {key: _plain_number(each) for key, each in (value if several else {"score": value}).items()}
    values = {str(key): float(each) for key, each in given.items() if isinstance(each, numbers.Real)}
    if not values:
        raise EvaluationError(
            f"the evaluator returned {value!r}; it has to return a Score, a number, or a dict of numbers."
        )
    if metric is None and len(values) != 1:
        raise EvaluationError(f"the evaluator returned {', '.join(values)}: say with metric= which selects.")
    name = metric if several and metric is not None else next(iter(values))
    if name not in values:
        raise EvaluationError(f"the evaluator returned no {name!r}, which is to select{did_you_mean(name, values)}")
    return Score(name, values.pop(name), higher_is_better, split="validation", others=values)


def _plain_number(value: Any) -> Any:
    """Arrays and tensors of no dimension are numbers."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def lasting_fingerprint(recipe: Recipe, checkpoints: Sequence[Checkpoint]) -> str | None:
    """Under what the scores of a recipe are kept: with configurations, and files as they are now, not as they were.

    Args:
        recipe ([`Recipe`]):
            Who goes in and how.
        checkpoints (`Sequence[Checkpoint]`):
            The opened ingredients.

    Returns:
        `str`, or `None` for a method of the user's own, whose code may change.
    """
    if ":" in recipe.method:
        return None
    import xxhash

    opened = [[item.config, item.generation, dict(item.opened_as)] for item in checkpoints]
    return xxhash.xxh3_128_hexdigest(json.dumps([recipe.fingerprint(), opened], sort_keys=True, default=str).encode())


def estimate_again(model: PreTrainedModel, recipe: Recipe, data: Evaluator | None) -> PreTrainedModel:
    """Estimate BatchNorm again where a recipe says so and its data is at hand."""
    if not recipe.batchnorm or data is None:
        return model
    device = model.device
    return update_batchnorm(model.to(resolve_device(data.device)), data.batches(model)).to(device)


def cook_in_memory(
    plan: Plan,
    checkpoints: Sequence[Checkpoint],
    *,
    device: str = "cpu",
    statistics: Mapping[str, torch.Tensor] | None = None,
) -> PreTrainedModel:
    """The model that a plan makes, through the same stream and the same loading as a saved soup.

    Args:
        plan ([`Plan`]):
            What to do.
        checkpoints (`Sequence[Checkpoint]`):
            The ingredients in recipe order.
        device (`str`, *optional*, defaults to `"cpu"`):
            Where to average; the model is on the CPU.
        statistics (`Mapping[str, torch.Tensor]`, *optional*):
            What the running statistics of BatchNorm are instead of averages.
    """
    import torch

    tensors = {spec.name: torch.empty(spec.shape, dtype=getattr(torch, spec.dtype)) for spec in plan.specs}
    flat = {name: tensor.reshape(-1) for name, tensor in tensors.items()}

    def sink(name: str, start: int, elements: torch.Tensor) -> None:
        flat[name][start : start + len(elements)] = elements

    blend(plan, checkpoints, sink, device=device)
    for name, tensor in (statistics or {}).items():
        tensors[name].copy_(tensor)
    return build_model(output_config(plan, checkpoints[0]), tensors)


def output_config(plan: Plan, first: Checkpoint) -> dict[str, Any]:
    """The configuration of a soup: that of its first ingredient, with the order of labels that most ingredients have
    and the type that most of its numbers have.
    """
    sizes: dict[str, int] = {}
    for spec in plan.specs:
        if spec.is_floating:
            sizes[spec.dtype] = sizes.get(spec.dtype, 0) + spec.numel
    config = {key: value for key, value in first.config.items() if key not in ("_name_or_path", "torch_dtype")}
    labels = plan.report.labels
    if labels != label_names(config):
        config |= {
            "id2label": {str(index): label for index, label in enumerate(labels)},
            "label2id": {label: index for index, label in enumerate(labels)},
        }
    return config | {"dtype": max(sizes, key=lambda name: sizes[name], default="float32")}
