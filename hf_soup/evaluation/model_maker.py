"""Makes models of mixtures in memory: one model that becomes one mixture after another. Nothing is scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..checkpoints.check import is_statistic
from ..merging.in_memory import cook_in_memory
from ..merging.plan import Plan
from ..merging.refill import Refill
from ..merging.setup import MergeSetup
from ..types import Mixture
from .batchnorm import update_batchnorm
from .evaluator import Evaluator
from .running import resolve_device


if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class ModelMaker:
    """Averages mixtures of checked ingredients in memory. It can be sent to other processes, where it starts afresh.

    Args:
        setup ([`MergeSetup`]):
            The ingredients, and how they are averaged.
        device (`str`, *optional*, defaults to `"cpu"`):
            Device on which tensors are averaged.
        training ([`Evaluator`], *optional*):
            Training data on which BatchNorm running statistics are estimated again.
        statistics (`Callable[[], Mapping[str, torch.Tensor]]`, *optional*):
            Function that reads these statistics by tensor name, if a recipe has recorded them.
    """

    def __init__(
        self,
        setup: MergeSetup,
        *,
        device: str = "cpu",
        training: Evaluator | None = None,
        statistics: Callable[[], Mapping[str, torch.Tensor]] | None = None,
    ):
        self.setup, self.device, self.training = setup, device, training
        self._statistics = statistics
        self._refill: Refill | None = None
        self._made: tuple[Mixture, PreTrainedModel] | None = None  # the model in memory and its mixture

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_refill": None, "_made": None}  # the model is not sent

    @property
    def refill(self) -> Refill:
        """The model in memory, with the sums that the next mixture may start from."""
        if self._refill is None:
            self._refill = Refill(self.device)
        return self._refill

    def model(self, mixture: Mixture) -> PreTrainedModel:
        """The averaged model in evaluation mode; it is valid until the next call and must not be changed."""
        if self._made is None or self._made[0] != mixture:
            if self._statistics is None:
                model = self.fill(mixture, self.setup.plan(mixture))
            else:
                model = self.new_model(mixture)
            self._made = mixture, model
        return self._made[1]

    def fill(self, mixture: Mixture, plan: Plan) -> PreTrainedModel:
        """The model of a mixture by a plan that may be an approximation of its recipe."""
        self._made = None  # set before the next line, whose failure would leave neither the old nor the new mixture
        model = self.refill.fill(plan, self.setup.checkpoints_of(mixture))
        if self._has_averaged_statistics(mixture):
            # They change in the model below, like counters, so the next mixture must not start from them.
            self.refill.forget([spec.name for spec in plan.specs if is_statistic(spec.name) or not spec.is_floating])
            model = self._estimated(model, mixture)
        return model

    def new_model(self, mixture: Mixture) -> PreTrainedModel:
        """Build the averaged model for the caller only."""
        checkpoints, plan = self.setup.checkpoints_of(mixture), self.setup.plan(mixture)
        if self._statistics is not None:
            return cook_in_memory(plan, checkpoints, device=self.device, statistics=self._statistics())
        return self._estimated(cook_in_memory(plan, checkpoints, device=self.device), mixture)

    def release(self) -> None:
        """Free the model in memory; the next one is built again."""
        self._refill = self._made = None

    def _has_averaged_statistics(self, mixture: Mixture) -> bool:
        """Whether statistics are averaged and there is data to estimate them again."""
        return self.training is not None and len(mixture.used) > 1

    def _estimated(self, model: PreTrainedModel, mixture: Mixture) -> PreTrainedModel:
        """Estimate BatchNorm again, if the mixture averages it and there is data."""
        if self.training is None or not self._has_averaged_statistics(mixture):
            return model
        return estimate_again(model, self.training)


def estimate_again(model: PreTrainedModel, training: Evaluator) -> PreTrainedModel:
    """Estimate the running statistics of BatchNorm on training data, on the device of that data's evaluator."""
    device = model.device
    _move(model, resolve_device(training.device))
    update_batchnorm(model, training.examples.shuffled(model))
    _move(model, device)
    return model


def _move(model: PreTrainedModel, device: torch.device | str) -> None:
    """Move a model to a device, in place."""
    # transformers wraps `to` so that type checkers take its first argument for the model
    model.to(device)  # type: ignore[arg-type]
