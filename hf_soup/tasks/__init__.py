"""Tasks, one file each: they turn columns into model inputs, and model outputs into predictions.

A new task is one new file whose module has the constants and functions of [`Task`], and those of further protocols
where they apply: [`TokensTask`] or [`WritingTask`] if its models predict tokens or write texts, [`ColumnsTask`] if the
data tells it, [`LossTask`] if its models compute no loss, [`CollatorTask`] if they are trained on other batches,
[`WholeTask`] if rows are scored together, and [`SentenceTask`] if sentence-transformers trains its models. No class is
written and nothing is registered: the folder is listed, and files whose names begin with an underscore have functions
that tasks share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ..errors import DataError
from ..plugins import load_module, names
from ._remembered import recall_task, remember_task


if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedModel

    from ..metrics.predictions import Predictions
    from ._model_inputs import ModelInputs

# Types that differ from task to task.
Label = Any  # result of `label_column`: the name of a column, or `None`
Labels = Any  # result of `labels` and argument of `encode`: an array, a list of rows, or `None`
ProcessingClass = Any  # a tokenizer for texts, an image processor for images


class Task(Protocol):
    """The interface of a task: what a module in this folder defines.

    Args:
        AUTO_CLASS (`str` or `tuple[str, ...]`):
            Auto class of the models in transformers, such as `"AutoModelForCausalLM"`, or several of which each model
            has one; or `"SentenceTransformer"`.
        PIPELINE (`str`):
            Name of the task on the Hub.
        METRIC (`str`):
            Name of the default metric, a built-in one.
        KIND (`str`):
            Kind of predictions: one of `hf_soup.metrics.predictions.KINDS`.
        BATCH_SIZE (`int`):
            Default number of examples in a batch.
        EXAMPLE (`dict[str, list]`):
            Columns of a few example rows, on which the contract is tested.
        EXAMPLE_MODEL (`str`):
            The `model_type` of the tiny model for these tests.
        TAKES_ENCODED (`bool`, *optional*, defaults to `True`):
            Whether data may consist of model inputs already; it is left out where it may.
        USE (`str`):
            Code in the card of a soup that runs the model, with `{model}` for its folder or Hub id.
    """

    __name__: str  # the name of the module
    AUTO_CLASS: str | tuple[str, ...]
    PIPELINE: str
    METRIC: str
    KIND: str
    BATCH_SIZE: int
    EXAMPLE: dict[str, list[Any]]
    EXAMPLE_MODEL: str
    USE: str

    def fits(self, config: PretrainedConfig) -> bool:
        """Whether a model with this configuration is for the task. No configuration may fit two tasks."""

    def load_processing_class(self, source: str, revision: str | None = None) -> ProcessingClass:
        """Load the tokenizer or image processor of a checkpoint.

        Raises:
            [`DataError`]: if the checkpoint has none that loads.
        """

    def label_column(self, dataset: Dataset, given: str | None) -> str | None:
        """The name of the label column, or `None` if the inputs are their own labels.

        Args:
            dataset (`datasets.Dataset`):
                Data set with the examples.
            given (`str`, *optional*):
                Name of the column given by the user.

        Raises:
            [`DataError`]: if there is no such column, or its values are no labels for this task.
        """

    def columns(self, dataset: Dataset, given: Sequence[str] | None, label: Label) -> list[str]:
        """The names of the input columns: those given by the user (`given`), or those that are inferred.

        Raises:
            [`DataError`]: if they do not exist, or cannot be inferred.
        """

    def head(self, dataset: Dataset, label: Label) -> dict[str, Any]:
        """Fields of the configuration of a new model for this data, such as `num_labels` and `id2label`."""

    def check_augment(self, augment: Mapping[str, Any], processing_class: ProcessingClass) -> None:
        """Raise an error for unknown augmentations.

        Raises:
            [`RecipeError`]: naming the known augmentations.
        """

    def labels(self, dataset: Dataset, label: Label, config: PretrainedConfig) -> Labels:
        """The labels as indices of the model's classes, with one entry for each row.

        Raises:
            [`DataError`]: if a label is missing, or is not a class of the model.
        """

    def encode(
        self,
        dataset: Dataset,
        processing_class: ProcessingClass,
        columns: Sequence[str],
        labels: Labels,
        inputs: ModelInputs,
    ) -> Dataset:
        """Encode examples as a data set of model inputs and `labels`.

        Args:
            dataset (`datasets.Dataset`):
                Data set with the examples.
            processing_class (`transformers.PreTrainedTokenizerBase` or `transformers.BaseImageProcessor`):
                Tokenizer or image processor of the model.
            columns (`Sequence[str]`):
                Input columns, as returned by `columns`.
            labels (*any*):
                Labels, as returned by `labels`.
            inputs ([`ModelInputs`]):
                Inputs that the model takes; texts are truncated to the number of its positions.

        Raises:
            [`DataError`]: if the processing class or the model does not take the values of a column.
        """

    def augmented(self, encoded: Dataset, augment: Mapping[str, Any], processing_class: ProcessingClass) -> Dataset:
        """The encoded examples with random changes, which are drawn each time that a row is read."""

    def collator(
        self, processing_class: ProcessingClass | None, inputs: ModelInputs
    ) -> Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]:
        """A function that makes a batch from encoded rows, with the columns that the model takes and the labels."""

    def lengths(self, encoded: Dataset) -> list[int] | None:
        """The length of each row, by which rows are sorted before batching; `None` if all have the same size."""

    def forward(
        self, model: PreTrainedModel, batch: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Run a model on one batch, which may be changed in place.

        Returns:
            `tuple[torch.Tensor, torch.Tensor, torch.Tensor]`: logits and labels of the items, as in
            [`hf_soup.metrics.predictions.Predictions`], and the number of items of each row of the batch.
        """


