"""Metrics of answers to questions, each of which may have several right ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import MissingExtraError


ANSWERS = ("squad_exact_match", "squad_f1")


def values_of_answers(name: str, references: Sequence[Sequence[str]], predictions: Sequence[str]) -> list[float]:
    """A metric of SQuAD for each answer, between 0 and 1: the best value among the right answers.

    Articles, punctuation and capital letters do not count.

    Args:
        name (`str`):
            `"squad_exact_match"`, or `"squad_f1"`, which counts the words that both have.
        references (`Sequence[Sequence[str]]`):
            The right answers to each question; an empty text stands for none.
        predictions (`Sequence[str]`):
            Answers of a model.

    Raises:
        [`MissingExtraError`]: if torchmetrics is not installed.

    Source: Rajpurkar et al. 2016, [SQuAD](https://arxiv.org/abs/1606.05250), section 6.1; computed by torchmetrics.
    """
    try:
        from torchmetrics.functional.text import squad
    except ImportError:
        raise MissingExtraError(f"{name} needs torchmetrics: pip install 'hf-soup[torchmetrics]'") from None
    values = []
    for right, answer in zip(references, predictions, strict=True):
        own: dict[str, Any] = {"answers": {"text": [right] if isinstance(right, str) else list(right)}, "id": ""}
        values.append(float(squad({"prediction_text": answer, "id": ""}, own)[name.removeprefix("squad_")]) / 100)
    return values
