"""What a strategy sees of the world: recipes in, scores out. Each recipe is cooked once, in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from ..checkpoints.check import label_names
from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.memory import build_model
from ..errors import EvaluationError, RecipeError
from ..merging.blend import blend
from ..merging.plan import Plan, make_plan
from ..types import Recipe, Score


if TYPE_CHECKING:
    from transformers import PreTrainedModel


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
    """

    def __init__(
        self,
        checkpoints: Mapping[str, Checkpoint],
        evaluator: Callable[[PreTrainedModel], Score | float],
        complete: Callable[[Recipe], Recipe],
        base: Checkpoint | None = None,
        *,
        device: str = "cpu",
    ):
        self._checkpoints = checkpoints
        self._device = device
        self._evaluator = evaluator
        self._complete = complete
        self._base = base
        self._scores: dict[str, Score] = {}
        self._bar = tqdm(desc="Scoring recipes", unit="recipe", leave=False)

    def score(self, recipe: Recipe) -> Score:
        """Cook and score one recipe; the same one again costs nothing.

        Raises:
            [`EvaluationError`]: if the evaluator returns something else than a score or a number.
        """
        recipe = self._complete(recipe)
        key = recipe.fingerprint()
        if key not in self._scores:
            checkpoints = [self._checkpoints[name] for name in recipe.names]
            model = cook_in_memory(make_plan(recipe, checkpoints, self._base), checkpoints, device=self._device)
            self._scores[key] = as_score(self._evaluator(model))
            self._bar.set_postfix_str(f"{'+'.join(recipe.names)[:40]} {self._scores[key]}")
            self._bar.update()
        return self._scores[key]

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


def as_score(value: Any) -> Score:
    """What an evaluator returned as a [`Score`]; a bare number is one of the metric `score`, higher is better.

    Raises:
        [`EvaluationError`]: if it is neither.
    """
    if isinstance(value, Score):
        return value
    try:
        return Score("score", float(value), split="validation")
    except (TypeError, ValueError):
        raise EvaluationError(f"the evaluator returned {value!r}; it has to return a Score or a number.") from None


def cook_in_memory(plan: Plan, checkpoints: Sequence[Checkpoint], *, device: str = "cpu") -> PreTrainedModel:
    """The model that a plan makes, through the same stream and the same loading as a saved soup.

    Args:
        plan ([`Plan`]):
            What to do.
        checkpoints (`Sequence[Checkpoint]`):
            The ingredients in recipe order.
        device (`str`, *optional*, defaults to `"cpu"`):
            Where to average; the model is on the CPU.
    """
    import torch

    tensors = {spec.name: torch.empty(spec.shape, dtype=getattr(torch, spec.dtype)) for spec in plan.specs}
    flat = {name: tensor.reshape(-1) for name, tensor in tensors.items()}

    def sink(name: str, start: int, elements: torch.Tensor) -> None:
        flat[name][start : start + len(elements)] = elements

    blend(plan, checkpoints, sink, device=device)
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
