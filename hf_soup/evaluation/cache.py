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

from ..outputs import Predictions
from ..types import Score
from .evaluator import Evaluator


if TYPE_CHECKING:
    from transformers import PreTrainedModel

ARRAYS = ("logits", "labels", "rows")
PATIENCE = 60  # seconds to wait for another process that writes


class Kept(NamedTuple):
    """One line of what is kept.

    Args:
        kind (`str`):
            `"score"` or `"predictions"`.
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


def cached_score(
    evaluator: Evaluator, fingerprint: str | None, task: str, load: Callable[[], PreTrainedModel], *, single: bool
) -> Score:
    """The score of one model, from the cache or by running it.

    Args:
        evaluator ([`Evaluator`]):
            The examples and the metrics.
        fingerprint (`str`, *optional*):
            Of the model's recipe; `None` where it may not be kept.
        task (`str`):
            What the model does.
        load (`Callable[[], PreTrainedModel]`):
            Gives the model, if it has to be run.
        single (`bool`):
            Whether it is an ingredient alone, whose predictions are kept as well.
    """
    key = None if fingerprint is None else evaluator.key(fingerprint, task, scores=True)
    found = key and _read(key)
    if found:
        return Score(**json.loads(found))
    said = cached_predictions(evaluator, fingerprint, task, load) if single else evaluator.predict(load())
    score = evaluator.score(said, task)
    if key:
        _write(key, "score", f"{score} on {evaluator.path or evaluator.split}", json.dumps(asdict(score)).encode())
    return score


def cached_predictions(
    evaluator: Evaluator, fingerprint: str | None, task: str, load: Callable[[], PreTrainedModel]
) -> Predictions:
    """The predictions of one model, from the cache or by running it; arguments as of [`cached_score`]."""
    key = None if fingerprint is None else evaluator.key(fingerprint, task, scores=False)
    found = key and _read(key)
    if found:
        return _unpack(found)
    said = evaluator.predict(load())
    if key:
        about = f"{len(said.rows)} {said.kind} of {evaluator.path or evaluator.split}"
        _write(key, "predictions", about, _pack(said))
    return said


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
        warnings.warn(f"{path} was no database ({error}); it is called {path.stem}.broken now.", stacklevel=5)
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
    warnings.warn(f"scores are not kept in {path}: {error}.", stacklevel=6)


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


def _pack(said: Predictions) -> bytes:
    import numpy as np

    stream = io.BytesIO()
    rest: dict[str, Any] = {key: value for key, value in said._asdict().items() if key not in ARRAYS}
    np.savez(stream, rest=np.array(json.dumps(rest)), **{key: getattr(said, key) for key in ARRAYS})
    return stream.getvalue()


def _unpack(packed: bytes) -> Predictions:
    import numpy as np

    with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
        rest = json.loads(str(arrays["rest"]))
        rest = {key: tuple(value) if isinstance(value, list) else value for key, value in rest.items()}
        return Predictions(**{key: arrays[key] for key in ARRAYS}, **rest)
