"""Digests of the content of files. A file that was read once is known again by what the system says of it.

That is its device, inode, size, time of change, and the time of change of its inode, which no program can set back: a
copy with the times of the original (`cp -p`, `rsync -t`, `tar`) has another one. It knows no format.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from ..errors import IngredientError
from ..value_store import ValueStore
from .files import OpenFiles


BLOCK = 2**24  # bytes that have a digest of their own, so that several threads work on one file
CHUNK = 2**20  # bytes read at a time, which stay in the cache of a core
MAX_THREADS = 8  # more would wait for memory
# Seconds. A file that changes twice within one tick of the system's clock has the same times: only what has not
# changed for longer is known again.
SETTLED = 2.0
ATTEMPTS = 3  # at a file that changes while it is read
# File systems that do not keep the time of change of an inode: what lies there is read anew by each process.
WITHOUT_CHANGE_TIME = ("fuse", "vfat", "msdos", "exfat", "cifs", "smb")

_known: dict[str, str] = {}  # device and inode -> the other marks and the digest, as in the file


class FileState(NamedTuple):
    """What the system says of a file.

    Args:
        device (`int`), inode (`int`):
            Which file it is.
        size (`int`):
            In bytes.
        changed (`int`), inode_changed (`int`):
            When its content was changed, which a program can set, and when anything of it was; in nanoseconds.
    """

    device: int
    inode: int
    size: int
    changed: int
    inode_changed: int

    @property
    def key(self) -> str:
        """Under what its digest is kept."""
        return f"{self.device}:{self.inode}"

    @property
    def marks(self) -> str:
        """What changes with its content."""
        return f"{self.size}:{self.changed}:{self.inode_changed}"


def store() -> ValueStore:
    """Where digests are kept between processes: below `HF_HOME`."""
    from huggingface_hub.constants import HF_HOME

    return ValueStore(Path(HF_HOME) / "hf_soup" / "digests.sqlite", "digests of weight files")


def file_state(path: str | os.PathLike) -> str:
    """Size and times of a file, which tell whether it has been changed since.

    Raises:
        [`IngredientError`]: if there is no such file.
    """
    return _state(path).marks


def content_digests(paths: Iterable[str | os.PathLike]) -> dict[str, str]:
    """The digest of the content of each file as it is now; only what is not known yet is read, on several threads.

    Args:
        paths (`Iterable[str` or `os.PathLike]`):
            Regular files.

    Returns:
        `dict[str, str]`: path -> `content:` and 32 hexadecimal digits.

    Raises:
        [`IngredientError`]: if a file cannot be read, or is being changed.
    """
    states = {os.fspath(path): _state(path) for path in paths}
    unknown = {state.key for state in states.values()} - _known.keys()
    if unknown:
        kept = store().read(sorted(unknown))
        _known.update({key: value.decode("ascii", "replace") for key, value in kept.items()})
    found = {}
    todo = []
    for path, state in states.items():
        marks, _, digest = _known.get(state.key, "").partition(" ")
        if marks == state.marks:
            found[path] = digest
        else:
            todo.append(path)
    for _ in range(ATTEMPTS):
        if not todo:
            break
        begun = time.time()
        before = {path: _state(path) for path in todo}
        digests = _read(before)
        still = [path for path in todo if _state(path) != before[path]]
        for path in todo:
            if path not in still:
                found[path] = digests[path]
                _remember(path, before[path], digests[path], begun)
        todo = still
    if todo:
        raise IngredientError(f"{todo[0]} changes while it is read: wait until it is written.")
    return {path: found[path] for path in states}


def _remember(path: str, state: FileState, digest: str, begun: float) -> None:
    """Keep a digest, unless the file may change once more without another time."""
    if state.inode_changed >= (begun - SETTLED) * 1e9:
        return
    key, value = state.key, f"{state.marks} {digest}"
    _known[key] = value
    if _keeps_change_time(state.device):
        store().write(key, "digest", path, value.encode())


def _read(states: dict[str, FileState]) -> dict[str, str]:
    """The digests of files: each that of the digests of its blocks, joined in order."""
    import xxhash

    blocks = [
        (path, start, min(BLOCK, state.size - start))
        for path, state in states.items()
        for start in range(0, max(state.size, 1), BLOCK)
    ]
    with OpenFiles() as files:

        def digest(block: tuple[str, int, int]) -> bytes:
            path, start, size = block
            hashed, chunk = xxhash.xxh3_128(), memoryview(bytearray(min(CHUNK, size)))
            for place in range(0, size, CHUNK):
                part = chunk[: min(CHUNK, size - place)]
                if not files.read(path, start + place, part):
                    break  # it has become shorter, which its state tells
                hashed.update(part)
            return hashed.digest()

        try:
            digests = _in_threads(digest, blocks)
        except OSError as error:
            raise IngredientError(f"cannot read {error.filename or 'a weight file'}: {error.strerror}.") from None
    joined: dict[str, bytes] = dict.fromkeys(states, b"")
    for (path, *_), own in zip(blocks, digests, strict=True):
        joined[path] += own
    return {path: f"content:{xxhash.xxh3_128_hexdigest(parts)}" for path, parts in joined.items()}


def _in_threads(function: Callable[[tuple], bytes], blocks: Sequence[tuple]) -> list[bytes]:
    threads = min(len(blocks), MAX_THREADS, os.cpu_count() or 1)
    if threads < 2:
        return [function(block) for block in blocks]
    with ThreadPoolExecutor(threads) as pool:
        try:
            return list(pool.map(function, blocks))
        except RuntimeError:  # the system gives no more threads
            pool.shutdown(cancel_futures=True)
            return [function(block) for block in blocks]


def _state(path: str | os.PathLike) -> FileState:
    try:
        state = os.stat(path)
    except (OSError, ValueError) as error:
        raise IngredientError(f"cannot read {path}: {getattr(error, 'strerror', error)}.") from None
    return FileState(state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)


def _keeps_change_time(device: int) -> bool:
    if os.name == "nt":  # where it is the time of creation
        return False
    return not _file_systems().get(device, "").startswith(WITHOUT_CHANGE_TIME)


@functools.cache
def _file_systems() -> dict[int, str]:
    """Device -> kind of its file system, where the system has such a list."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    found = {}
    for line in lines:
        mount, _, system = line.partition(" - ")
        major, minor = mount.split()[2].split(":")
        found[os.makedev(int(major), int(minor))] = system.split()[0]
    return found
