"""Digests of file contents. A file that was read once is recognised by its metadata.

The metadata are its device, inode, size, modification time and inode change time. No program can set back the change
time, so a copy that keeps the original times (`cp -p`, `rsync -t`, `tar`) has another one. File formats do not matter
here.
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


BLOCK = 2**24  # bytes that have their own digest, so that several threads can work on one file
CHUNK = 2**20  # bytes read at a time, which fit in the cache of a core
MAX_THREADS = 8  # more threads would wait for memory
# Seconds. A file that changes twice within one clock tick keeps its times, so its digest is stored only if it has not
# changed for longer than this.
SETTLED = 2.0
ATTEMPTS = 3  # to read a file that changes meanwhile
# File systems that do not store the inode change time: each process reads the files there again.
WITHOUT_CHANGE_TIME = ("fuse", "vfat", "msdos", "exfat", "cifs", "smb")

_known: dict[str, str] = {}  # device and inode -> the other metadata and the digest, in the form of the store's values


class _Block(NamedTuple):
    """A range of bytes of a file, which has its own digest."""

    path: str
    start: int
    size: int


class FileState(NamedTuple):
    """The metadata of a file, as the system reports them.

    Args:
        device (`int`), inode (`int`):
            Identity of the file.
        size (`int`):
            Size in bytes.
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
        """The key under which its digest is stored."""
        return f"{self.device}:{self.inode}"

    @property
    def marks(self) -> str:
        """The metadata that change with its content."""
        return f"{self.size}:{self.changed}:{self.inode_changed}"


def store() -> ValueStore:
    """The store that keeps digests between processes, below `HF_HOME`."""
    from huggingface_hub.constants import HF_HOME

    return ValueStore(Path(HF_HOME) / "hf_soup" / "digests.sqlite", "digests of weight files")


def file_state(path: str | os.PathLike[str]) -> str:
    """The size and times of a file, by which a change can be detected.

    Raises:
        [`IngredientError`]: if there is no such file.
    """
    return _state(path).marks


def content_digests(paths: Iterable[str | os.PathLike[str]]) -> dict[str, str]:
    """The digests of the current contents of files; only unknown ones are read, by several threads.

    Args:
        paths (`Iterable[str` or `os.PathLike]`):
            Regular files.

    Returns:
        `dict[str, str]`: path -> `content:` and 32 hexadecimal digits.

    Raises:
        [`IngredientError`]: if a file cannot be read, or is being changed.
    """
    states = {os.fspath(path): _state(path) for path in paths}
    _recall(states.values())
    digests: dict[str, str] = {}
    unread = []
    for path, state in states.items():
        marks, _, digest = _known.get(state.key, "").partition(" ")
        if marks == state.marks:
            digests[path] = digest
        else:
            unread.append(path)
    digests |= _read_unchanged(unread)
    return {path: digests[path] for path in states}


def _recall(states: Iterable[FileState]) -> None:
    """Fetch the digests of files that this process does not know from the store."""
    unknown_keys = {state.key for state in states} - _known.keys()
    if unknown_keys:
        stored = store().read(sorted(unknown_keys))
        for key, value in stored.items():
            _known[key] = value.decode("ascii", "replace")


def _read_unchanged(paths: Sequence[str]) -> dict[str, str]:
    """The digests of files, each read again until it did not change during the reading."""
    digests: dict[str, str] = {}
    unread = list(paths)
    for _ in range(ATTEMPTS):
        if not unread:
            break
        begun = time.time()
        states = {path: _state(path) for path in unread}
        new_digests = _read(states)
        unread = []
        for path, state in states.items():
            if _state(path) != state:
                unread.append(path)
                continue
            digests[path] = new_digests[path]
            _remember(path, state, new_digests[path], begun)
    if unread:
        raise IngredientError(f"{unread[0]} changes while it is read: wait until it is written.")
    return digests


def _remember(path: str, state: FileState, digest: str, begun: float) -> None:
    """Store a digest, unless the file could still change without a visible change of its times."""
    if state.inode_changed >= (begun - SETTLED) * 1e9:
        return
    key, value = state.key, f"{state.marks} {digest}"
    _known[key] = value
    if _keeps_change_time(state.device):
        store().write(key, "digest", path, value.encode())


def _read(states: dict[str, FileState]) -> dict[str, str]:
    """The digests of files: each is the digest of the joined digests of its blocks."""
    import xxhash

    blocks: list[_Block] = []
    for path, state in states.items():
        for start in range(0, max(state.size, 1), BLOCK):  # an empty file has one empty block
            blocks.append(_Block(path, start, min(BLOCK, state.size - start)))
    with OpenFiles() as files:

        def digest(block: _Block) -> bytes:
            block_hash = xxhash.xxh3_128()
            buffer = memoryview(bytearray(min(CHUNK, block.size)))
            for start in range(0, block.size, CHUNK):
                chunk = buffer[: min(CHUNK, block.size - start)]
                if not files.read(block.path, block.start + start, chunk):
                    break  # the file has become shorter, which its state will show
                block_hash.update(chunk)
            return block_hash.digest()

        try:
            block_digests = _in_threads(digest, blocks)
        except OSError as error:
            raise IngredientError(f"cannot read {error.filename or 'a weight file'}: {error.strerror}.") from None
    joined: dict[str, bytes] = dict.fromkeys(states, b"")
    for block, block_digest in zip(blocks, block_digests, strict=True):
        joined[block.path] += block_digest
    digests = {}
    for path, digests_of_blocks in joined.items():
        digests[path] = f"content:{xxhash.xxh3_128_hexdigest(digests_of_blocks)}"
    return digests


def _in_threads(function: Callable[[_Block], bytes], blocks: Sequence[_Block]) -> list[bytes]:
    threads = min(len(blocks), MAX_THREADS, os.cpu_count() or 1)
    if threads < 2:
        return [function(block) for block in blocks]
    with ThreadPoolExecutor(threads) as pool:
        try:
            return list(pool.map(function, blocks))
        except RuntimeError:  # the system provides no more threads
            pool.shutdown(cancel_futures=True)
            return [function(block) for block in blocks]


def _state(path: str | os.PathLike[str]) -> FileState:
    """The current metadata of a file; links are followed."""
    try:
        state = os.stat(path)
    except (OSError, ValueError) as error:  # a NUL in the path raises a ValueError
        raise IngredientError(f"cannot read {path}: {getattr(error, 'strerror', error)}.") from None
    return FileState(state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)


def _keeps_change_time(device: int) -> bool:
    """Whether the file system of a device stores the inode change time, which no program can set back."""
    if os.name == "nt":  # Windows reports the creation time instead
        return False
    return not _file_systems().get(device, "").startswith(WITHOUT_CHANGE_TIME)


@functools.cache
def _file_systems() -> dict[int, str]:
    """Device -> type of its file system, on systems that provide such a list."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    systems: dict[int, str] = {}
    for line in lines:
        # "36 35 98:0 /root /mount/point options - ext3 /dev/root options", see proc(5)
        mount, _, system = line.partition(" - ")
        major, minor = mount.split()[2].split(":")
        systems[os.makedev(int(major), int(minor))] = system.split()[0]
    return systems
