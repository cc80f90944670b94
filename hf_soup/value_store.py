"""A persistent key-value store in one sqlite3 file, which may be damaged, newer, full or read-only.

No call fails: unreadable values count as missing, values that cannot be written are dropped, and each problem is
reported once. The meaning of the values is unknown here.
"""

from __future__ import annotations

import contextlib
import math
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from .errors import warn


VERSION = 1  # of the table below, stored in the file as `user_version`; a file with a higher number is set aside
LARGEST = 10**9 - 10**6  # bytes of a value, the limit of sqlite
PATIENCE = 10  # seconds to wait for another process that writes
REST = 600  # seconds for which a file is not tried again after reading or writing has failed
TABLE = (
    "CREATE TABLE kept (key TEXT PRIMARY KEY, kind TEXT, about TEXT, created REAL, digest BLOB, seal BLOB, value BLOB)"
)
DESCRIPTION = "key, kind, about, created, digest, seal, length(value)"
# Errors of sqlite for a file that may be intact but cannot be used now; any other error means that it is damaged.
UNAVAILABLE = (
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_NOLFS,
    sqlite3.SQLITE_AUTH,
)
ASIDE = BROKEN, NEWER = ".broken", ".newer"  # suffixes of files that were set aside
ATTEMPTS = 3
T = TypeVar("T")
Line = tuple[Any, ...]  # a row of the table, as sqlite returns it
NO_LINES: list[Line] = []

_told: set[tuple[str, str]] = set()  # file and problem that this process has reported
_resting: dict[tuple[str, bool], float] = {}  # file, and whether for writing -> when to try again


class Entry(NamedTuple):
    """The description of a value, which is known without reading it.

    Args:
        key (`str`):
            Under which it is found.
        value_type (`str`), about (`str`):
            Type of the value, and what it is about in words.
        created (`float`):
            When it was written, in seconds since 1970.
        bytes (`int`):
            Size of the entry.
    """

    key: str
    value_type: str
    about: str
    created: float
    bytes: int


