"""Tasks: from columns to what a model takes, and from what it gives to predictions. One file each.

A new task is one new file whose module has the constants and functions of [`Task`]; one whose models write texts has
those of [`WritingTask`] as well. There is no class to write and nothing to register: the folder is listed, and files
whose names begin with an underscore hold what tasks share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ..errors import DataError
from ..plugins import load_module, names


if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedModel

    from ._model_inputs import ModelInputs

# What differs from task to task, so that no type fits all of them.
Label = Any  # what `label_column` returns: the name of a column, or `None`
Labels = Any  # what `labels` returns, and `encode` takes: an array, a list of rows, or `None`
ProcessingClass = Any  # a tokenizer for texts, an image processor for images


class Task(Protocol):
    """What a file of this folder defines, at the level of its module.

    Args:
        AUTO_CLASS (`str`):
            Its class in transformers, such as `"AutoModelForCausalLM"`.
        PIPELINE (`str`):
            What the Hub calls the task.
        METRIC (`str`):
            The built-in metric that selects by default.
        KIND (`str`):
            What its models give: one of `hf_soup.metrics.predictions.KINDS`.
        BATCH_SIZE (`int`):
            Examples at a time, by default.
        EXAMPLE (`dict[str, list]`):
            Columns of a few rows, on which the contract is tested.
        EXAMPLE_MODEL (`str`):
            The `model_type` of the tiny model for that.
        USE (`str`):
            What the card of a soup says on how to run it, with `{model}` for its folder or Hub id.
    """

    __name__: str  # as every module has it
    AUTO_CLASS: str
    PIPELINE: str
    METRIC: str
    KIND: str
    BATCH_SIZE: int
    EXAMPLE: dict[str, list[Any]]
    EXAMPLE_MODEL: str
    USE: str

    def fits(self, config: PretrainedConfig) -> bool:
        """Whether a model with this configuration does the task. No configuration may fit two tasks."""

    def load_processing_class(self, source: str, revision: str | None = None) -> ProcessingClass:
        """The tokenizer or image processor that belongs to a checkpoint.

        Raises:
            [`DataError`]: if it has none that loads.
        """

    def label_column(self, dataset: Dataset, given: str | None) -> str | None:
        """The column with the right answers, or `None` where the inputs are the answers themselves.

        Args:
            dataset (`datasets.Dataset`):
                The examples.
            given (`str`, *optional*):
                The column that the user named.

        Raises:
            [`DataError`]: if there is none, or it does not hold answers for this task.
        """

    def columns(self, dataset: Dataset, given: Sequence[str] | None, label: Label) -> list[str]:
        """The input columns: those that the user named (`given`), or those that can be meant.

        Raises:
            [`DataError`]: if they are not there, or cannot be told.
        """

    def head(self, dataset: Dataset, label: Label) -> dict[str, Any]:
        """Fields of the configuration of a new model for such data, such as `num_labels` and `id2label`."""

    def check_augment(self, augment: Mapping[str, Any], processing_class: ProcessingClass) -> None:
        """Refuse what is no augmentation of the inputs.

        Raises:
            [`RecipeError`]: naming what is.
        """

    def labels(self, dataset: Dataset, label: Label, config: PretrainedConfig) -> Labels:
        """The right answers as the model counts them, one entry for each row.

        Raises:
            [`DataError`]: if one is missing, or is none of the model's classes.
        """

    def encode(
        self,
        dataset: Dataset,
        processing_class: ProcessingClass,
        columns: Sequence[str],
        labels: Labels,
        inputs: ModelInputs,
    ) -> Dataset:
        """A data set of model inputs and `labels`.

        Args:
            dataset (`datasets.Dataset`):
                The examples.
            processing_class (`transformers.PreTrainedTokenizerBase` or `transformers.BaseImageProcessor`):
                Of the model.
            columns (`Sequence[str]`):
                What `columns` returned.
            labels (*any*):
                What `labels` returned.
            inputs ([`ModelInputs`]):
                What the model takes; texts are cut to the number of its positions.

        Raises:
            [`DataError`]: if the columns hold what the processing class or the model does not take.
        """

    def augmented(self, encoded: Dataset, augment: Mapping[str, Any], processing_class: ProcessingClass) -> Dataset:
        """The encoded examples, changed at random each time that a row is read."""

    def collator(
        self, processing_class: ProcessingClass | None, inputs: ModelInputs
    ) -> Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]:
        """A function that makes a batch of encoded rows, with the columns that the model takes and the labels."""

    def lengths(self, encoded: Dataset) -> list[int] | None:
        """The length of each row, by which they are sorted before batching; `None` where all have one size."""

    def forward(
        self, model: PreTrainedModel, batch: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Run a model on one batch, which the function may change.

        Returns:
            `tuple[torch.Tensor, torch.Tensor, torch.Tensor]`: logits and labels of the items as
            [`hf_soup.metrics.predictions.Predictions`] has them, and the number of items of each row of the batch.
        """


@runtime_checkable
class WritingTask(Task, Protocol):
    """A task whose models can be asked to write texts, which metrics of texts compare with the right ones."""

    def generate(
        self,
        model: PreTrainedModel,
        batch: dict[str, torch.Tensor],
        processing_class: ProcessingClass,
        **options: Any,
    ) -> list[str]:
        """The text that the model writes for each row; `options` are those of `model.generate`."""

    def references(self, dataset: Dataset, label: Label) -> tuple[str, ...]:
        """The right text of each row.

        Raises:
            [`DataError`]: if the data has tokens instead of texts.
        """


def task_of(config: PretrainedConfig | Mapping[str, Any], task: str = "auto", architecture: str | None = None) -> str:
    """The task that was named, or the one that a model's configuration is for.

    Args:
        config (`transformers.PretrainedConfig` or `Mapping`):
            Of the model.
        task (`str`, *optional*, defaults to `"auto"`):
            What was named.
        architecture (`str`, *optional*):
            The model's class, where the configuration does not name it.

    Raises:
        [`RecipeError`]: if there is no task of that name.
        [`DataError`]: if the configuration fits none.
    """
    if task != "auto":
        load_module("task", task)
        return task
    from transformers import PretrainedConfig

    if isinstance(config, Mapping):
        config = PretrainedConfig.from_dict(dict(config))
    if architecture is not None and config.architectures != [architecture]:
        config = PretrainedConfig.from_dict({**config.to_dict(), "architectures": [architecture]})
    for name in names("task"):
        if load_module("task", name).fits(config):
            return name
    class_name = (config.architectures or ["model without an architecture"])[0]
    raise DataError(f"no task fits a {class_name}: give task= as one of {', '.join(names('task'))}.")
