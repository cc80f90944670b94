"""Values that all runs of a sweep share: data, task, settings. They can be sent to another process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from datasets import Dataset

    from ..metrics.load import Given


@dataclass(frozen=True)
class SweepContext:
    """Values that all runs of a sweep share.

    Args:
        folder (`Path`):
            Folder of the sweep; every run starts from `start/` in it.
        task (`str`):
            Name of the task, a module of `hf_soup.tasks`.
        processing_class:
            The tokenizer or image processor.
        train (`Dataset`), validation (`Dataset`, *optional*):
            Encoded examples; texts for models of sentence-transformers.
        metric (`str`, `Callable` or `evaluate.EvaluationModule`):
            Metric that determines the best evaluation, as the user gave it, so that it can be sent to other processes.
        higher_is_better (`bool`, *optional*):
            Direction of the metric, if the user gave one.
        training_args (`Mapping`):
            Settings that all runs share.
        keep (`str`):
            Checkpoints to keep: `"best"`, `"last"` or `"all"`.
        own_heads (`bool`):
            Whether each run initialises its own head.
        about (`Mapping`):
            Description of base model and data for `run.json`.
        base_card (`Mapping`):
            Metadata of the base model's card, such as licence and languages.
        bars (`bool`, *optional*, defaults to `True`):
            Whether Trainer's progress bar is shown.
        callbacks (`tuple`, *optional*):
            Callbacks of the user, of which each run has a copy.
        halves (`bool`, *optional*, defaults to `False`):
            Whether successive halving stops runs.
        label_column (`str`, *optional*), text_columns (`Sequence[str]`, *optional*):
            Columns of validation examples that are not encoded, as the user named them.
    """

    folder: Path
    task: str
    processing_class: Any
    train: Dataset
    validation: Dataset | None
    metric: Given
    higher_is_better: bool | None
    training_args: Mapping[str, Any]
    keep: str
    own_heads: bool
    about: Mapping[str, Any]
    base_card: Mapping[str, Any]
    bars: bool = True
    callbacks: tuple[Any, ...] = ()
    halves: bool = False
    label_column: str | None = None
    text_columns: Sequence[str] | None = None

    @property
    def setup(self) -> dict[str, Any]:
        """What determines runs and their scores besides base model, data and settings, for `run.json`."""
        return {
            "task": self.task,
            "metric": self.metric if isinstance(self.metric, str) else getattr(self.metric, "__name__", "metric"),
            "higher_is_better": self.higher_is_better,
            "keep": self.keep,
            "own_heads": self.own_heads,
            "label_column": self.label_column,
            "text_columns": list(self.text_columns) if self.text_columns is not None else None,
        }
