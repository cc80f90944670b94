"""A model on a data set: predictions, and from them a score. One evaluator holds one set of examples.

What is particular to a task is in `hf_soup.tasks`; here is what all have in common: order, batches, devices.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from ..data.content import ContentHashes, hash_content
from ..data.load import load_data
from ..errors import DataError, RecipeError
from ..metrics.load import Metric, load_metrics
from ..metrics.predictions import Predictions
from ..options import answers_keywords_of_class, dtype_name
from ..plugins import check_name, load_module
from ..tasks import Task, WritingTask, task_of
from ..types import BatchNormRecord, DataDescription, Score, is_better_higher
from .cache_key import cache_key, digest_of_batches, digest_of_processing
from .encoding import MAIN_INPUTS, Encoded, first_in_small_batches, is_encoded, of_one_length, without_rows
from .examples import EncodedExamples
from .function_score import as_score, check_function_evaluator
from .generation import generation_options, with_texts
from .outputs import Outputs, refuse_not_finite
from .running import BatchOutput, is_launched, predictions_of, refuse_unreadable, run_batches
from .selecting_value import selecting_value


if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from transformers import PreTrainedModel

    from ..metrics.load import Given

DTYPES = ("auto", "bfloat16", "float32")
MADE_AGAIN = ("task_module", "metrics", "examples", "_bound")  # of an evaluator, in each process


@answers_keywords_of_class
@dataclass(frozen=True)
class Evaluator:
    """Scores models on one set of examples.

    Args:
        dataset (`datasets.Dataset`, `datasets.DatasetDict`, `str`, `os.PathLike` or `Callable`):
            The examples, or where they are: a Hub id, a file (CSV, JSON lines, Parquet), a folder with files or image
            folders named for their split, or `package.module:function`. Examples may be encoded already
            (`input_ids` or `pixel_values`). Or a function of a model, which returns a number, a mapping of numbers, or
            a [`Score`]: then `metric` and `higher_is_better` say which of them selects, and nothing else is given.
        task (`str`, *optional*, defaults to `"auto"`):
            Such as `"text-classification"`; `"auto"` reads it off the model's configuration.
        metric (`str`, `Callable`, `evaluate.EvaluationModule`, or a sequence of them, *optional*):
            Names of built-in metrics, of metrics of `evaluate` or of their scripts; metrics of `evaluate`; or
            functions of `transformers.EvalPrediction` as `Trainer` takes them. The task's own by default. Of a
            function of a model the name of the value that selects.
        select_by (`str`, *optional*):
            Which of several values selects; the first by default.
        higher_is_better (`bool`, *optional*):
            Direction of the value that selects; built-in metrics know theirs, of others higher is taken to be better.
        processing_class (*optional*):
            The tokenizer or image processor; by default that of the ingredients, or what lies where the model was
            loaded from.
        split (`str`, *optional*, defaults to `"validation"`):
            Which part of the data this is; for a path also what is loaded (`"train[:1000]"` works).
        name (`str`, *optional*):
            The configuration of a data set of the Hub.
        batch_size (`int`, *optional*):
            Examples at a time: by default 64, of language models 8. Halved, with a warning, when memory runs out.
        device (`str`, *optional*, defaults to `"auto"`):
            `"auto"` takes a GPU where there is one; under `accelerate launch`, each process takes its share.
        dtype (`str`, *optional*, defaults to `"auto"`):
            Of the arithmetic: `"auto"` is bfloat16 (autocast) for float32 models on GPUs that have it, else the
            model's own; `"float32"` leaves models as they are everywhere.
        label_column (`str`, *optional*):
            By default `label`, `labels`, or what else the task usually calls it.
        text_columns (`Sequence[str]`, *optional*):
            By default those with well-known names (`text`; `premise` and `hypothesis`; ...), else the only column of
            strings that is neither an id nor tells the label.
        generate (`Mapping[str, Any]` or `bool`, *optional*, defaults to `False`):
            For sequence-to-sequence models: let them write, and give the texts to the metrics; a mapping has options
            of `model.generate`, such as `{"max_new_tokens": 60}`.
        cache (`bool`, *optional*, defaults to `True`):
            Whether scores are kept between runs.
        path (`str`, *optional*):
            What recipes call the data; where it came from by default.

    Raises:
        [`DataError`]: if the data is not there or is empty.
        [`RecipeError`]: if there is no such metric or task, or an argument is wrong.
    """

    dataset: Dataset
    _: KW_ONLY
    task: str = "auto"
    metric: Given | Sequence[Given] | None = None
    select_by: str | None = None
    higher_is_better: bool | None = None
    processing_class: Any = None
    split: str = "validation"
    name: str | None = None
    batch_size: int | None = None
    device: str = "auto"
    dtype: str = "auto"
    label_column: str | None = None
    text_columns: Sequence[str] | None = None
    generate: Mapping[str, Any] | bool = False
    cache: bool = True
    path: str | None = None

    def __post_init__(self) -> None:
        import datasets

        if self.function is not None:
            check_function_evaluator(self)
            return
        if isinstance(self.dataset, (str, os.PathLike)):
            path = os.path.expanduser(os.fspath(self.dataset))
            object.__setattr__(self, "path", self.path or path)
            object.__setattr__(self, "dataset", load_data(path, split=self.split, name=self.name))
        elif isinstance(self.dataset, datasets.DatasetDict):
            object.__setattr__(self, "dataset", load_data(self.dataset, split=self.split))
        _refuse_other_data(self.dataset)
        if not len(self.dataset):
            raise DataError(f"the data set for {self.split} is empty.")
        if self.batch_size is not None and self.batch_size < 1:
            raise RecipeError(f"batch_size is {self.batch_size}, and a batch has at least one example.")
        object.__setattr__(self, "dtype", dtype_name(self.dtype))
        if self.dtype not in DTYPES:
            raise RecipeError(f"dtype is one of {', '.join(DTYPES)}, not {self.dtype!r}.")
        if self.task != "auto":
            check_name("task", self.task)
        if self.metric is not None:
            _ = self.metrics  # loaded now, so that a name that is no metric is refused before anything is run

    def __getstate__(self) -> dict[str, Any]:
        """What a copy begins with: modules, loaded metrics and encoded examples are made again there."""
        return {name: value for name, value in self.__dict__.items() if name not in MADE_AGAIN}

    def __call__(self, model: PreTrainedModel) -> Score:
        """Score a model.

        Args:
            model (`transformers.PreTrainedModel`):
                It is put into evaluation mode and moved to the evaluator's device.

        Returns:
            [`Score`]: by the metric that selects, with the values of the others in `others`.

        Raises:
            [`DataError`]: if the data does not fit the model.
            [`EvaluationError`]: if the metric gives no number, or memory runs out at one example.
        """
        if self.function is not None:
            # of a function the metric is a name, as was checked in the beginning
            metric = cast("str | None", self.metric)
            return as_score(self.function(model), metric, is_better_higher(self.higher_is_better))
        bound = self.for_model(model)
        return bound.score(bound.predict(model))

    @property
    def function(self) -> Callable[[PreTrainedModel], Any] | None:
        """The function of a model that scores, if that was given in place of a data set."""
        return self.dataset if callable(self.dataset) else None

    def score(self, predictions: Predictions) -> Score:
        """The score of predictions that were made already; of an evaluator whose task is known.

        Raises:
            [`EvaluationError`]: if a metric gives no number, or none of the name that selects.
        """
        values_by_metric = [metric.compute(predictions) for metric in self.metrics]
        name, values = selecting_value(self.metrics, values_by_metric, self.select_by)
        direction = self.direction(name) if self.higher_is_better is None else self.higher_is_better
        return Score(
            name,
            values.pop(name),
            is_better_higher(direction),
            self.split,
            self.content_hashes.fingerprint,
            predictions.examples,
            values,
        )

    def direction(self, name: str) -> bool | None:
        """Whether a value is better when it is higher, where its metric says so."""
        for metric in self.metrics:
            if metric.name == name:
                return metric.higher_is_better
        return None

    @cached_property
    def task_module(self) -> Task:
        """The task's file; of an evaluator whose task is known.

        Raises:
            [`RecipeError`]: if there is no such task, or only a model can say which it is.
        """
        if self.task == "auto":
            raise RecipeError(
                'only a model tells which task it is of: call the evaluator with the model, or give task="...".'
            )
        return load_module("task", self.task)

    @cached_property
    def examples(self) -> EncodedExamples:
        """The examples as models take them."""
        return EncodedExamples(self)

    @cached_property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics that were given, or else the task's own; loaded once."""
        if self.metric is not None:
            return load_metrics(self.metric)
        return load_metrics(self.task_module.METRIC)

    @cached_property
    def _bound(self) -> dict[tuple[str, str], Evaluator]:
        """This evaluator bound to models of several sources and tasks."""
        return {}

    def for_model(self, model: PreTrainedModel) -> Evaluator:
        """The same evaluator for what a model does, with the processing class that lies where it was loaded from."""
        task = self.task
        if task == "auto":
            task = task_of(model.config, task, type(model).__name__)
        source = ""
        if self._lacks_processing_class:
            source = getattr(model, "name_or_path", "")
        if task == self.task and not source:
            return self
        if (source, task) not in self._bound:
            self._bound[source, task] = self.bound(source or None, task)
        return self._bound[source, task]

    def predict(self, model: PreTrainedModel) -> Predictions:
        """Run a model over the data, longest examples first so that a batch pads little.

        Args:
            model (`transformers.PreTrainedModel`):
                With the task's head.

        Returns:
            [`Predictions`]: logits and labels as arrays, in the order of the data set.

        Raises:
            [`DataError`]: if columns are missing, labels are no classes of the model, or over 1 % of the images do not
                decode.
            [`EvaluationError`]: if memory runs out at one example.
        """
        return self.run(model).predictions

    def run(
        self,
        model: PreTrainedModel,
        *,
        first: np.ndarray | None = None,
        done: np.ndarray | None = None,
        enough: Callable[[Predictions], bool] | None = None,
    ) -> Outputs:
        """Run a model over the data until that is enough.

        Args:
            model (`transformers.PreTrainedModel`):
                With the task's head.
            first (`np.ndarray`, *optional*):
                Rows to begin with, in this order and in small batches; by default longest rows come first.
            done (`np.ndarray`, *optional*):
                Rows to leave out, of batches that were run before.
            enough (`Callable[[Predictions], bool]`, *optional*):
                Is told what each batch gave, and says whether to stop.

        Returns:
            [`Outputs`]
        """
        import numpy as np

        bound = self.for_model(model)
        if bound is not self:
            return bound.run(model, first=first, done=done, enough=enough)
        task = self.task_module
        options = generation_options(self)
        encoded = self._encoded_to_run(model, first, done)
        is_enough: Callable[[BatchOutput], bool] | None = None
        if enough is not None:

            def is_enough(output: BatchOutput) -> bool:
                return enough(predictions_of([output], task.KIND, model.config))

        batch_outputs = run_batches(
            task,
            model,
            encoded,
            self.processing_class,
            options,
            device=self.device,
            dtype=self.dtype,
            enough=is_enough,
        )
        refuse_unreadable(batch_outputs, self.dataset, self.split)
        predictions = predictions_of(batch_outputs, task.KIND, model.config)
        refuse_not_finite(predictions, self.split)
        if options is not None and isinstance(task, WritingTask):
            predictions = with_texts(predictions, batch_outputs, self, task)
        rows = np.concatenate([output.rows for output in batch_outputs])
        rows_to_run = sum(map(len, encoded.batches))
        return Outputs(predictions, rows, whole=len(rows) == rows_to_run)

    def _encoded_to_run(self, model: PreTrainedModel, first: np.ndarray | None, done: np.ndarray | None) -> Encoded:
        """The examples as a model takes them, in the batches that are left to run; arguments as of [`run`]."""
        encoded = self.examples.encoded(model)
        # Asked of all batches, so that a run which goes on where another was stopped gets the same answer.
        padding_matters = self.examples.padding_matters(model, encoded)
        if first is not None:
            encoded = first_in_small_batches(encoded, first, self.batch_size or self.task_module.BATCH_SIZE)
        if done is not None:
            encoded = without_rows(encoded, done)
        if padding_matters:
            encoded = of_one_length(encoded)
        return encoded

    @property
    def content_hashes(self) -> ContentHashes:
        """Hashes of the content of the data as it is now; kept by [`hash_content`] as long as it does not change."""
        return hash_content(self.dataset)

    @cached_property
    def input_hashes(self) -> ContentHashes:
        """Hashes of what the model sees alone: of the input columns under no name, without labels or ids of rows.

        The same texts with labels written otherwise are the same examples. Needs the task.
        """
        if self.is_encoded:
            columns = [name for name in MAIN_INPUTS if name in self.dataset.column_names]
        else:
            label = self.task_module.label_column(self.dataset, self.label_column)
            columns = self.task_module.columns(self.dataset, self.text_columns, label)
        numbered = {column: str(place) for place, column in enumerate(columns)}
        return hash_content(self.dataset.select_columns(columns).rename_columns(numbered))

    def described(self) -> DataDescription:
        """What a recipe records of the data."""
        inputs = None
        if self.task != "auto":  # which columns are inputs is known of a task alone
            inputs = self.input_hashes.fingerprint
        return DataDescription(self.path, self.content_hashes.fingerprint, len(self.dataset), inputs)

    def described_batches(self) -> BatchNormRecord:
        """What a recipe records of data for BatchNorm: `batches` covers all that decides the result."""
        return BatchNormRecord(self.described(), digest_of_batches(self))

    @property
    def keeps(self) -> bool:
        """Whether anything is kept: processes that share work have to run, or not run, together, and what a function
        does to the rows (`set_transform`) may change.
        """
        return self.cache and not is_launched() and self.dataset.format["type"] != "custom"

    def key(self, model: str, *, scores: bool) -> str | None:
        """What stands for the score (or with `scores=False` the predictions) of one model in the cache.

        Args:
            model (`str`):
                Its recipe's fingerprint.
            scores (`bool`):
                Whether the metrics count as well.

        Returns:
            `str`, or `None` where nothing may be kept: a metric is a function, the data has a transform, several
            processes share the work, or `cache=False`.
        """
        if not self.keeps:
            return None
        return cache_key(self, model, scores=scores)

    def bound(self, source: str | None, task: str) -> Evaluator:
        """The same evaluator for a task, with the tokenizer or image processor of a checkpoint if it has none."""
        bound = replace(self, task=task)
        if source is not None and bound._lacks_processing_class:
            # it is ours alone until it is returned; a second copy would load its task again
            object.__setattr__(bound, "processing_class", bound.task_module.load_processing_class(source))
        return bound

    @property
    def _lacks_processing_class(self) -> bool:
        """Whether a tokenizer or image processor is needed, and was not given."""
        return self.processing_class is None and (not self.is_encoded or bool(self.generate))

    @property
    def is_encoded(self) -> bool:
        """Whether the data is what models take already."""
        return is_encoded(self.dataset)

    @cached_property
    def preprocessing(self) -> str:
        """A digest of the files that the tokenizer or image processor would save."""
        return digest_of_processing(self.processing_class)


def _refuse_other_data(dataset: Any) -> None:
    """Refuse what is no data set, with the way to make one of it.

    Raises:
        [`DataError`]: if it is something else than a `datasets.Dataset`.
    """
    import datasets

    if isinstance(dataset, dict):
        raise DataError(
            f"an evaluator takes one split: choose one of {', '.join(map(str, dataset))}, as in data['test']."
        )
    if not isinstance(dataset, datasets.Dataset):
        raise DataError(
            f"an evaluator takes a datasets.Dataset, or where one is, not {type(dataset).__name__}: of a list of rows "
            "datasets.Dataset.from_list makes one, of a stream take(n) and from_list."
        )
