"""Values by key in one sqlite3 file that outlives the process, and that may be damaged, newer, full or read-only.

Nothing here fails: what cannot be read is not there, what cannot be written is not kept, and either is said once. It
does not know what the values are.
"""

from __future__ import annotations

import contextlib
import math
import os
import sqlite3
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from .errors import warn


VERSION = 1  # of the table below, kept in the file as `user_version`; one with a higher number is set aside
LARGEST = 10**9 - 10**6  # bytes of a value; sqlite takes no more
PATIENCE = 10  # seconds to wait for another process that writes
REST = 600  # seconds for which a file that could not be read, or written, is left alone
TABLE = (
    "CREATE TABLE kept (key TEXT PRIMARY KEY, kind TEXT, about TEXT, created REAL, digest BLOB, seal BLOB, value BLOB)"
)
DESCRIPTION = "key, kind, about, created, digest, seal, length(value)"
# What sqlite says where the file may be whole and cannot be used now; anything else means that it is damaged.
UNAVAILABLE = {
    getattr(sqlite3, f"SQLITE_{name}")
    for name in ("PERM", "BUSY", "LOCKED", "NOMEM", "READONLY", "INTERRUPT", "IOERR", "FULL", "CANTOPEN", "PROTOCOL")
} | {sqlite3.SQLITE_NOLFS, sqlite3.SQLITE_AUTH}
ASIDE = BROKEN, NEWER = ".broken", ".newer"  # what files are called that were set aside
T = TypeVar("T")

_told: set[tuple[str, str]] = set()  # file and trouble, of which this process has said something
_resting: dict[tuple[str, bool], float] = {}  # file, and whether for writing -> until when it is left alone


class Row(NamedTuple):
    """What is known of a value without reading it.

    Args:
        key (`str`):
            Under which it is found.
        kind (`str`), about (`str`):
            What it is, in words.
        created (`float`):
            When it was written, in seconds since 1970.
        bytes (`int`):
            Its size.
    """

    key: str
    kind: str
    about: str
    created: float
    bytes: int


