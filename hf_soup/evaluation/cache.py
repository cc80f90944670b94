"""Scores and predictions that are kept between runs, in one file that survives a crash.

What stands for a score is in `Evaluator.key`. Without a file that can be used nothing is kept, and nothing fails.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from ..checkpoints import content
from ..metrics.predictions import ARRAYS, KINDS, Predictions
from ..types import Gradient, Score
from ..value_store import ValueStore
from .evaluator import Outputs


if TYPE_CHECKING:
    import numpy as np

LARGE = 2**25  # bytes of outputs of one trial that are not kept; its score is
T = TypeVar("T")


class Kept(NamedTuple):
    """One line of what is kept.

    Args:
        value_type (`str`):
            `"score"`, `"predictions"`, `"part"` of the predictions of a trial that was stopped, or `"gradient"`.
        about (`str`):
            Of what, in words.
        bytes (`int`):
            Its size.
        created (`float`):
            When, in seconds since 1970.
    """

    value_type: str
    about: str
    bytes: int
    created: float


def cache_file() -> Path:
    """Where scores are kept: below `HF_HOME`."""
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME) / "hf_soup" / "scores.sqlite"


def kept() -> list[Kept]:
    """Everything that is kept, oldest first."""
    return [Kept(entry.value_type, entry.about, entry.bytes, entry.created) for entry in _store().entries()]


def clear() -> int:
    """Delete everything that is kept, and say how many scores, predictions and gradients it was."""
    content.store().clear()
    return _store().clear()


def kept_score(key: str | None) -> Score | None:
    """A score that was kept.

    Args:
        key (`str`, *optional*):
            As `Evaluator.key` gives it; nothing is kept without one.
    """
    value = _read(key) if key else None
    return _understood(_to_score, value) if value else None


def keep_score(key: str | None, score: Score, about: str) -> None:
    """Keep a score."""
    if key:
        _write(key, "score", f"{score} of {about}", json.dumps(asdict(score)).encode())


def kept_gradient(key: str | None) -> Gradient | None:
    """The derivative of a recipe's loss that was kept."""
    value = _read(key) if key else None
    return _understood(_to_gradient, value) if value else None


def keep_gradient(key: str | None, gradient: Gradient, about: str) -> None:
    """Keep a derivative."""
    if key:
        _write(key, "gradient", about, json.dumps(gradient).encode())


def kept_outputs(key: str | None) -> Outputs | None:
    """The predictions of a model, whole or as far as it was run."""
    if not key:
        return None
    values = _store().read([key, _partial_key(key)])  # at one moment: another process may put the whole for the part
    for name, whole in ((key, True), (_partial_key(key), False)):
        unpacked = _understood(_unpack, values[name]) if name in values else None
        if unpacked is not None:
            predictions, rows = unpacked
            return Outputs(predictions, rows, whole)
    return None


def keep_outputs(key: str | None, outputs: Outputs, about: str, *, always: bool = False) -> None:
    """Keep the predictions of a model, unless they are large.

    Args:
        key (`str`, *optional*):
            As `Evaluator.key` gives it; nothing is kept without one.
        outputs ([`Outputs`]):
            What it predicts; of part of the rows that is kept apart, and never taken for whole.
        about (`str`):
            In words.
        always (`bool`, *optional*, defaults to `False`):
            Whether it is kept when it is large, too.
    """
    if key and (always or outputs.predictions.logits.nbytes <= LARGE):
        value_type, name = ("predictions", key) if outputs.whole else ("part", _partial_key(key))
        packed = _pack(outputs.predictions, outputs.rows)
        partial_key = _partial_key(key) if outputs.whole else None
        _store().write(name, value_type, f"{len(outputs.rows)} rows of {about}", packed, instead_of=partial_key)


def _store() -> ValueStore:
    return ValueStore(cache_file(), "scores")


def _partial_key(key: str) -> str:
    return f"{key}:part"


def _read(key: str) -> bytes | None:
    return _store().read([key]).get(key)


def _write(key: str, value_type: str, about: str, value: bytes) -> None:
    _store().write(key, value_type, about, value)


def _understood(read: Callable[[bytes], T], value: bytes) -> T | None:
    """What a value says, or `None` where it is not what is written now."""
    try:
        return read(value)
    except Exception:  # whatever numpy, zip files, JSON or our own types make of it
        return None


def _to_score(value: bytes) -> Score:
    score = Score(**json.loads(value))
    texts = all(isinstance(text, (str, type(None))) for text in (score.split, score.dataset))
    numbers = all(isinstance(number, (int, float)) for number in (score.n or 0, *score.others.values()))
    if not isinstance(score.metric, str) or not texts or not numbers or not isinstance(score.higher_is_better, bool):
        raise ValueError("these are no values of a score")
    return score


def _to_gradient(value: bytes) -> Gradient:
    loss, weights, scale = json.loads(value)
    by_module = {module: tuple(map(float, derivatives)) for module, derivatives in weights.items()}
    return Gradient(float(loss), by_module, float(scale))


def _pack(predictions: Predictions, rows: np.ndarray) -> bytes:
    import numpy as np

    stream = io.BytesIO()
    arrays = {key: getattr(predictions, key) for key in ARRAYS}
    others = {key: value for key, value in predictions._asdict().items() if key not in ARRAYS}
    np.savez(stream, rest=np.array(json.dumps(others)), asked=rows, **arrays)
    return stream.getvalue()


def _unpack(packed: bytes) -> tuple[Predictions, np.ndarray]:
    """What [`_pack`] has packed.

    Raises:
        [`ValueError`]: if the arrays do not go together; other errors if they are none.
    """
    import numpy as np

    with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
        others = json.loads(str(arrays["rest"]))
        for key, value in others.items():
            if isinstance(value, list):
                others[key] = tuple(value)
        predictions = Predictions(**{key: arrays[key] for key in ARRAYS}, **others)
        rows = arrays["asked"]
    whole_numbers = predictions.rows.dtype.kind == rows.dtype.kind == "i" and predictions.rows.ndim == rows.ndim == 1
    alike_lengths = len(predictions.logits) == len(predictions.labels) == len(predictions.rows)
    numbers = predictions.logits.dtype.kind == "f" and predictions.labels.dtype.kind in "iufb"
    if not (whole_numbers and alike_lengths and numbers and predictions.kind in KINDS):
        raise ValueError("these arrays do not go together")
    return predictions, rows
