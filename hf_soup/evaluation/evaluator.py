"""A model on a data set: predictions, and from them a score. One evaluator holds one set of examples.

What is particular to a task is in `hf_soup.tasks`; here is what all have in common: order, batches, devices.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from ..checkpoints.staging import temporary_folder
from ..data.columns import UNSCORED
from ..data.content import Rows, hash_rows
from ..data.load import load_data
from ..errors import DataError, EvaluationError, RecipeError, did_you_mean
from ..lookup import load_module
from ..metrics import Metric, load_metrics
from ..model_inputs import inputs_of
from ..outputs import Predictions
from ..tasks import Task, WritingTask, task_of
from ..types import Score
from ..version import versions
from .encoding import MAIN_INPUTS, Encoded, encode, first_in_small_batches, is_encoded, of_one_length, without_rows
from .padding import check_padding, needs_padding
from .running import in_order, is_launched, put_on_device, refuse_unreadable, resolve_device, run_batches


if TYPE_CHECKING:
    import numpy as np
    import torch
    from datasets import Dataset
    from transformers import PreTrainedModel

    from ..metrics import Given

DTYPES = ("auto", "bfloat16", "float32")
SET_BY_HAND = ("model_max_length", "padding_side", "truncation_side", "pad_token_type_id")  # these may be in no file
LAYOUT = 4  # of what is kept; a change of it makes older files unread


class Outputs(NamedTuple):
    """What a model said on the rows that it was run on.

    Args:
        said ([`Predictions`]):
            In the order of the data set.
        asked (`np.ndarray`):
            The rows that it was run on.
        whole (`bool`):
            Whether these are all.
    """

    said: Predictions
    asked: np.ndarray
    whole: bool


@dataclass(frozen=True)
class Evaluator:
    """Scores models on one set of examples.

    Args:
        dataset (`datasets.Dataset` or `str`):
            The examples, or where they are: a Hub id, a file (CSV, JSON lines, Parquet), a folder with files or image
            folders named for their split, or `package.module:function`. Examples may be encoded already
            (`input_ids` or `pixel_values`).
        task (`str`, *optional*, defaults to `"auto"`):
            Such as `"text-classification"`; `"auto"` reads it off the model's configuration.
        metric (`str`, `Callable`, `evaluate.EvaluationModule`, or a sequence of them, *optional*):
            Names of built-in metrics, of metrics of `evaluate` or of their scripts; metrics of `evaluate`; or
            functions of `transformers.EvalPrediction` as `Trainer` takes them. The task's own by default.
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

    def __post_init__(self):
        if isinstance(self.dataset, (str, os.PathLike)):
            path = os.fspath(self.dataset)
            object.__setattr__(self, "path", self.path or path)
            object.__setattr__(self, "dataset", load_data(path, split=self.split, name=self.name))
        _check_kind(self.dataset)
        if not len(self.dataset):
            raise DataError(f"the data set for {self.split} is empty.")
        if self.batch_size is not None and self.batch_size < 1:
            raise RecipeError(f"batch_size is {self.batch_size}, and a batch has at least one example.")
        if self.dtype not in DTYPES:
            raise RecipeError(f"dtype is one of {', '.join(DTYPES)}, not {self.dtype!r}.")
        if self.task != "auto":
            load_module("task", self.task)
        if self.metric is not None:
            _ = self._given_metrics

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
        return self.score(self.predict(model), task_of(model.config, self.task, type(model).__name__))

    def score(self, said: Predictions, task: str) -> Score:
        """The score of predictions that were made already."""
        metrics = self.metrics(task)
        found = [metric.compute(said) for metric in metrics]
        name = self.select_by or _only_name(metrics[0], found[0])
        values = {key: value for one in reversed(found) for key, value in one.items()}  # the first says what a name is
        if name not in values:
            raise EvaluationError(f"no metric gives {name!r}, which is to select{did_you_mean(name, values)}")
        higher = self.direction(name, task) if self.higher_is_better is None else self.higher_is_better
        return Score(
            name,
            values.pop(name),
            higher is not False,
            self.split,
            self.rows.fingerprint,
            said.examples,
            values,
        )

    def direction(self, name: str, task: str) -> bool | None:
        """Whether a value is better when it is higher, where its metric says so."""
        return next((metric.higher_is_better for metric in self.metrics(task) if metric.name == name), None)

    def metrics(self, task: str) -> tuple[Metric, ...]:
        """The metrics that were given, or the task's own."""
        return self._given_metrics if self.metric is not None else load_metrics(load_module("task", task).METRIC)

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
        return self.run(model).said

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

        name = task_of(model.config, self.task, type(model).__name__)
        if self._lacks_processing_class and getattr(model, "name_or_path", ""):
            return self._bound_to(model.name_or_path, name).run(model, first=first, done=done, enough=enough)
        task = load_module("task", name)
        options = self._generation(task, name)
        encoded = self._encoded(task, model)
        padding_matters = self._padding_matters(task, model, encoded)
        if first is not None:
            encoded = first_in_small_batches(encoded, first, self.batch_size or task.BATCH_SIZE)
        if done is not None:
            encoded = without_rows(encoded, done)
        if padding_matters:
            encoded = of_one_length(encoded)
        parts = run_batches(
            task,
            model,
            encoded,
            self.processing_class,
            options,
            device=self.device,
            dtype=self.dtype,
            enough=enough and (lambda part: enough(in_order([part], task.KIND, model.config))),
        )
        refuse_unreadable(parts, self.dataset, self.split)
        said = in_order(parts, task.KIND, model.config)
        if said.rows.size and not np.isfinite(said.logits).all():
            wrong = said.rows[~np.isfinite(said.logits.reshape(len(said.rows), -1)).all(axis=1)]
            raise EvaluationError(f"the model gives NaN or infinity on {self.split}, first on row {wrong.min()}.")
        asked = np.concatenate([part["asked"] for part in parts])
        whole = len(asked) == sum(map(len, encoded.batches))
        if options is not None and isinstance(task, WritingTask):
            said = self._with_texts(said, parts, task)
        return Outputs(said, asked, whole)

    def _with_texts(self, said: Predictions, parts: Sequence[Mapping[str, Any]], task: WritingTask) -> Predictions:
        """With what the model wrote, and what it should have written."""
        written = {row: text for part in parts for row, text in zip(part["asked"], part["texts"], strict=True)}
        references = task.references(self.dataset, task.label_column(self.dataset, self.label_column))
        return said._replace(
            texts=tuple(written.get(row, "") for row in range(len(references))), references=references
        )

    @property
    def rows(self) -> Rows:
        """Hashes of the content of the data as it is now; kept by [`hash_rows`] as long as it does not change."""
        return hash_rows(self.dataset)

    @cached_property
    def inputs(self) -> Rows:
        """Hashes of what the model sees alone: of the input columns under no name, without labels or ids of rows.

        The same texts with labels written otherwise are the same examples. Needs the task.
        """
        if self.is_encoded:
            columns = [name for name in MAIN_INPUTS if name in self.dataset.column_names]
        else:
            task = load_module("task", self.task)
            columns = task.columns(self.dataset, self.text_columns, task.label_column(self.dataset, self.label_column))
        numbered = {column: str(at) for at, column in enumerate(columns)}
        return hash_rows(self.dataset.select_columns(columns).rename_columns(numbered))

    def described(self) -> dict[str, Any]:
        """What a recipe records of the data; `inputs` is the fingerprint without labels and names of columns."""
        found = {"path": self.path, "fingerprint": self.rows.fingerprint, "rows": len(self.dataset)}
        return found if self.task == "auto" else found | {"inputs": self.inputs.fingerprint}

    def described_batches(self) -> dict[str, Any]:
        """What a recipe records of data for BatchNorm: `batches` covers all that decides the result."""
        import xxhash

        decisive = [self.rows.ordered, self._preprocessing, self.text_columns, self.batch_size, self.task]
        batches = xxhash.xxh3_128_hexdigest(json.dumps(decisive, default=str).encode())
        return {"dataset": self.described(), "batches": f"xxh3-128:{batches}"}

    @property
    def keeps(self) -> bool:
        """Whether anything is kept: processes that share work have to run, or not run, together, and what a function
        does to the rows (`set_transform`) may change.
        """
        return self.cache and not is_launched() and self.dataset.format["type"] != "custom"

    def key(self, model: str, task: str, *, scores: bool) -> str | None:
        """What stands for the score (or with `scores=False` the predictions) of one model in the cache.

        Args:
            model (`str`):
                Its recipe's fingerprint.
            task (`str`):
                The task.
            scores (`bool`):
                Whether the metrics count as well.

        Returns:
            `str`, or `None` where nothing may be kept: a metric is a function, the data has a transform, several
            processes share the work, or `cache=False`.
        """
        import xxhash

        if not self.keeps:
            return None
        asked = [metric.identity for metric in self.metrics(task)] + [self.select_by, self.higher_is_better]
        if scores and None in asked[:-2]:
            return None
        needs = [
            self.rows.ordered,
            repr(self.dataset.features),
            self.dataset.format["columns"],
            self.split,
            task,
            self._preprocessing,
            self.label_column,
            self.text_columns,
        ]
        needs += [self.batch_size, resolve_device(self.device).split(":")[0], self.dtype, versions(), model]
        needs.append(LAYOUT)
        generation = self.generate if isinstance(self.generate, bool) else dict(self.generate)
        needs += [generation, any(metric.needs_texts for metric in self.metrics(task))]
        return xxhash.xxh3_128_hexdigest(json.dumps([needs, asked if scores else None], default=str).encode())

    def bound(self, source: str | None, task: str) -> Evaluator:
        """The same evaluator for a task, with the tokenizer or image processor of a checkpoint if it has none."""
        if self.processing_class is not None or source is None or (self.is_encoded and not self.generate):
            return replace(self, task=task)
        return replace(self, task=task, processing_class=load_module("task", task).load_processing_class(source))

    @property
    def _lacks_processing_class(self) -> bool:
        return self.processing_class is None and (not self.is_encoded or bool(self.generate))

    def _bound_to(self, source: str, task: str) -> Evaluator:
        """The same evaluator with the tokenizer or image processor of `source`, made once."""
        cache = self.__dict__.setdefault("_bound", {})
        if (source, task) not in cache:
            cache[source, task] = self.bound(source, task)
        return cache[source, task]

    @property
    def is_encoded(self) -> bool:
        """Whether the data is what models take already."""
        return is_encoded(self.dataset)

    def batches(self, model: PreTrainedModel) -> Iterator[dict[str, torch.Tensor]]:
        """The examples as the model takes them, without labels, shuffled, in batches of about one size.

        The order is the same at every call, and no batch is a small rest: statistics of batches are what they are for.

        Args:
            model (`transformers.PreTrainedModel`):
                Whose inputs they are.
        """
        import numpy as np

        task, encoded = self._task_and_encoded(model)
        order = np.random.default_rng(0).permutation(len(self.dataset))
        for rows in np.array_split(order, -(-len(order) // (self.batch_size or task.BATCH_SIZE))):
            batch = encoded.batch_of(rows)
            labels = batch.pop("labels")
            if encoded.decodes_images:  # without those that do not decode
                batch = {key: value[labels != UNSCORED] for key, value in batch.items()}
            yield batch

    def batch(self, model: PreTrainedModel, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """Some examples as the model takes them, with labels, padded to one length.

        Args:
            model (`transformers.PreTrainedModel`):
                Whose inputs they are.
            rows (`np.ndarray`):
                Which.
        """
        return self._task_and_encoded(model)[1].batch_of(rows)

    def row_batches(self, model: PreTrainedModel, rows: np.ndarray) -> list[dict[str, torch.Tensor]]:
        """Some examples as the model takes them, with labels: one batch, or several where padding would matter.

        Args:
            model (`transformers.PreTrainedModel`):
                Whose inputs they are.
            rows (`np.ndarray`):
                Which.
        """
        task, encoded = self._task_and_encoded(model)
        chosen = encoded._replace(batches=(rows,))
        if self._padding_matters(task, model, encoded):
            sorted_rows = rows[(-encoded.lengths[rows]).argsort(kind="stable")]
            chosen = of_one_length(encoded._replace(batches=(sorted_rows,)))
        return [encoded.batch_of(batch) for batch in chosen.batches]

    @cached_property
    def _given_metrics(self) -> tuple[Metric, ...]:
        return load_metrics(self.metric)

    @cached_property
    def _preprocessing(self) -> str:
        """A digest of the files that a tokenizer or image processor would save."""
        import xxhash

        if self.processing_class is None:
            return ""
        processing_class = copy.deepcopy(self.processing_class)
        backend = getattr(processing_class, "backend_tokenizer", None)
        if backend is not None:  # how it was used last is saved as well
            backend.no_truncation()
            backend.no_padding()
        with temporary_folder() as folder:
            processing_class.save_pretrained(folder)
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            content = b"".join(path.name.encode() + path.read_bytes() for path in files)
        by_hand = [getattr(self.processing_class, name, None) for name in SET_BY_HAND]
        return xxhash.xxh3_128_hexdigest(content + str(by_hand).encode())

    def _generation(self, task: Task, name: str) -> dict[str, Any] | None:
        """Options of `model.generate`, or `None` where nothing is written."""
        if not self.generate and not any(metric.needs_texts for metric in self.metrics(name)):
            return None
        if not isinstance(task, WritingTask):
            raise EvaluationError(f"models for {name} are not asked to write texts; leave `generate` out.")
        if self.processing_class is None:
            raise DataError("what a model writes is read with its tokenizer: Evaluator(..., processing_class=...).")
        return {} if isinstance(self.generate, bool) else dict(self.generate)

    def _task_and_encoded(self, model: PreTrainedModel) -> tuple[Task, Encoded]:
        task = load_module("task", task_of(model.config, self.task, type(model).__name__))
        return task, self._encoded(task, model)

    def _encoded(self, task: Task, model: PreTrainedModel) -> Encoded:
        """The examples as model inputs and the batches to run them in; made once for each mapping of labels."""
        config, inputs = model.config, inputs_of(model)
        cache = self.__dict__.setdefault("_cache", {})
        key = (task.__name__, tuple(sorted(dict(config.id2label or {}).items())), config.num_labels, inputs)
        if key not in cache:
            cache[key] = encode(
                self.dataset,
                task,
                config,
                inputs,
                processing_class=self.processing_class,
                label_column=self.label_column,
                text_columns=self.text_columns,
                batch_size=self.batch_size,
                split=self.split,
            )
        return cache[key]

    def _padding_matters(self, task: Task, model: PreTrainedModel, encoded: Encoded) -> bool:
        """Whether rows of different lengths have to be run apart; measured once for each architecture."""
        if not needs_padding(encoded):
            return False
        cache = self.__dict__.setdefault("_padding", {})
        key = (type(model), model.config.to_json_string(use_diff=False))
        if key in cache:
            return cache[key]
        check = check_padding(task, model, encoded, put_on_device(model, self.device))
        if check.tells:
            cache[key] = check.matters
        return check.matters


def _check_kind(dataset: Any) -> None:
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


def _only_name(metric: Metric, values: Mapping[str, float]) -> str:
    """What a metric's value is called; of several, the one that is called like the metric."""
    if len(values) == 1:
        return next(iter(values))
    if metric.name not in values:
        raise EvaluationError(
            f"the metric {metric.name!r} gives several values ({', '.join(values)}): name one with select_by=."
        )
    return metric.name