@runtime_checkable
class WritingTask(Task, Protocol):
    """A task whose models give texts, which metrics compare with references."""

    def write(
        self,
        model: PreTrainedModel,
        batch: dict[str, torch.Tensor],
        processing_class: ProcessingClass,
        **options: Any,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[str]]:
        """The outputs of `forward`, and a text for each row; `options` are those of `model.generate`."""

    def references(self, dataset: Dataset, label: Label) -> tuple[str | tuple[str, ...], ...]:
        """The reference text of each row, or several of them.

        Raises:
            [`DataError`]: if the data has tokens instead of texts.
        """


@runtime_checkable
class TokensTask(Task, Protocol):
    """A task with predictions of the kind `"tokens"`."""

    def all_logits(self, model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The logits of all tokens that each item could be, of shape (items, tokens).

        Raises:
            [`EvaluationError`]: if items have no such logits.
        """


@runtime_checkable
class ColumnsTask(Task, Protocol):
    """A task of models that serve several, so that the columns of the data tell it."""

    def fits_columns(self, config: PretrainedConfig, names: Sequence[str]) -> bool:
        """Whether a model with this configuration and data with these columns are for the task."""


@runtime_checkable
class SentenceTask(Task, Protocol):
    """A task whose models are trained by sentence-transformers.

    Args:
        TRAINED_AS (`str`):
            Class of the models there: `"SentenceTransformer"` or `"CrossEncoder"`.
    """

    TRAINED_AS: str

    def training_rows(self, dataset: Dataset, columns: Sequence[str], labels: Labels) -> Dataset:
        """Rows as the losses take them: texts in the order of their columns, and `score` or `label`.

        Args:
            dataset (`datasets.Dataset`), columns (`Sequence[str]`), labels (*any*):
                The arguments of `encode`.

        Raises:
            [`DataError`]: if a text is missing.
        """

    def default_loss(self, rows: Dataset) -> str:
        """The name of the loss for such rows."""


@runtime_checkable
class LossTask(Task, Protocol):
    """A task whose models compute no loss, so that training needs one."""

    def training_loss(self, outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        """The loss of the outputs of a batch, as `Trainer` takes it as `compute_loss_func`."""


@runtime_checkable
class CollatorTask(Task, Protocol):
    """A task whose batches for training differ from those for scores in more than what the model does not take."""

    def training_collator(
        self, processing_class: ProcessingClass, inputs: ModelInputs
    ) -> Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]:
        """A function that makes a batch for training from encoded rows."""


@runtime_checkable
class WholeTask(Task, Protocol):
    """A task whose rows are scored together, from outputs for texts that they share."""

    def finish(
        self, predictions: Predictions, dataset: Dataset, columns: Sequence[str], labels: Labels
    ) -> Predictions:
        """The predictions of all rows, from the outputs of the model.

        Args:
            predictions ([`Predictions`]):
                Outputs in the order of the encoded examples.
            dataset (`datasets.Dataset`), columns (`Sequence[str]`), labels (*any*):
                The arguments of `encode`.
        """


def training_collator(
    task: Task, processing_class: ProcessingClass, inputs: ModelInputs
) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    """A function that makes batches for training, which hold what the model takes alone.

    Args:
        task ([`Task`]):
            A file of this folder.
        processing_class (`transformers.PreTrainedTokenizerBase` or `transformers.BaseImageProcessor`):
            Tokenizer or image processor of the model.
        inputs ([`ModelInputs`]):
            Inputs that the model takes.
    """
    if isinstance(task, CollatorTask):
        return task.training_collator(processing_class, inputs)
    return partial(_model_inputs_alone, collate=task.collator(processing_class, inputs), names=inputs.names)


def _model_inputs_alone(
    rows: list[dict[str, Any]], collate: Callable[[list[dict[str, Any]]], dict[str, Any]], names: frozenset[str]
) -> dict[str, Any]:
    """A batch of rows without what only scores are computed from."""
    return {name: value for name, value in collate(rows).items() if name in names or name == "labels"}


def task_of(
    config: PretrainedConfig | Mapping[str, Any],
    task: str = "auto",
    architecture: str | None = None,
    columns: Sequence[str] = (),
) -> str:
    """The named task, or the one that a model's configuration is for.

    Args:
        config (`transformers.PretrainedConfig` or `Mapping`):
            Tokenizer or image processor of the model.
        task (`str`, *optional*, defaults to `"auto"`):
            Name of the task; `"auto"` infers it.
        architecture (`str`, *optional*):
            Class of the model, if the configuration does not name it.
        columns (`Sequence[str]`, *optional*):
            Columns of the data, which tell tasks of models without a head.

    Raises:
        [`RecipeError`]: if the named task does not exist.
        [`DataError`]: if the configuration fits no task.
    """
    if task != "auto":
        load_module("task", task)
        return task
    if not isinstance(config, Mapping) or architecture is not None or columns:
        return _find_task(config, architecture, columns)
    found = recall_task(config)
    if found is None:
        found = _find_task(config)
        remember_task(config, found)
    return found


def _find_task(
    config: PretrainedConfig | Mapping[str, Any], architecture: str | None = None, columns: Sequence[str] = ()
) -> str:
    """The first task that fits a configuration, with the arguments of [`task_of`]."""
    from transformers import PretrainedConfig

    if isinstance(config, Mapping):
        config = PretrainedConfig.from_dict(dict(config))
    if architecture is not None and config.architectures != [architecture]:
        config = PretrainedConfig.from_dict({**config.to_dict(), "architectures": [architecture]})
    modules: dict[str, Task] = {name: load_module("task", name) for name in names("task")}
    for name, module in modules.items():
        if columns and isinstance(module, ColumnsTask) and module.fits_columns(config, columns):
            return name
    for name, module in modules.items():
        if module.fits(config):
            return name
    class_name = (config.architectures or ["model without an architecture"])[0]
    raise DataError(f"no task fits a {class_name}: give task= as one of {', '.join(names('task'))}.")
