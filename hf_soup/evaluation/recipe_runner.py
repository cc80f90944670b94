"""Runs mixtures, here or on workers: each is averaged once, run once, and its predictions are kept.

Strategies, analyses and comparisons all use it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import EvaluationError
from ..merging.in_memory import rough
from ..merging.setup import MergeSetup
from ..metrics.predictions import Predictions
from ..parallel import run_all
from ..types import Gradient, Mixture, Recipe, Score
from .cache import LARGE, keep_gradient, keep_outputs, keep_score, kept_gradient, kept_outputs, kept_score
from .cache_key import content_fingerprint
from .evaluator import Evaluator
from .gradient import recipe_gradient
from .limits import Limit
from .model_maker import ModelMaker
from .outputs import Outputs, joined_outputs


if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel

FEW = 3  # number of mixtures whose large predictions stay in memory; those of single ingredients always do


class RunOrder(NamedTuple):
    """The rows of a data set that are run first.

    Args:
        rows (`np.ndarray`):
            Rows in the order in which they are run; the other rows follow.
        digest (`str`):
            Digest of these rows.
    """

    rows: np.ndarray
    digest: str

    @classmethod
    def of(cls, rows: np.ndarray) -> RunOrder:
        """Make an order from rows."""
        return cls(rows, rows_digest(rows))


class Job(NamedTuple):
    """One mixture to run, and how.

    Args:
        mixture ([`Mixture`]):
            Mixture to average.
        order ([`RunOrder`], *optional*):
            Rows to run first.
        limit ([`Limit`], *optional*):
            Limit that stops the run.
        earlier ([`Outputs`], *optional*):
            Outputs of a stopped run, which is resumed.
    """

    mixture: Mixture
    order: RunOrder | None = None
    limit: Limit | None = None
    earlier: Outputs | None = None


class RecipeWorker:
    """Averages mixtures and runs them on one data set. It can be sent to other machines.

    Args:
        maker ([`ModelMaker`]):
            Maker of models from mixtures.
        evaluator ([`Evaluator`]):
            Evaluator of the data set.
    """

    def __init__(self, maker: ModelMaker, evaluator: Evaluator):
        self.maker, self.evaluator = maker, evaluator

    def __call__(self, job: Job) -> Outputs:
        """Run the model of a mixture on all examples, or until its limit is out of reach.

        Raises:
            [`EvaluationError`]: naming the ingredients.
        """
        if job.earlier is not None and job.earlier.whole:  # no examples are left to run
            return job.earlier
        try:
            return self._run(self.maker.model(job.mixture), job)
        except EvaluationError as error:
            raise EvaluationError(f"{' + '.join(job.mixture.names)}: {error}") from error

    def gradient(self, mixture: Mixture, rows: np.ndarray, scale: float) -> Gradient:
        """The gradient of the loss on some examples; see [`recipe_gradient`].

        Raises:
            [`EvaluationError`]: if the method is not the linear one.
        """
        plan = self.maker.setup.plan(mixture)
        if not plan.is_linear:
            method = self.maker.setup.method
            raise EvaluationError(f'weights can only be learned for method="linear", not for "{method}".')
        model = self.maker.fill(mixture, rough(plan))
        checkpoints = self.maker.setup.checkpoints_of(mixture)
        return recipe_gradient(self.evaluator, model, plan, checkpoints, rows, scale)

    def _run(self, model: PreTrainedModel, job: Job) -> Outputs:
        """Run the remaining rows, until the limit is out of reach."""
        earlier = job.earlier
        first = job.order.rows if job.order is not None else None
        done = earlier.rows if earlier is not None else None
        enough = job.limit.watch(earlier) if job.limit is not None else None
        outputs = self.evaluator.run(model, first=first, done=done, enough=enough)
        if earlier is None:
            return outputs
        return joined_outputs(earlier, outputs)


class RecipeRunner:
    """Predictions and scores of mixtures on one data set. Nothing is run twice.

    Predictions are kept in memory, and on disk for later processes if they are determined by content.

    Args:
        maker ([`ModelMaker`]):
            Maker of models from mixtures.
        evaluator ([`Evaluator`]):
            Evaluator of the data set, with the ingredients' processing class.
        executor (`str`, *optional*, defaults to `"local"`):
            Where independent mixtures run, as for [`run_all`].
        resources (`Mapping[str, Any]`, *optional*):
            Resources of that executor.
        keep_large (`bool`, *optional*, defaults to `False`):
            Whether large predictions of mixtures are kept on disk too, as those of single ingredients are.
    """

    def __init__(
        self,
        maker: ModelMaker,
        evaluator: Evaluator,
        *,
        executor: str = "local",
        resources: Mapping[str, Any] | None = None,
        keep_large: bool = False,
    ):
        self.maker, self.evaluator = maker, evaluator
        self._keep_large = keep_large
        self._worker, self._executor, self._resources = RecipeWorker(maker, evaluator), executor, resources
        self._outputs: dict[tuple[str, str], Outputs] = {}
        self._large: list[tuple[str, str]] = []  # keys of large outputs of mixtures, oldest first

    @property
    def setup(self) -> MergeSetup:
        """The ingredients, and how they are averaged."""
        return self.maker.setup

    def predictions(self, mixture: Mixture) -> Predictions:
        """The predictions of a mixture on all examples."""
        outputs = self.recall(mixture)
        if outputs is None or not outputs.whole:
            ((_, outputs),) = self.run([Job(mixture, earlier=outputs)])
        return outputs.predictions

    def recall(self, mixture: Mixture, order: RunOrder | None = None) -> Outputs | None:
        """Known outputs of a mixture in this order, from this process or an earlier one."""
        recipe = self.setup.recipe(mixture)
        key = _memory_key(recipe, order)
        if key not in self._outputs:
            outputs = kept_outputs(self._disk_key(recipe, order))
            if outputs is not None:
                self._keep_in_memory(key, outputs, is_single=len(mixture.names) == 1)
        return self._outputs.get(key)

    def recall_in_memory(self, mixture: Mixture) -> Outputs | None:
        """Known outputs of a mixture from this process."""
        return self._outputs.get(_memory_key(self.setup.recipe(mixture), None))

    def score(self, mixture: Mixture, predictions: Predictions) -> Score:
        """The score of predictions on all examples or on a part of them.

        Raises:
            [`EvaluationError`]: naming the ingredients.
        """
        try:
            return self.evaluator.score(predictions)
        except EvaluationError as error:
            raise EvaluationError(f"{' + '.join(mixture.names)}: {error}") from error

    def run(self, jobs: Sequence[Job], *, keep_scores: bool = False) -> Iterator[tuple[int, Outputs]]:
        """Run independent mixtures, and keep their predictions.

        Args:
            jobs (`Sequence[Job]`):
                Mixtures to run.
            keep_scores (`bool`, *optional*, defaults to `False`):
                Whether scores are kept on disk too, for predictions that are too large.

        Returns:
            `Iterator[tuple[int, Outputs]]`: index and outputs of each job, as they finish.
        """
        recipes = [self.setup.recipe(job.mixture) for job in jobs]
        # Entries on disk have to belong to the weights and data that were run, so their content is checked before and
        # after.
        before = [self._disk_key(recipe, job.order) for recipe, job in zip(recipes, jobs, strict=True)]
        executor = self._executor if len(jobs) > 1 else "local"
        for place, outputs in run_all(self._worker, jobs, executor=executor, resources=self._resources):
            mixture, order, key = jobs[place].mixture, jobs[place].order, before[place]
            is_single = len(mixture.names) == 1
            self._keep_in_memory(_memory_key(recipes[place], order), outputs, is_single=is_single)
            if key is not None and key == self._disk_key(recipes[place], order):
                always = is_single or self._keep_large
                keep_outputs(key, outputs, self._described(mixture), always=always)
                if outputs.whole and keep_scores:
                    score_key = self._disk_key(recipes[place], order, scores=True)
                    keep_score(score_key, self.score(mixture, outputs.predictions), self._described(mixture))
            yield place, outputs

    def kept_score(self, mixture: Mixture, order: RunOrder | None = None) -> Score | None:
        """The score of a mixture from an earlier process, even if its predictions were too large to keep."""
        return kept_score(self._disk_key(self.setup.recipe(mixture), order, scores=True))

    def gradient(self, mixture: Mixture, rows: np.ndarray, scale: float) -> Gradient:
        """The gradient of the loss on some examples, which is kept.

        Raises:
            [`EvaluationError`]: if the method is not the linear one.
        """
        recipe = self.setup.recipe(mixture)
        content = self._disk_key(recipe, None)
        key = None
        if content is not None:
            key = f"{content}:{scale!r}:{rows_digest(rows)}"
        gradient = kept_gradient(key)
        if gradient is None:
            gradient = self._worker.gradient(mixture, rows, scale)
            if self._disk_key(recipe, None) == content:
                keep_gradient(key, gradient, f"{len(rows)} rows of {' + '.join(mixture.names)[:60]}")
        return gradient

    def _keep_in_memory(self, key: tuple[str, str], outputs: Outputs, *, is_single: bool) -> None:
        """Keep outputs; of large outputs of mixtures, only the latest."""
        self._outputs[key] = outputs
        if is_single or outputs.predictions.logits.nbytes <= LARGE:
            return
        if key in self._large:  # made again, of more rows
            self._large.remove(key)
        self._large.append(key)
        if len(self._large) > FEW:
            self._outputs.pop(self._large.pop(0), None)

    def _described(self, mixture: Mixture) -> str:
        """The description of a mixture in the list of the cache."""
        return f"{' + '.join(mixture.names)[:60]} on {self.evaluator.path or self.evaluator.split}"

    def _disk_key(self, recipe: Recipe, order: RunOrder | None, *, scores: bool = False) -> str | None:
        """The key on disk for the current weights, data and settings; `None` if nothing may be kept."""
        if not self.evaluator.keeps:
            return None
        fingerprint = content_fingerprint(recipe, self.setup)
        if fingerprint is None:
            return None
        key = self.evaluator.key(fingerprint, scores=scores)
        if key is None or order is None:
            return key
        return f"{key}:{order.digest}"


def rows_digest(rows: np.ndarray) -> str:
    """A digest of row numbers in order."""
    import numpy as np
    import xxhash

    return xxhash.xxh3_64_hexdigest(rows.astype(np.int64).tobytes())


def _memory_key(recipe: Recipe, order: RunOrder | None) -> tuple[str, str]:
    """The key of the outputs of a recipe in memory."""
    if order is None:
        return recipe.fingerprint(), ""
    return recipe.fingerprint(), order.digest
