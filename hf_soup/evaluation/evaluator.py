"""`Evaluator`: runs models on one data set, and computes scores from the predictions.

What all tasks share is here: order, batches, devices. What is specific to a task is in `hf_soup.tasks`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, cast

from ..data.content import ContentHashes, hash_content
from ..data.load import load_data
from ..errors import DataError, RecipeError
from ..merging.sentence_models import body_of
from ..metrics.load import Metric, load_metrics
from ..metrics.predictions import Predictions
from ..options import answers_keywords_of_class, dtype_name
from ..plugins import check_name, load_module
from ..tasks import Task, WholeTask, WritingTask, task_of
from ..types import DataDescription, Score, StatisticsRecord, is_better_higher
from .cache_key import cache_key, digest_of_batches, digest_of_processing
from .encoding import MAIN_INPUTS, Encoded, first_in_small_batches, is_encoded, of_one_length, without_rows
from .examples import EncodedExamples
from .function_score import as_score, check_function_evaluator
from .generation import generation_options, with_texts
from .lm_harness import MEAN, lm_eval_score
from .models import config_of, model_for
from .outputs import Outputs, refuse_not_finite
from .running import BatchOutput, is_launched, predictions_of, refuse_unreadable, run_batches
from .selecting_value import selecting_value


if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from transformers import PreTrainedModel

    from ..metrics.load import Given

DTYPES = ("auto", "bfloat16", "float32")
MADE_AGAIN = ("task_module", "metrics", "examples", "_bound")  # attributes made again in each process


@answers_keywords_of_class
@dataclass(frozen=True)
class Evaluator:
    """Scores models on one data set.

    Args:
        dataset (`datasets.Dataset`, `datasets.DatasetDict`, `str`, `os.PathLike` or `Callable`):
            Examples to score on: a data set, a Hub id, a file (CSV, JSON lines, Parquet), a folder with files or image
            folders named for their split, or `package.module:function`. Examples may be encoded already (`input_ids`
            or `pixel_values`). A function that takes a model and returns a number, a mapping of numbers or a [`Score`]
            can be passed instead; then only `metric` and `higher_is_better` may be given too.
        task (`str`, *optional*, defaults to `"auto"`):
            Task of the models, such as `"text-classification"`; `"auto"` infers it from the model's configuration.
        metric (`str`, `Callable`, `evaluate.EvaluationModule`, or a sequence of them, *optional*):
            Metrics to compute; by default that of the task. Each is the name of a built-in metric or of a metric of
            `evaluate`, the path of a metric script, a metric of `evaluate`, or a function of
            `transformers.EvalPrediction` as for `Trainer`. If `dataset` is a function, the name of its value that
            selects.
        select_by (`str`, *optional*):
            Name of the value that selects, if there are several; by default the first.
        higher_is_better (`bool`, *optional*):
            Whether a higher value is better. Built-in metrics have a known direction; for others the default is
            `True`.
        processing_class (*optional*):
            Tokenizer or image processor; by default that of the ingredients, or the one saved with the model.
        split (`str`, *optional*, defaults to `"validation"`):
            Name of the split. For data given by path or Hub id, the split to load (`"train[:1000]"` works).
        name (`str`, *optional*):
            Configuration of a data set on the Hub.
        batch_size (`int`, *optional*):
            Number of examples in a batch; by default 64, and 8 for language models. It is halved, with a warning, when
            memory runs out.
        device (`str`, *optional*, defaults to `"auto"`):
            Device on which models are run; `"auto"` uses a GPU if there is one. Under `accelerate launch`, the
            examples are distributed over the processes.
        dtype (`str`, *optional*, defaults to `"auto"`):
            Data type of the computation: `"auto"` uses bfloat16 autocast for float32 models on GPUs that support it,
            and the model's own type otherwise; `"float32"` always uses the model's own type.
        label_column (`str`, *optional*):
            Name of the label column; by default `label`, `labels`, or another usual name of the task.
        text_columns (`Sequence[str]`, *optional*):
            Names of the text columns; by default those with well-known names (`text`; `premise` and `hypothesis`;
            ...), or else the only column of strings that contains neither ids nor the label.
        generate (`Mapping[str, Any]` or `bool`, *optional*, defaults to `False`):
            Whether sequence-to-sequence models generate texts, which are passed to the metrics. A mapping contains
            options of `model.generate`, such as `{"max_new_tokens": 60}`.
        cache (`bool`, *optional*, defaults to `True`):
            Whether scores and predictions are kept for later calls.
        path (`str`, *optional*):
            Name of the data in recipes; by default the path or Hub id that it was loaded from.

    Raises:
        [`DataError`]: if the data does not exist or is empty.
        [`RecipeError`]: if a metric or the task does not exist, or an argument is invalid.
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
            raise RecipeError(f"batch_size is {self.batch_size}, but a batch needs at least one example.")
        object.__setattr__(self, "dtype", dtype_name(self.dtype))
        if self.dtype not in DTYPES:
            raise RecipeError(f"dtype is one of {', '.join(DTYPES)}, not {self.dtype!r}.")
        if self.task != "auto":
            check_name("task", self.task)
        if self.metric is not None:
            _ = self.metrics  # loaded now, so that an unknown metric raises an error before anything is run

    @classmethod
    def lm_eval(
        cls,
        tasks: Sequence[str],
        *,
        metric: str = MEAN,
        limit: int | float | None = None,
        num_fewshot: int | None = None,
        batch_size: int = 8,
        processing_class: Any = None,
    ) -> Evaluator:
        """An evaluator of language models by tasks of lm-evaluation-harness (`pip install 'hf-soup[lm-eval]'`).

        Args:
            tasks (`Sequence[str]`):
                Names of tasks, groups or tags, such as `["hellaswag", "arc_easy"]`, or YAML files of your own.
            metric (`str`, *optional*, defaults to `"mean"`):
                Value that selects: the `"mean"` of the tasks, the `"worst"` of all tasks and subtasks, or the name of
                one. The others are categories, which the strategy `soce` uses. Of each task `acc_norm`, `acc`,
                `exact_match` or else its first metric counts.
            limit (`int` or `float`, *optional*):
                Number of examples of each task, or their share if it is below 1.
            num_fewshot (`int`, *optional*):
                Number of examples in a prompt; by default that of each task. Tasks that are made for none keep none.
            batch_size (`int`, *optional*, defaults to 8):
                Number of requests in a batch.
            processing_class (`transformers.PreTrainedTokenizerBase`, *optional*):
                Tokenizer; by default the one saved with the model.

        Returns:
            [`Evaluator`]

        Raises:
            [`RecipeError`]: if there are no tasks.
        """
        if isinstance(tasks, str) or not tasks:
            raise RecipeError(f'tasks are a list of names, such as ["hellaswag"], not {tasks!r}.')
        score = partial(
            lm_eval_score,
            tasks=tuple(tasks),
            metric=metric,
            limit=limit,
            num_fewshot=num_fewshot,
            batch_size=batch_size,
            processing_class=processing_class,
        )
        return cls(score)

    def __getstate__(self) -> dict[str, Any]:
        """The state of a copy; modules, loaded metrics and encoded examples are made again by it."""
        return {name: value for name, value in self.__dict__.items() if name not in MADE_AGAIN}

    def __call__(self, model: PreTrainedModel) -> Score:
        """Score a model.

        Args:
            model (`transformers.PreTrainedModel`):
                Model to score. It is put into evaluation mode and moved to the evaluator's device.

        Returns:
            [`Score`]: the value of the metric that selects, with the other values in `others`.

        Raises:
            [`DataError`]: if the data does not fit the model.
            [`EvaluationError`]: if the metric returns no number, or memory runs out for a single example.
        """
        if self.function is not None:
            # for a function, `metric` is a name, as was checked in the constructor
            metric = cast("str | None", self.metric)
            return as_score(self.function(model), metric, is_better_higher(self.higher_is_better))
        bound = self.for_model(model)
        return bound.score(bound.predict(model))

    @property
    def function(self) -> Callable[[PreTrainedModel], Any] | None:
        """The function of a model, if one was passed instead of a data set."""
        return self.dataset if callable(self.dataset) else None

    def score(self, predictions: Predictions) -> Score:
        """Compute the score of existing predictions. The task has to be known.

        Raises:
            [`EvaluationError`]: if a metric returns no number, or the value that selects is missing.
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
        """Whether a higher value is better; `None` if the metric does not define it."""
        for metric in self.metrics:
            if metric.name == name:
                return metric.higher_is_better
        return None

    @cached_property
    def task_module(self) -> Task:
        """The module of the task, which has to be known.

        Raises:
            [`RecipeError`]: if the task does not exist, or can only be inferred from a model.
        """
        if self.task == "auto":
            raise RecipeError(
                'the task is inferred from a model: call the evaluator with the model, or give task="...".'
            )
        return load_module("task", self.task)

    @cached_property
    def examples(self) -> EncodedExamples:
        """The examples as model inputs."""
        return EncodedExamples(self)

    @cached_property
    def metrics(self) -> tuple[Metric, ...]:
        """The given metrics, or else that of the task; they are loaded once."""
        if self.metric is not None:
            return load_metrics(self.metric)
        return load_metrics(self.task_module.METRIC)

    @cached_property
    def _bound(self) -> dict[tuple[str, str], Evaluator]:
        """Copies of this evaluator, bound to models of different sources and tasks."""
        return {}

    def for_model(self, model: PreTrainedModel) -> Evaluator:
        """The same evaluator with the task of a model and the processing class saved with that model."""
        task = self.task
        if task == "auto":
            task = task_of(config_of(model), task, type(body_of(model)).__name__, self.dataset.column_names)
        source = ""
        if self._lacks_processing_class:
            source = getattr(model, "name_or_path", "")
        if task == self.task and not source:
            return self
        if (source, task) not in self._bound:
            self._bound[source, task] = self.bound(source or None, task)
        return self._bound[source, task]

    def predict(self, model: PreTrainedModel) -> Predictions:
        """Run a model on the data, longest examples first, so that batches need little padding.

        Args:
            model (`transformers.PreTrainedModel`):
                Model with the head of the task.

        Returns:
            [`Predictions`]: logits and labels as arrays, in the order of the data set.

        Raises:
            [`DataError`]: if columns are missing, labels are not classes of the model, or more than 1 % of the images
                cannot be decoded.
            [`EvaluationError`]: if memory runs out for a single example.
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
        """Run a model on the data, possibly stopping early.

        Args:
            model (`transformers.PreTrainedModel`):
                Model with the head of the task.
            first (`np.ndarray`, *optional*):
                Rows to run first, in this order and in small batches; by default the longest rows come first.
            done (`np.ndarray`, *optional*):
                Rows to leave out, because they were run before.
            enough (`Callable[[Predictions], bool]`, *optional*):
                Function of the predictions of each batch that returns whether to stop.

        Returns:
            [`Outputs`]
        """
        import numpy as np

        bound = self.for_model(model)
        if bound is not self:
            return bound.run(model, first=first, done=done, enough=enough)
        task = self.task_module
        model = model_for(task, model)
        if isinstance(task, WholeTask):  # nothing is known before all rows are run
            first = done = enough = None
        options = generation_options(self)
        encoded = self._encoded_to_run(model, first, done)
        is_enough: Callable[[BatchOutput], bool] | None = None
        if enough is not None:

            def is_enough(output: BatchOutput) -> bool:
                return enough(predictions_of([output], task.KIND, config_of(model)))

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
        predictions = predictions_of(batch_outputs, task.KIND, config_of(model))
        refuse_not_finite(predictions, self.split)
        if isinstance(task, WholeTask):
            label = task.label_column(self.dataset, self.label_column)
            columns = task.columns(self.dataset, self.text_columns, label)
            labels = task.labels(self.dataset, label, config_of(model))
            finished = task.finish(predictions, self.dataset, columns, labels)
            return Outputs(finished, np.arange(len(self.dataset)), whole=True)
        if options is not None and isinstance(task, WritingTask):
            predictions = with_texts(predictions, batch_outputs, self, task)
        rows = np.concatenate([output.rows for output in batch_outputs])
        rows_to_run = sum(map(len, encoded.batches))
        return Outputs(predictions, rows, whole=len(rows) == rows_to_run)

    def _encoded_to_run(self, model: PreTrainedModel, first: np.ndarray | None, done: np.ndarray | None) -> Encoded:
        """The encoded examples in the batches that remain to be run; the arguments are those of [`run`]."""
        encoded = self.examples.encoded(model)
        # Checked on all batches, so that a run that resumes another one gets the same result.
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
        """Hashes of the current content of the data; [`hash_content`] keeps them as long as it does not change."""
        return hash_content(self.dataset)

    @cached_property
    def input_hashes(self) -> ContentHashes:
        """Hashes of the model's inputs only: the input columns without names, labels and row ids.

        The same texts with other label names are the same examples. The task has to be known.
        """
        if self.is_encoded:
            columns = [name for name in MAIN_INPUTS if name in self.dataset.column_names]
        else:
            label = self.task_module.label_column(self.dataset, self.label_column)
            columns = self.task_module.columns(self.dataset, self.text_columns, label)
        numbered = {column: str(place) for place, column in enumerate(columns)}
        return hash_content(self.dataset.select_columns(columns).rename_columns(numbered))

    def described(self) -> DataDescription:
        """The description of the data in a recipe."""
        inputs = None
        if self.task != "auto":  # only a task determines which columns are inputs
            inputs = self.input_hashes.fingerprint
        return DataDescription(self.path, self.content_hashes.fingerprint, len(self.dataset), inputs)

    def described_batches(self) -> StatisticsRecord:
        """The description of data for BatchNorm in a recipe; `batches` covers all that determines the result."""
        return StatisticsRecord(self.described(), digest_of_batches(self))

    @property
    def keeps(self) -> bool:
        """Whether scores are kept: not if processes share the work, because they have to run together, nor if the data
        has a transform (`set_transform`), which may change.
        """
        return self.cache and not is_launched() and self.dataset.format["type"] != "custom"

    def key(self, model: str, *, scores: bool) -> str | None:
        """The key of the score of a model in the cache, or of its predictions with `scores=False`.

        Args:
            model (`str`):
                Fingerprint of the model's recipe.
            scores (`bool`):
                Whether the metrics count as well.

        Returns:
            `str`: the key; `None` if nothing may be kept, because a metric is a function, the data has a transform,
            several processes share the work, or `cache=False`.
        """
        if not self.keeps:
            return None
        return cache_key(self, model, scores=scores)

    def bound(self, source: str | None, task: str) -> Evaluator:
        """The same evaluator with a task, and with the tokenizer or image processor of a checkpoint if it has none."""
        bound = replace(self, task=task)
        if source is not None and bound._lacks_processing_class:
            # the copy is not shared yet; another copy would load its task again
            object.__setattr__(bound, "processing_class", bound.task_module.load_processing_class(source))
        return bound

    @property
    def _lacks_processing_class(self) -> bool:
        """Whether a tokenizer or image processor is needed but was not given."""
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
    """Raise an error for an object that is not a data set, saying how to convert it.

    Raises:
        [`DataError`]: if the object is not a `datasets.Dataset`.
    """
    import datasets

    if isinstance(dataset, dict):
        raise DataError(
            f"an evaluator takes one split: choose one of {', '.join(map(str, dataset))}, as in data['test']."
        )
    if not isinstance(dataset, datasets.Dataset):
        raise DataError(
            f"an evaluator takes a datasets.Dataset or its path, not {type(dataset).__name__}: convert a list of rows "
            "with datasets.Dataset.from_list, and a stream with take(n) and from_list."
        )