class ValueStore:
    """Values by key in one file. A value comes back as it was written, or not at all.

    Args:
        path (`Path`):
            The file; it is made when something is written.
        what (`str`):
            What warnings call the values, such as `"scores"`.
    """

    def __init__(self, path: Path, what: str):
        self.path, self._what = path, what

    def read(self, keys: Iterable[str]) -> dict[str, bytes]:
        """The values of those keys that are there, all as they were at one moment."""
        keys = list(dict.fromkeys(keys))
        marks = ", ".join("?" * len(keys))

        def look(database: sqlite3.Connection) -> list[tuple[Any, ...]]:
            return database.execute(f"SELECT {DESCRIPTION}, value FROM kept WHERE key IN ({marks})", keys).fetchall()

        found, damaged = {}, []
        for *description, value in self._run(look, [], writes=False):
            row = _checked(description)
            if row is None or not isinstance(value, bytes) or _digest(value) != description[4]:
                damaged.append(description[0])
            elif row.key in keys:
                found[row.key] = value
        if damaged:
            self._forget(damaged)
        return found

    def write(self, key: str, kind: str, about: str, value: bytes, *, instead_of: str | None = None) -> None:
        """Keep a value under a key, whatever was there; the value of the key `instead_of` goes at the same time."""
        if len(value) > LARGEST:
            return
        about = about.encode("utf-8", "replace").decode()  # such as a path that is no text
        row = Row(key, kind, about, time.time(), len(value))
        digest = _digest(value)

        def put(database: sqlite3.Connection) -> None:
            line = (row.key, row.kind, row.about, row.created, digest, _seal(row, digest), value)
            database.execute("INSERT OR REPLACE INTO kept VALUES (?, ?, ?, ?, ?, ?, ?)", line)
            database.execute("DELETE FROM kept WHERE key = ?", (instead_of,))

        self._run(put, None, writes=True, makes=True)

    def rows(self) -> list[Row]:
        """What there is, oldest first."""

        def look(database: sqlite3.Connection) -> list[tuple[Any, ...]]:
            return database.execute(f"SELECT {DESCRIPTION} FROM kept").fetchall()

        found = [row for line in self._run(look, [], writes=False, asked=True) if (row := _checked(line))]
        return sorted(found, key=lambda row: (row.created, row.key))

    def clear(self) -> int:
        """Delete everything, files that were set aside too, and say how much it was."""
        for suffix in ASIDE:
            with contextlib.suppress(OSError):
                self.path.with_suffix(suffix).unlink()
        n = self._run(lambda database: database.execute("DELETE FROM kept").rowcount, 0, writes=True, asked=True)
        if n:
            self._run(lambda database: database.execute("VACUUM"), None, writes=True, asked=True, transaction=False)
        return n

    def _forget(self, keys: list[Any]) -> None:
        """Delete rows that are not what was written."""

        def delete(database: sqlite3.Connection) -> None:
            database.executemany("DELETE FROM kept WHERE key = ?", [(key,) for key in keys])

        self._run(delete, None, writes=True)
        self._tell("damaged", f"{self.path} was damaged in places; what was there is made anew.")

    def _run(
        self,
        work: Callable[[sqlite3.Connection], T],
        nothing: T,
        *,
        writes: bool,
        makes: bool = False,
        asked: bool = False,
        transaction: bool = True,
    ) -> T:
        """Do something in one transaction; `nothing` where the file cannot be used, which is said once.

        Args:
            work (`Callable`):
                What to do.
            nothing:
                What comes out where it cannot be done.
            writes (`bool`):
                Whether it changes the file.
            makes (`bool`, *optional*, defaults to `False`):
                Whether a file that is missing is made.
            asked (`bool`, *optional*, defaults to `False`):
                Whether the user has asked for it, and hears each time why it cannot be done.
            transaction (`bool`, *optional*, defaults to `True`):
                Whether it runs in one.
        """
        place = str(self.path), writes
        if _resting.get(place, -math.inf) > time.monotonic() and not asked:
            return nothing
        for _ in range(3):  # a file that was set aside is looked for again
            before: tuple[int, int] | None = None
            try:
                before = _inode(self.path)
                if before is None and not makes:
                    return nothing
                with closing(self._open(transaction)) as database:
                    if not transaction:
                        return work(database)
                    database.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
                    result = work(database)
                    database.execute("COMMIT")
                    return result
            except _NewerError as error:
                trouble: Exception | None = self._set_aside(before, NEWER, str(error))
            except Exception as error:  # whatever sqlite makes of a damaged file
                trouble = error
                is_damage = isinstance(error, (sqlite3.Error, UnicodeDecodeError))  # the latter of a name in a schema
                if is_damage and _primary(error) not in UNAVAILABLE:
                    kind = "no database" if _primary(error) == sqlite3.SQLITE_NOTADB else "damaged"
                    trouble = self._set_aside(before, BROKEN, f"was {kind} ({error})")
            if trouble is not None:
                _resting[place] = time.monotonic() + REST
                self._tell("unavailable", f"{self._what} are not kept in {self.path}: {trouble}.", always=asked)
                return nothing
        return nothing

    def _open(self, make: bool) -> sqlite3.Connection:
        if os.path.lexists(self.path) and not self.path.is_file():
            raise OSError("it is no regular file")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None)
        database.text_factory = lambda text: text.decode("utf-8", "replace")
        try:
            database.execute("PRAGMA cell_size_check = ON")
            if make and _version(database) < VERSION:
                database.execute("BEGIN IMMEDIATE")
                if _version(database) < VERSION:  # another process may have made it meanwhile
                    database.execute("DROP TABLE IF EXISTS kept")
                    database.execute(TABLE)
                    database.execute(f"PRAGMA user_version = {VERSION}")
                database.execute("COMMIT")
        except BaseException:
            database.close()
            raise
        return database

    def _set_aside(self, seen: tuple[int, int] | None, suffix: str, why: str) -> Exception | None:
        """Give the file another name, unless another process has done so; what kept it from that, if something did."""
        aside = self.path.with_suffix(suffix)
        try:
            if seen is None or _inode(self.path) != seen:
                return None
            os.replace(self.path, aside)
            Path(f"{self.path}-journal").unlink(missing_ok=True)  # it would be taken for that of the new file
        except OSError as error:
            return OSError(f"it {why} and cannot be moved: {error.strerror}")
        self._tell("damaged", f"{self.path} {why}; it is called {aside.name} now, and a new one is begun.")
        return None

    def _tell(self, trouble: str, line: str, *, always: bool = False) -> None:
        place = str(self.path), trouble
        if always or place not in _told:
            _told.add(place)
            warn(line)


class _NewerError(Exception):
    """The file was written by a later version of hf_soup."""


def _version(database: sqlite3.Connection) -> int:
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise _NewerError("was written by a newer version of hf_soup")
    return version


def _primary(error: Exception) -> int:
    """The kind of an error, without its details."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        state = os.stat(path)
    except FileNotFoundError:
        return None
    return state.st_dev, state.st_ino


def _checked(line: Any) -> Row | None:
    """A row that is as it was written, by its seal."""
    key, kind, about, created, digest, seal, size = line
    row = Row(key, kind, about, created, size)
    texts = all(isinstance(text, str) for text in (key, kind, about))
    if not texts or not isinstance(created, float) or not isinstance(digest, bytes) or not isinstance(size, int):
        return None
    return row if _seal(row, digest) == seal else None


def _seal(row: Row, digest: bytes) -> bytes:
    return _digest(repr((tuple(row), digest)).encode("utf-8", "surrogatepass"))


def _digest(content: bytes) -> bytes:
    from xxhash import xxh3_128_digest

    return xxh3_128_digest(content)
