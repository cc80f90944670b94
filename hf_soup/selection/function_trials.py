"""Trials scored by a function of a model: there are only its numbers, and no examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import EvaluationError
from ..evaluation.model_maker import ModelMaker
from ..metrics.predictions import Predictions
from ..parallel import run_all
from ..types import Gradient, Ingredient, Mixture, Score, Threshold
from .setup_trials import SetupTrials


if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel

    from ..evaluation.evaluator import Evaluator
    from ..merging.setup import MergeSetup


class FunctionWorker:
    """Averages mixtures and scores them with a function. It can be sent to other machines.

    Args:
        maker ([`ModelMaker`]):
            Maker of models from mixtures.
        function (`Callable[[PreTrainedModel], Score]`):
            Function that scores a model.
    """

    def __init__(self, maker: ModelMaker, function: Callable[[PreTrainedModel], Score]):
        self.maker, self.function = maker, function

    def __call__(self, mixture: Mixture) -> Score:
        """The score of a mixture.

        Raises:
            [`EvaluationError`]: naming the ingredients.
        """
        model = self.maker.new_model(mixture)  # a new model, because the function may change it
        try:
            return self.function(model)
        except EvaluationError as error:
            raise EvaluationError(f"{' + '.join(mixture.names)}: {error}") from error


class FunctionTrials(SetupTrials):
    """[`Trials`] that score mixtures with a function of a model.

    Args:
        setup ([`MergeSetup`]):
            Ingredients, and how they are averaged.
        function (`Callable[[PreTrainedModel], Score]`):
            Function that scores a model.
        training ([`Evaluator`], *optional*):
            Training data on which BatchNorm is estimated again, if a recipe says so.
        device (`str`, *optional*, defaults to `"cpu"`):
            Device on which tensors are averaged.
        executor (`str`, *optional*, defaults to `"local"`):
            Where independent mixtures are scored, as for [`run_all`].
        resources (`Mapping[str, Any]`, *optional*):
            Resources of that executor.
    """

    def __init__(
        self,
        setup: MergeSetup,
        function: Callable[[PreTrainedModel], Score],
        *,
        training: Evaluator | None = None,
        device: str = "cpu",
        executor: str = "local",
        resources: Mapping[str, Any] | None = None,
    ):
        super().__init__(setup)
        self._executor, self._resources = executor, resources
        self._worker = FunctionWorker(ModelMaker(setup, device=device, training=training), function)
        self._scores: dict[str, Score] = {}  # by the fingerprint of the recipe

    def _map(self, mixtures: Sequence[Mixture], _: Threshold | None) -> list[Score]:
        """The scores; a function cannot be stopped early."""
        keys = [self._worker.maker.setup.recipe(mixture).fingerprint() for mixture in mixtures]
        places = [place for place, key in enumerate(keys) if key not in self._scores]
        missing = [mixtures[place] for place in places]
        # A single mixture is not worth starting workers.
        executor = self._executor if len(missing) > 1 else "local"
        for number, score in run_all(self._worker, missing, executor=executor, resources=self._resources):
            self._scores[keys[places[number]]] = score
            self._bar.set_postfix_str(f"{'+'.join(missing[number].names)[:40]} {score}")
            self._bar.update()
        return [self._scores[key] for key in keys]

    def difference(self, mixture: Mixture, other: Mixture) -> None:
        """Not known without examples."""

    def loss(self, mixture: Mixture) -> None:
        """Not known without examples."""

    @property
    def examples(self) -> int:
        """Not available without examples."""
        _refuse("this strategy")

    def logits(self, ingredient: Ingredient) -> Predictions:
        """Not available without examples."""
        _refuse("to get predictions of ingredients")

    def predictions(self, mixture: Mixture) -> Predictions:
        """Not available without examples."""
        _refuse("to get predictions of averages")

    def ensemble_of(self, mixtures: Sequence[Mixture], weights: Sequence[float]) -> Score:
        """Not available, because there are no outputs to average."""
        _refuse("an ensemble")

    def ensemble(self, mixture: Mixture) -> Score:
        """Not available, because there are no outputs to average."""
        _refuse("an ensemble")

    def gradient(self, mixture: Mixture, examples: np.ndarray, scale: float = 1.0) -> Gradient:
        """Not available, because there is no loss."""
        _refuse("to learn weights")

    def subset(self, examples: np.ndarray) -> FunctionTrials:
        """Not available without examples."""
        _refuse("to take a part of validation")


def _refuse(purpose: str) -> NoReturn:
    """Raise an error for an operation that needs examples."""
    raise EvaluationError(f"{purpose} needs examples, which a function of a model lacks: give an Evaluator.")
