"""Helpers for tests of hf_soup and its extensions: tiny checkpoints, trials without models, and contracts."""

from .fake_trials import FakeTrials
from .method_contract import check_method
from .strategy_contract import check_strategy
from .task_contract import check_task
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
    tiny_sentence_model,
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
    "tiny_sentence_model",
    "tiny_text_model",
    "tiny_texts",
]
