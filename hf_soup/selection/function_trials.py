"""Trials where a function of a model scores: there are no examples to look at, only its numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn

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
    """Averages mixtures and asks a function for their scores. It can be sent to other machines.

    Args:
        maker ([`ModelMaker`]):
            Averages mixtures.
        function (`Callable[[PreTrainedModel], Score]`):
            Scores a model.
    """

    def __init__(self, maker: ModelMaker, function: Callable[[PreTrainedModel], Score]):
        self.maker, self.function = maker, function

    def __call__(self, mixture: Mixture) -> Score:
        """The score of a mixture.

        Raises:
            [`EvaluationError`]: naming the ingredients.
        """
        model = self.maker.new_model(mixture)  # with which a function may do what it likes
        try:
            return self.function(model)
        except EvaluationError as error:
            raise EvaluationError(f"{' + '.join(mixture.names)}: {error}") from error


class FunctionTrials(SetupTrials):
    """Scores mixtures by a function of a model; a [`Trials`].

    Args:
        setup ([`MergeSetup`]):
            The ingredients, and how they are averaged.
        function (`Callable[[PreTrainedModel], Score]`):
            Scores a model.
        training ([`Evaluator`], *optional*):
            Training data on which BatchNorm is estimated again where a recipe says so.
        device (`str`, *optional*, defaults to `"cpu"`):
            Where to average.
        executor (`str`, *optional*, defaults to `"local"`):
            Where mixtures are scored that do not depend on each other, as of [`run_all`].
    """

    def __init__(
        self,
        setup: MergeSetup,
        function: Callable[[PreTrainedModel], Score],
        *,
        training: Evaluator | None = None,
        device: str = "cpu",
        executor: str = "local",
    ):
        super().__init__(setup)
        self._executor = executor
        self._worker = FunctionWorker(ModelMaker(setup, device=device, training=training), function)
        self._scores: dict[str, Score] = {}  # by fingerprint of the recipe

    def _map(self, mixtures: Sequence[Mixture], _: Threshold | None) -> list[Score]:
        """The scores, which a function never cuts short."""
        keys = [self._worker.maker.setup.recipe(mixture).fingerprint() for mixture in mixtures]
        places = [place for place, key in enumerate(keys) if key not in self._scores]
        missing = [mixtures[place] for place in places]
        # One mixture alone is not worth the start of workers.
        executor = self._executor if len(missing) > 1 else "local"
        for number, score in run_all(self._worker, missing, executor=executor):
            self._scores[keys[places[number]]] = score
            self._bar.set_postfix_str(f"{'+'.join(missing[number].names)[:40]} {score}")
            self._bar.update()
        return [self._scores[key] for key in keys]

    def difference(self, mixture: Mixture, other: Mixture) -> None:
        """Nothing is known of examples."""

    @property
    def examples(self) -> int:
        """There are none."""
        _refuse("this strategy")

    def logits(self, ingredient: Ingredient) -> Predictions:
        """There are none."""
        _refuse("to know what ingredients say")

    def ensemble(self, mixture: Mixture) -> Score:
        """There are no outputs to average."""
        _refuse("an ensemble")

    def gradient(self, mixture: Mixture, examples: np.ndarray, scale: float = 1.0) -> Gradient:
        """There is no loss."""
        _refuse("to learn weights")

    def subset(self, examples: np.ndarray) -> FunctionTrials:
        """There is no part of what has no examples."""
        _refuse("to take a part of validation")


def _refuse(purpose: str) -> NoReturn:
    """Say what needs examples."""
    raise EvaluationError(f"{purpose} needs examples, which a function of a model has not: give an Evaluator.")
