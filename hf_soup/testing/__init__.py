"""Helpers for tests of hf_soup and its extensions: tiny checkpoints, trials without models, and contracts."""

from .contracts import check_method, check_strategy, check_task
from .fake_trials import FakeTrials
from .tiny import (
    BART,
    NEGATIVE,
    NEUTRAL,
    POSITIVE,
    SMALL,
    SPECIAL,
    TINY,
    WORDS,
    example_of,
    model_for,
    save_image_model,
    save_model_for,
    save_text_model,
    tiny_image_model,
    tiny_images,
    tiny_text_model,
    tiny_texts,
)


__all__ = [
    "BART",
    "NEGATIVE",
    "NEUTRAL",
    "POSITIVE",
    "SMALL",
    "SPECIAL",
    "TINY",
    "WORDS",
    "FakeTrials",
    "check_method",
    "check_strategy",
    "check_task",
    "example_of",
    "model_for",
    "save_image_model",
    "save_model_for",
    "save_text_model",
    "tiny_image_model",
    "tiny_images",
    "tiny_text_model",
    "tiny_texts",
]