class ValueStore:
    """Values by key in one file. A value is returned exactly as it was written, or not at all.

    Args:
        path (`Path`):
            The file; it is made when something is written.
        what (`str`):
            Name of the values in warnings, such as `"scores"`.
    """

    def __init__(self, path: Path, what: str):
        self.path, self._what = path, what

    def read(self, keys: Iterable[str]) -> dict[str, bytes]:
        """The values of those keys that exist, in one consistent snapshot."""
        keys = list(dict.fromkeys(keys))
        placeholders = ", ".join("?" * len(keys))
        query = f"SELECT {DESCRIPTION}, value FROM kept WHERE key IN ({placeholders})"

        def look_up(database: sqlite3.Connection) -> list[Line]:
            return database.execute(query, keys).fetchall()

        values: dict[str, bytes] = {}
        damaged_keys = []
        for line in self._run(look_up, NO_LINES, writes=False):
            description, value = line[:-1], line[-1]
            key, digest = description[0], description[4]
            entry = _checked(description)
            if entry is None or not isinstance(value, bytes) or _digest(value) != digest:
                damaged_keys.append(key)
            elif entry.key in keys:  # a damaged index can lead to the entry of another key
                values[entry.key] = value
        if damaged_keys:
            self._forget(damaged_keys)
        return values

    def write(self, key: str, value_type: str, about: str, value: bytes, *, instead_of: str | None = None) -> None:
        """Store a value under a key, replacing an existing one, and delete that of the key `instead_of` atomically."""
        if len(value) > LARGEST:
            return
        about = about.encode("utf-8", "replace").decode()  # a path may contain lone surrogates
        entry = Entry(key, value_type, about, time.time(), len(value))
        digest = _digest(value)

        def put(database: sqlite3.Connection) -> None:
            line: Line = (entry.key, entry.value_type, entry.about, entry.created, digest, _seal(entry, digest), value)
            database.execute("INSERT OR REPLACE INTO kept VALUES (?, ?, ?, ?, ?, ?, ?)", line)
            database.execute("DELETE FROM kept WHERE key = ?", (instead_of,))

        self._run(put, None, writes=True, makes=True)

    def entries(self) -> list[Entry]:
        """Descriptions of all values, oldest first; damaged ones are skipped."""

        def list_all(database: sqlite3.Connection) -> list[Line]:
            return database.execute(f"SELECT {DESCRIPTION} FROM kept").fetchall()

        entries = []
        for line in self._run(list_all, NO_LINES, writes=False, on_request=True):
            entry = _checked(line)
            if entry is not None:
                entries.append(entry)
        return sorted(entries, key=lambda entry: (entry.created, entry.key))

    def clear(self) -> int:
        """Delete all values, and files that were set aside; returns the number of values."""
        for suffix in ASIDE:
            with contextlib.suppress(OSError):
                self.path.with_suffix(suffix).unlink()

        def delete(database: sqlite3.Connection) -> int:
            return database.execute("DELETE FROM kept").rowcount

        def shrink(database: sqlite3.Connection) -> None:
            database.execute("VACUUM")

        count = self._run(delete, 0, writes=True, on_request=True)
        if count:
            self._run(shrink, None, writes=True, on_request=True, transaction=False)  # not allowed in a transaction
        return count

    def _forget(self, keys: Sequence[object]) -> None:
        """Delete damaged entries; a damaged key can have any type."""

        def delete(database: sqlite3.Connection) -> None:
            database.executemany("DELETE FROM kept WHERE key = ?", [(key,) for key in keys])

        self._run(delete, None, writes=True)
        self._tell("damaged", f"{self.path} was damaged in places; the values that were lost are computed again.")

    def _run(
        self,
        work: Callable[[sqlite3.Connection], T],
        nothing: T,
        *,
        writes: bool,
        makes: bool = False,
        on_request: bool = False,
        transaction: bool = True,
    ) -> T:
        """Perform an operation in one transaction; return `nothing` if the file cannot be used, which is reported
        once.

        Args:
            work (`Callable`):
                Function to call with the connection.
            nothing:
                What to return where it cannot be done.
            writes (`bool`):
                Whether it changes the file.
            makes (`bool`, *optional*, defaults to `False`):
                Whether a file that is missing is made.
            on_request (`bool`, *optional*, defaults to `False`):
                Whether the user requested the operation, so that every failure is reported.
            transaction (`bool`, *optional*, defaults to `True`):
                Whether it runs in a transaction.
        """
        use = str(self.path), writes
        if _resting.get(use, -math.inf) > time.monotonic() and not on_request:
            return nothing
        for _ in range(ATTEMPTS):  # after a damaged file was set aside, the next attempt creates a new one
            inode = None
            try:
                inode = _inode(self.path)
                if inode is None and not makes:
                    return nothing
                return self._attempt(work, writes=writes, transaction=transaction)
            except Exception as error:  # for damaged files, sqlite3 raises more than its own errors
                trouble = self._repair(error, inode)
            if trouble is not None:
                _resting[use] = time.monotonic() + REST
                self._tell("unavailable", f"{self._what} are not kept in {self.path}: {trouble}.", always=on_request)
                return nothing
        return nothing

    def _attempt(self, work: Callable[[sqlite3.Connection], T], *, writes: bool, transaction: bool) -> T:
        """Open the file, perform an operation once, and close it; the arguments are those of `_run`."""
        with closing(self._open(transaction)) as database:
            if not transaction:
                return work(database)
            # A plain BEGIN takes no lock. With IMMEDIATE, two writers wait for each other; without it, a transaction
            # that reads first and writes later would be refused at once.
            begin = "BEGIN IMMEDIATE" if writes else "BEGIN"
            database.execute(begin)
            result = work(database)
            database.execute("COMMIT")
            return result

    def _repair(self, error: Exception, inode: tuple[int, int] | None) -> Exception | None:
        """Set aside a file that is damaged or newer, so that another attempt can create one.

        Args:
            error (`Exception`):
                Why it could not be used.
            inode (`tuple[int, int]`, *optional*):
                Identity of the file that was found damaged.

        Returns:
            `Exception` or `None`: why the file cannot be used now, where another attempt would not help.
        """
        if isinstance(error, _NewerError):
            return self._set_aside(inode, NEWER, str(error))
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_IOERR_DELETE_NOENT:
            return None  # another process has set the file and its journal aside meanwhile
        # UnicodeDecodeError is raised for a damaged name in the schema
        from_file = isinstance(error, (sqlite3.Error, UnicodeDecodeError))
        if not from_file or _primary(error) in UNAVAILABLE:
            return error
        damage = "no database" if _primary(error) == sqlite3.SQLITE_NOTADB else "damaged"
        return self._set_aside(inode, BROKEN, f"was {damage} ({error})")

    def _open(self, make_table: bool) -> sqlite3.Connection:
        """Connect to the file, which is created if it is missing, with its table if requested."""
        inode = _inode(self.path)
        if inode is None and self.path.is_symlink():
            raise OSError("it is a link that leads nowhere")
        if inode is not None and not self.path.is_file() and _inode(self.path) == inode:  # not set aside meanwhile
            raise OSError("it is not a regular file")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Without an isolation level, the transactions are those that `_attempt` begins.
        database = sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None)
        database.text_factory = lambda text: text.decode("utf-8", "replace")  # makes damaged texts readable
        try:
            database.execute("PRAGMA cell_size_check = ON")  # detects some damage before it is read as data
            if make_table and _version(database) < VERSION:
                database.execute("BEGIN IMMEDIATE")
                if _version(database) < VERSION:  # another process may have created it meanwhile
                    database.execute("DROP TABLE IF EXISTS kept")
                    database.execute(TABLE)
                    database.execute(f"PRAGMA user_version = {VERSION}")
                database.execute("COMMIT")
        except BaseException:
            database.close()
            raise
        return database

    def _set_aside(self, inode: tuple[int, int] | None, suffix: str, why: str) -> Exception | None:
        """Rename the file, unless another process has done so; returns the error that prevented it, if any."""
        aside = self.path.with_suffix(suffix)
        try:
            if inode is None or _inode(self.path) != inode:
                return None
            os.replace(self.path, aside)
            Path(f"{self.path}-journal").unlink(missing_ok=True)  # it would become the new file's journal
        except OSError as error:
            return OSError(f"it {why} and cannot be moved: {error.strerror}")
        self._tell("damaged", f"{self.path} {why}; it was renamed to {aside.name}, and a new file is started.")
        return None

    def _tell(self, trouble: str, line: str, *, always: bool = False) -> None:
        """Warn, but only once per process about the same problem with the same file."""
        place = str(self.path), trouble
        if always or place not in _told:
            _told.add(place)
            warn(line)


