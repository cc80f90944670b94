"""From a mixture to predictions: averaged once, run once, and kept. What a worker elsewhere gets to do so.

Searches, analyses and comparisons all score through it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

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

FEW = 3  # large predictions of mixtures that stay in memory; those of single ingredients all do


class RunOrder(NamedTuple):
    """Which rows of a data set are run first.

    Args:
        rows (`np.ndarray`):
            In the order in which they are run; the others come after them.
        digest (`str`):
            Of these.
    """

    rows: np.ndarray
    digest: str

    @classmethod
    def of(cls, rows: np.ndarray) -> RunOrder:
        """The order that rows are given in."""
        return cls(rows, rows_digest(rows))


class Job(NamedTuple):
    """What is asked of one mixture.

    Args:
        mixture ([`Mixture`]):
            What to average.
        order ([`RunOrder`], *optional*):
            Which rows to run first.
        limit ([`Limit`], *optional*):
            When to stop.
        earlier ([`Outputs`], *optional*):
            Of a run that was stopped, which goes on from there.
    """

    mixture: Mixture
    order: RunOrder | None = None
    limit: Limit | None = None
    earlier: Outputs | None = None


class RecipeWorker:
    """Averages mixtures and runs them over one set of examples. It can be sent to other machines.

    Args:
        maker ([`ModelMaker`]):
            Averages mixtures.
        evaluator ([`Evaluator`]):
            The examples.
    """

    def __init__(self, maker: ModelMaker, evaluator: Evaluator):
        self.maker, self.evaluator = maker, evaluator

    def __call__(self, job: Job) -> Outputs:
        """Run the model of a mixture over the examples until its limit is out of reach, or all of them.

        Raises:
            [`EvaluationError`]: naming the ingredients.
        """
        if job.earlier is not None and job.earlier.whole:  # there is no example left to run
            return job.earlier
        try:
            return self._run(self.maker.model(job.mixture), job)
        except EvaluationError as error:
            raise EvaluationError(f"{' + '.join(job.mixture.names)}: {error}") from error

    def gradient(self, mixture: Mixture, rows: np.ndarray, scale: float) -> Gradient:
        """The derivative of the loss on some examples; see [`recipe_gradient`].

        Raises:
            [`EvaluationError`]: if the method is another than the linear one.
        """
        plan = self.maker.setup.plan(mixture)
        if not plan.is_linear:
            method = self.maker.setup.method
            raise EvaluationError(f'weights are learned for method="linear" alone, not for "{method}".')
        model = self.maker.fill(mixture, rough(plan))
        checkpoints = self.maker.setup.checkpoints_of(mixture)
        return recipe_gradient(self.evaluator, model, plan, checkpoints, rows, scale)

    def _run(self, model: PreTrainedModel, job: Job) -> Outputs:
        """Run the rows that are left, until the limit is out of reach."""
        earlier = job.earlier
        first = job.order.rows if job.order is not None else None
        done = earlier.rows if earlier is not None else None
        enough = job.limit.watch(earlier) if job.limit is not None else None
        outputs = self.evaluator.run(model, first=first, done=done, enough=enough)
        if earlier is None:
            return outputs
        return joined_outputs(earlier, outputs)


class RecipeRunner:
    """What mixtures predict on one set of examples, and how they score there. Nothing is run twice.

    Predictions are kept in memory, and on disk between processes where content decides them.

    Args:
        maker ([`ModelMaker`]):
            Averages mixtures.
        evaluator ([`Evaluator`]):
            The examples, bound to the ingredients' processing.
        executor (`str`, *optional*, defaults to `"local"`):
            Where mixtures run that do not depend on each other, as of [`run_all`].
        keep_large (`bool`, *optional*, defaults to `False`):
            Whether predictions of mixtures are kept on disk however large they are, as those of single ingredients.
    """

    def __init__(self, maker: ModelMaker, evaluator: Evaluator, *, executor: str = "local", keep_large: bool = False):
        self.maker, self.evaluator = maker, evaluator
        self._keep_large = keep_large
        self._worker, self._executor = RecipeWorker(maker, evaluator), executor
        self._outputs: dict[tuple[str, str], Outputs] = {}
        self._large: list[tuple[str, str]] = []  # keys of large outputs of mixtures, the oldest first

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
        """What a mixture predicts, as far as it was run in this order, here or by an earlier process."""
        recipe = self.setup.recipe(mixture)
        key = _memory_key(recipe, order)
        if key not in self._outputs:
            outputs = kept_outputs(self._disk_key(recipe, order))
            if outputs is not None:
                self._keep_in_memory(key, outputs, is_single=len(mixture.names) == 1)
        return self._outputs.get(key)

    def recall_in_memory(self, mixture: Mixture) -> Outputs | None:
        """What a mixture predicts, if it was asked for here."""
        return self._outputs.get(_memory_key(self.setup.recipe(mixture), None))

    def score(self, mixture: Mixture, predictions: Predictions) -> Score:
        """The score of predictions, all of them or those on a part of the examples.

        Raises:
            [`EvaluationError`]: naming the ingredients.
        """
        try:
            return self.evaluator.score(predictions)
        except EvaluationError as error:
            raise EvaluationError(f"{' + '.join(mixture.names)}: {error}") from error

    def run(self, jobs: Sequence[Job], *, keep_scores: bool = False) -> Iterator[tuple[int, Outputs]]:
        """Run mixtures that do not depend on each other, and keep what they predict.

        Args:
            jobs (`Sequence[Job]`):
                What to run.
            keep_scores (`bool`, *optional*, defaults to `False`):
                Whether scores are kept on disk as well: they are small where predictions may be too large.

        Returns:
            `Iterator[tuple[int, Outputs]]`: place among the jobs and result of each, as they finish.
        """
        recipes = [self.setup.recipe(job.mixture) for job in jobs]
        # What lies on disk has to be of the weights and data that were run, so their content is looked at before and
        # after.
        before = [self._disk_key(recipe, job.order) for recipe, job in zip(recipes, jobs, strict=True)]
        executor = self._executor if len(jobs) > 1 else "local"
        for place, outputs in run_all(self._worker, jobs, executor=executor):
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
        """The score of a mixture from an earlier process, also where its predictions were too large to keep."""
        return kept_score(self._disk_key(self.setup.recipe(mixture), order, scores=True))

    def gradient(self, mixture: Mixture, rows: np.ndarray, scale: float) -> Gradient:
        """The derivative of the loss on some examples; the same again costs nothing.

        Raises:
            [`EvaluationError`]: if the method is another than the linear one.
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
        """Keep outputs; of the large ones of mixtures only those that were made last."""
        self._outputs[key] = outputs
        if is_single or outputs.predictions.logits.nbytes <= LARGE:
            return
        if key in self._large:  # made again, of more rows
            self._large.remove(key)
        self._large.append(key)
        if len(self._large) > FEW:
            self._outputs.pop(self._large.pop(0), None)

    def _described(self, mixture: Mixture) -> str:
        """What the list of what is kept says of a mixture, in words."""
        return f"{' + '.join(mixture.names)[:60]} on {self.evaluator.path or self.evaluator.split}"

    def _disk_key(self, recipe: Recipe, order: RunOrder | None, *, scores: bool = False) -> str | None:
        """What stands on disk for weights, data and settings as they are now; `None` where nothing may be kept."""
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
    """A digest of row numbers in their order."""
    import numpy as np
    import xxhash

    return xxhash.xxh3_64_hexdigest(rows.astype(np.int64).tobytes())


def _memory_key(recipe: Recipe, order: RunOrder | None) -> tuple[str, str]:
    """What stands for the outputs of a recipe in the memory of this process."""
    if order is None:
        return recipe.fingerprint(), ""
    return recipe.fingerprint(), order.digest
