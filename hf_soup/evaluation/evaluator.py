"""A model on a data set: logits, and from them a score. One evaluator holds one set of examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from tqdm.auto import tqdm

from ..data import Rows, hash_rows, label_column, label_ids, load_data
from ..errors import DataError
from ..lookup import load_module, names
from ..metrics import load_metric
from ..types import Score


if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from transformers import PreTrainedModel


class Predictions(NamedTuple):
    """What a model said.

    Args:
        logits (`np.ndarray` of shape `(examples, classes)`, float32):
            In the order of the data set.
        labels (`np.ndarray` of shape `(examples,)`, int64):
            The right classes, as the model counts them.
    """

    logits: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Evaluator:
    """Scores models on one set of examples.

    Args:
        dataset (`datasets.Dataset` or `str`):
            The examples, or where they are: a Hub id, a folder with files named for their split, or
            `package.module:function`.
        task (`str`, *optional*, defaults to `"auto"`):
            `"text-classification"` or `"image-classification"`; `"auto"` reads it off the model's architecture.
        metric (`str`, *optional*):
            The task's own by default.
        processing_class (*optional*):
            The tokenizer or image processor; by default that of the ingredients.
        split (`str`, *optional*, defaults to `"validation"`):
            Which part of the data this is; for a path also what is loaded (`"train[:1000]"` works).
        batch_size (`int`, *optional*, defaults to 64):
            Examples at a time.
        device (`str`, *optional*, defaults to `"auto"`):
            `"auto"` takes a GPU where there is one.
        label_column (`str`, *optional*):
            By default `label` or `labels`.
        text_columns (`Sequence[str]`, *optional*):
            By default every column of strings.
        path (`str`, *optional*):
            What recipes call the data; where it came from by default.

    Raises:
        [`DataError`]: if the data is not there or is empty.
    """

    dataset: Dataset
    task: str = "auto"
    metric: str | None = None
    processing_class: Any = None
    split: str = "validation"
    batch_size: int = 64
    device: str = "auto"
    label_column: str | None = None
    text_columns: Sequence[str] | None = None
    path: str | None = None

    def __post_init__(self):
        if isinstance(self.dataset, str):
            object.__setattr__(self, "path", self.dataset)
            object.__setattr__(self, "dataset", load_data(self.dataset, split=self.split))
        if not len(self.dataset):
            raise DataError(f"the data set for {self.split} is empty.")

    def __call__(self, model: PreTrainedModel) -> Score:
        """Score a model.

        Args:
            model (`transformers.PreTrainedModel`):
                It is put into evaluation mode and moved to the evaluator's device.

        Returns:
            [`Score`]
        """
        return self.score(self.predict(model), task_of(type(model).__name__, self.task))

    def score(self, predictions: Predictions, task: str) -> Score:
        """The score of predictions that were made already."""
        name = self.metric or load_module("task", task).METRIC
        return Score(name, self.compute(predictions, name), True, self.split, self.rows.fingerprint, len(self.dataset))

    def compute(self, predictions: Predictions, metric: str) -> float:
        """The value of one metric."""
        classes = predictions.logits.argmax(axis=1)
        return load_metric(metric).compute(predictions=classes, references=predictions.labels)[metric]

    def predict(self, model: PreTrainedModel) -> Predictions:
        """Run a model over the data, longest examples first so that a batch pads little.

        Args:
            model (`transformers.PreTrainedModel`):
                With the task's head.

        Returns:
            [`Predictions`]: in the order of the data set.

        Raises:
            [`DataError`]: if columns are missing or labels are no classes of the model.
        """
        import numpy as np
        import torch

        task = load_module("task", task_of(type(model).__name__, self.task))
        encoded, order = self._encoded(task, model)
        collate = task.collator(self._processing_class(task))
        device = self.device if self.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        model = model.to(device).eval()
        parts = []
        with torch.inference_mode():
            for start in tqdm(
                range(0, len(order), self.batch_size), desc="Predicting", unit="batch", leave=False, delay=2
            ):
                chosen = order[start : start + self.batch_size]
                batch = collate(encoded.__getitems__(chosen.tolist()))
                labels = batch.pop("labels")
                logits = model(**{key: value.to(device) for key, value in batch.items()}).logits
                parts.append((logits.float().cpu().numpy(), labels.numpy()))
        back = np.argsort(order)
        logits, labels = (np.concatenate(column)[back] for column in zip(*parts, strict=True))
        return Predictions(logits, labels)

    @cached_property
    def rows(self) -> Rows:
        """Hashes of the content of the data."""
        return hash_rows(self.dataset)

    def described(self) -> dict[str, Any]:
        """What a recipe records of the data."""
        return {"path": self.path, "fingerprint": self.rows.fingerprint, "rows": len(self.dataset)}

    def with_processing_class(self, source: str | None, task: str) -> Evaluator:
        """The same evaluator with the tokenizer or image processor of a checkpoint, unless it has one."""
        if self.processing_class is not None or source is None:
            return self
        return replace(self, processing_class=load_module("task", task).load_processing_class(source))

    def _processing_class(self, task: ModuleType) -> Any:
        if self.processing_class is None:
            raise DataError(
                "the evaluator has no tokenizer or image processor: pass Evaluator(..., processing_class=...)."
            )
        return self.processing_class

    def _encoded(self, task: ModuleType, model: PreTrainedModel) -> tuple[Dataset, np.ndarray]:
        """The examples as model inputs and the order to run them in; made once for each mapping of labels."""
        import numpy as np

        id2label = dict(model.config.id2label)
        cache = self.__dict__.setdefault("_cache", {})
        key = (task.__name__, tuple(sorted(id2label.items())))
        if key not in cache:
            label = label_column(self.dataset, self.label_column)
            columns = task.columns(self.dataset, self.text_columns, label)
            ids = label_ids(self.dataset, label, id2label)
            encoded = task.encode(self.dataset, self._processing_class(task), columns, ids)
            lengths = task.lengths(encoded)
            order = np.arange(len(ids)) if lengths is None else np.argsort(-np.asarray(lengths), kind="stable")
            cache[key] = (encoded, order)
        return cache[key]


def task_of(architecture: str, task: str = "auto") -> str:
    """The task that was named, or the one that a model's architecture ends in.

    Raises:
        [`RecipeError`]: if there is no task of that name.
        [`DataError`]: if the architecture fits none.
    """
    if task != "auto":
        load_module("task", task)
        return task
    for name in names("task"):
        if architecture.endswith(load_module("task", name).ARCHITECTURE):
            return name
    raise DataError(f"no task fits a {architecture}: give task= as one of {', '.join(names('task'))}.")