class _NewerError(Exception):
    """The file was written by a later version of hf_soup."""


def _version(database: sqlite3.Connection) -> int:
    """The version of the table; 0 for a new file."""
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise _NewerError("was written by a newer version of hf_soup")
    return version


def _primary(error: Exception) -> int:
    """The primary code of an error, without its details."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def _inode(path: Path) -> tuple[int, int] | None:
    """The inode of a path, which identifies the file; `None` if there is none."""
    try:
        state = os.stat(path)
    except FileNotFoundError:
        return None
    return state.st_dev, state.st_ino


def _checked(line: Line) -> Entry | None:
    """The description of a value if its seal is valid; sqlite allows any type in any column."""
    key, value_type, about, created, digest, seal, size = line
    if not isinstance(key, str) or not isinstance(value_type, str) or not isinstance(about, str):
        return None
    if not isinstance(created, float) or not isinstance(digest, bytes) or not isinstance(size, int):
        return None
    entry = Entry(key, value_type, about, created, size)
    if _seal(entry, digest) != seal:
        return None
    return entry


def _seal(entry: Entry, digest: bytes) -> bytes:
    """A digest of everything stored with a value, by which damage to the description is detected."""
    return _digest(repr((tuple(entry), digest)).encode("utf-8", "surrogatepass"))


def _digest(content: bytes) -> bytes:
    from xxhash import xxh3_128_digest

    return xxh3_128_digest(content)
