"""What all runs of a sweep share: data, task, settings. It is only a value, and can be sent to another process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class SweepContext:
    """What all runs of a sweep share.

    Args:
        folder (`Path`):
            The folder of the sweep; every run starts from `start/` in it.
        task (`str`):
            Name of a file of `hf_soup.tasks`.
        processing_class:
            The tokenizer or image processor.
        train (`Dataset`), validation (`Dataset`, *optional*):
            The examples, encoded.
        metric (`str`):
            The metric that decides which evaluation is the best.
        training_args (`Mapping`):
            Settings that all runs have.
        keep (`str`):
            `"best"`, `"last"` or `"all"`.
        own_heads (`bool`):
            Whether each run draws a head of its own.
        about (`Mapping`):
            For `run.json`: base model and data.
        base_card (`Mapping`):
            The metadata of the base model's card: licence, languages.
        bars (`bool`, *optional*, defaults to `True`):
            Whether Trainer's bar is shown.
        callbacks (`tuple`, *optional*):
            The user's callbacks, of which each run has a copy.
    """

    folder: Path
    task: str
    processing_class: Any
    train: Dataset
    validation: Dataset | None
    metric: str
    training_args: Mapping[str, Any]
    keep: str
    own_heads: bool
    about: Mapping[str, Any]
    base_card: Mapping[str, Any]
    bars: bool = True
    callbacks: tuple[Any, ...] = ()
