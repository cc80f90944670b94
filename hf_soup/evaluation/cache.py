"""The cache of scores and predictions, one file that survives crashes.

`Evaluator.key` makes the keys. If the file cannot be used, nothing is kept and nothing fails.
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
from .outputs import Outputs


if TYPE_CHECKING:
    import numpy as np

LARGE = 2**25  # bytes above which the outputs of a trial are not kept; its score is
T = TypeVar("T")


class Kept(NamedTuple):
    """One entry of the cache.

    Args:
        value_type (`str`):
            Type of the entry: `"score"`, `"predictions"`, `"part"` for predictions of a stopped trial, or
            `"gradient"`.
        about (`str`):
            Description of what the entry belongs to.
        bytes (`int`):
            Size of the entry.
        created (`float`):
            Time of creation, in seconds since 1970.
    """

    value_type: str
    about: str
    bytes: int
    created: float


def cache_file() -> Path:
    """Path of the cache, below `HF_HOME`."""
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME) / "hf_soup" / "scores.sqlite"


def kept() -> list[Kept]:
    """All entries of the cache, oldest first."""
    return [Kept(entry.value_type, entry.about, entry.bytes, entry.created) for entry in _store().entries()]


def clear() -> int:
    """Delete all entries of the cache, and return their number."""
    content.store().clear()
    return _store().clear()


def kept_score(key: str | None) -> Score | None:
    """A score from the cache.

    Args:
        key (`str`, *optional*):
            Key made by `Evaluator.key`; without one nothing is kept.
    """
    return _recall(key, _to_score)


def keep_score(key: str | None, score: Score, about: str) -> None:
    """Keep a score."""
    if key:
        _write(key, "score", f"{score} of {about}", json.dumps(asdict(score)).encode())


def kept_gradient(key: str | None) -> Gradient | None:
    """The gradient of a recipe's loss from the cache."""
    return _recall(key, _to_gradient)


def keep_gradient(key: str | None, gradient: Gradient, about: str) -> None:
    """Keep a gradient."""
    if key:
        _write(key, "gradient", about, json.dumps(gradient).encode())


def kept_outputs(key: str | None) -> Outputs | None:
    """The predictions of a model from the cache, complete or for the rows that were run."""
    if not key:
        return None
    values = _store().read([key, _partial_key(key)])  # read together: another process may replace the part
    for name, whole in ((key, True), (_partial_key(key), False)):
        if name not in values:
            continue
        unpacked = _understood(_unpack, values[name])
        if unpacked is not None:
            predictions, rows = unpacked
            return Outputs(predictions, rows, whole)
    return None


def keep_outputs(key: str | None, outputs: Outputs, about: str, *, always: bool = False) -> None:
    """Keep the predictions of a model, unless they are large.

    Args:
        key (`str`, *optional*):
            Key made by `Evaluator.key`; without one nothing is kept.
        outputs ([`Outputs`]):
            Predictions. Those for a part of the rows are kept separately, and never mistaken for complete ones.
        about (`str`):
            Description of the entry.
        always (`bool`, *optional*, defaults to `False`):
            Whether large predictions are kept too.
    """
    is_large = outputs.predictions.logits.nbytes > LARGE
    if not key or (is_large and not always):
        return
    packed = _pack(outputs.predictions, outputs.rows)
    about_rows = f"{len(outputs.rows)} rows of {about}"
    if outputs.whole:
        _store().write(key, "predictions", about_rows, packed, instead_of=_partial_key(key))
    else:
        _store().write(_partial_key(key), "part", about_rows, packed)


def _store() -> ValueStore:
    """The store in the file; it is opened for each use."""
    return ValueStore(cache_file(), "scores")


def _partial_key(key: str) -> str:
    """The key of incomplete predictions."""
    return f"{key}:part"


def _recall(key: str | None, read: Callable[[bytes], T]) -> T | None:
    """An entry, converted by a function; `None` if there is none, or if it has another format."""
    value = _read(key) if key else None
    if not value:
        return None
    return _understood(read, value)


def _read(key: str) -> bytes | None:
    """The bytes of an entry."""
    return _store().read([key]).get(key)


def _write(key: str, value_type: str, about: str, value: bytes) -> None:
    """Write an entry, replacing an existing one."""
    _store().write(key, value_type, about, value)


def _understood(read: Callable[[bytes], T], value: bytes) -> T | None:
    """A converted value, or `None` if it has another format."""
    try:
        return read(value)
    except Exception:  # numpy, zip files, JSON or the types of hf_soup may raise anything
        return None


def _to_score(value: bytes) -> Score:
    """A score from JSON.

    Raises:
        [`ValueError`]: if a field has the wrong type; other errors if the value is no score at all.
    """
    score = Score(**json.loads(value))
    are_texts = all(isinstance(text, (str, type(None))) for text in (score.split, score.dataset))
    are_numbers = all(isinstance(number, (int, float)) for number in (score.n or 0, *score.others.values()))
    has_types = are_texts and are_numbers and isinstance(score.higher_is_better, bool)
    if not isinstance(score.metric, str) or not has_types:
        raise ValueError("these are no values of a score")
    return score


def _to_gradient(value: bytes) -> Gradient:
    """A gradient from JSON; any error is raised if the value is none."""
    loss, weights, scale = json.loads(value)
    by_module = {module: tuple(map(float, derivatives)) for module, derivatives in weights.items()}
    return Gradient(float(loss), by_module, float(scale))


def _pack(predictions: Predictions, rows: np.ndarray) -> bytes:
    """Predictions as a zip file of numpy arrays, with all other values as one JSON text."""
    import numpy as np

    stream = io.BytesIO()
    arrays = {key: getattr(predictions, key) for key in ARRAYS}
    others = {key: value for key, value in predictions._asdict().items() if key not in ARRAYS}
    np.savez(stream, rest=np.array(json.dumps(others)), asked=rows, **arrays)
    return stream.getvalue()


def _unpack(packed: bytes) -> tuple[Predictions, np.ndarray]:
    """Unpack the result of [`_pack`].

    Raises:
        [`ValueError`]: if the arrays do not fit together; other errors if they are no arrays.
    """
    import numpy as np

    # Without pickles, which would run code: those who can write the file need not be trusted that far.
    with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
        others = json.loads(str(arrays["rest"]))
        for key, value in others.items():
            if isinstance(value, list):  # JSON has no tuples
                others[key] = tuple(value)
        predictions = Predictions(**{key: arrays[key] for key in ARRAYS}, **others)
        rows = arrays["asked"]
    if not _go_together(predictions, rows):
        raise ValueError("these arrays do not go together")
    return predictions, rows


def _go_together(predictions: Predictions, rows: np.ndarray) -> bool:
    """Whether arrays have matching types and lengths for predictions and their rows."""
    for row_numbers in (predictions.rows, rows):
        if row_numbers.dtype.kind != "i" or row_numbers.ndim != 1:
            return False
    if predictions.logits.dtype.kind != "f" or predictions.labels.dtype.kind not in "iufb":
        return False
    if predictions.kind not in KINDS:
        return False
    return len(predictions.logits) == len(predictions.labels) == len(predictions.rows)
