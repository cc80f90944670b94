"""Scores and predictions that are kept between runs, in one sqlite3 file that survives a crash.

What stands for a score is in `Evaluator.key`. Without a file that can be written nothing is kept, and nothing fails.
"""

from __future__ import annotations

import io
import json
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import SoupWarning
from ..outputs import ARRAYS, Predictions
from ..types import Gradient, Score
from .evaluator import Evaluator, Outputs


if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel

LARGE = 2**25  # bytes of outputs of one trial that are not kept; its score is
PATIENCE = 60  # seconds to wait for another process that writes


class Kept(NamedTuple):
    """One line of what is kept.

    Args:
        kind (`str`):
            `"score"`, `"predictions"`, `"part"` of the predictions of a trial that was stopped, or `"gradient"`.
        about (`str`):
            Of what, in words.
        bytes (`int`):
            Its size.
        created (`float`):
            When, in seconds since 1970.
    """

    kind: str
    about: str
    bytes: int
    created: float


def cache_file() -> Path:
    """Where scores are kept: below `HF_HOME`."""
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME) / "hf_soup" / "scores.sqlite"


def kept() -> list[Kept]:
    """Everything that is kept, oldest first."""
    with _database() as database:
        found = database and database.execute(
            "SELECT kind, about, length(value), created FROM kept ORDER BY created, key"
        )
        return [Kept(*row) for row in found or ()]
    return []


def clear() -> int:
    """Delete everything that is kept, and say how much it was."""
    with _database() as database:
        if database is None:
            return 0
        n = database.execute("DELETE FROM kept").rowcount
        database.commit()
        database.execute("VACUUM")
        return n
    return 0


def kept_score(key: str | None) -> Score | None:
    """A score that was kept.

    Args:
        key (`str`, *optional*):
            As `Evaluator.key` gives it; nothing is kept without one.
    """
    found = key and _read(key)
    return Score(**json.loads(found)) if found else None


def keep_score(key: str | None, score: Score, about: str) -> None:
    """Keep a score."""
    if key:
        _write(key, "score", f"{score} of {about}", json.dumps(asdict(score)).encode())


def kept_gradient(key: str | None) -> Gradient | None:
    """The derivative of a recipe's loss that was kept."""
    found = key and _read(key)
    if not found:
        return None
    loss, weights, scale = json.loads(found)
    return Gradient(loss, {module: tuple(row) for module, row in weights.items()}, scale)


def keep_gradient(key: str | None, gradient: Gradient, about: str) -> None:
    """Keep a derivative."""
    if key:
        _write(key, "gradient", about, json.dumps(gradient).encode())


def kept_outputs(key: str | None) -> Outputs | None:
    """What a model said, whole or as far as it was run."""
    for name, whole in ((key, True), (f"{key}:part", False)) if key else ():
        found = _read(name)
        if found:
            said, asked = _unpack(found)
            return Outputs(said, asked, whole)
    return None


def keep_outputs(key: str | None, outputs: Outputs, about: str, *, always: bool = False) -> None:
    """Keep what a model said, unless it is large.

    Args:
        key (`str`, *optional*):
            As `Evaluator.key` gives it; nothing is kept without one.
        outputs ([`Outputs`]):
            What it said; of part of the rows it is kept apart, and never taken for whole.
        about (`str`):
            In words.
        always (`bool`, *optional*, defaults to `False`):
            Whether it is kept when it is large, too.
    """
    if key and (always or outputs.said.logits.nbytes <= LARGE):
        kind, name = ("predictions", key) if outputs.whole else ("part", f"{key}:part")
        _write(name, kind, f"{len(outputs.asked)} rows of {about}", _pack(outputs.said, outputs.asked))
        if outputs.whole:
            _delete(f"{key}:part")


def cached_predictions(
    evaluator: Evaluator, fingerprint: str | None, task: str, load: Callable[[], PreTrainedModel]
) -> Predictions:
    """The predictions of one model, from the cache or by running it.

    Args:
        evaluator ([`Evaluator`]):
            The examples.
        fingerprint (`str`, *optional*):
            Of the model's recipe; `None` where it may not be kept.
        task (`str`):
            What the model does.
        load (`Callable[[], PreTrainedModel]`):
            Gives the model, if it has to be run.
    """
    key = None if fingerprint is None else evaluator.key(fingerprint, task, scores=False)
    found = kept_outputs(key)
    if found is not None and found.whole:
        return found.said
    outputs = evaluator.run(load())
    keep_outputs(key, outputs, evaluator.path or evaluator.split, always=True)
    return outputs.said


def _read(key: str) -> bytes | None:
    with _database() as database:
        row = database and database.execute("SELECT value FROM kept WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None


def _write(key: str, kind: str, about: str, value: bytes) -> None:
    with _database() as database:
        if database is not None:
            database.execute(
                "INSERT OR REPLACE INTO kept VALUES (?, ?, ?, ?, ?)", (key, kind, about, value, time.time())
            )
            database.commit()


def _delete(key: str) -> None:
    with _database() as database:
        if database is not None:
            database.execute("DELETE FROM kept WHERE key = ?", (key,))
            database.commit()


@contextmanager
def _database() -> Iterator[sqlite3.Connection | None]:
    """The open file, or `None` where there can be none; a file that is no database is set aside."""
    path = cache_file()
    try:
        database = _open(path)
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):  # no room, no permission, locked for long
            _warn(path, error)
            yield None
            return
        try:
            path.replace(path.with_suffix(".broken"))
            database = _open(path)
        except (OSError, sqlite3.Error) as other:
            _warn(path, other)
            yield None
            return
        warnings.warn(
            f"{path} was no database ({error}); it is called {path.stem}.broken now.", SoupWarning, stacklevel=5
        )
    except OSError as error:
        _warn(path, error)
        yield None
        return
    with closing(database):
        try:
            yield database
        except sqlite3.DatabaseError as error:
            _warn(path, error)


def _warn(path: Path, error: Exception) -> None:
    warnings.warn(f"scores are not kept in {path}: {error}.", SoupWarning, stacklevel=6)


def _open(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(path, timeout=PATIENCE)
    try:
        database.execute(
            "CREATE TABLE IF NOT EXISTS kept (key TEXT PRIMARY KEY, kind TEXT, about TEXT, value BLOB, created REAL)"
        )
    except sqlite3.Error:
        database.close()
        raise
    return database


def _pack(said: Predictions, asked: np.ndarray) -> bytes:
    import numpy as np

    stream = io.BytesIO()
    rest: dict[str, Any] = {key: value for key, value in said._asdict().items() if key not in ARRAYS}
    np.savez(stream, rest=np.array(json.dumps(rest)), asked=asked, **{key: getattr(said, key) for key in ARRAYS})
    return stream.getvalue()


def _unpack(packed: bytes) -> tuple[Predictions, np.ndarray]:
    import numpy as np

    with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
        rest = json.loads(str(arrays["rest"]))
        rest = {key: tuple(value) if isinstance(value, list) else value for key, value in rest.items()}
        return Predictions(**{key: arrays[key] for key in ARRAYS}, **rest), arrays["asked"]
