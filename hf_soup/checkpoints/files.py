"""Files that several threads read and write at their own offsets, each opened once.

File formats are unknown here. A handle that is evicted from the cache is closed when the last thread has finished with
it.
"""

from __future__ import annotations

import functools
import io
import os
import stat


HANDLES = 100  # open at once, if the system allows as many
SHARE = 4  # a quarter of the handles that a process may have, since other parts of it open files at the same time


class OpenFiles:
    """Files by path, kept open until the end of the block.

    Args:
        mode (`str`, *optional*, defaults to `"rb"`):
            `"rb"` to read, `"r+b"` to write into files that are there.
    """

    def __init__(self, mode: str = "rb"):
        self._open = functools.lru_cache(maxsize=_handles())(functools.partial(_Handle, mode=mode))

    def __enter__(self) -> OpenFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.cache_clear()

    def read(self, path: str, start: int, into: memoryview) -> bool:
        """Fill `into` with the bytes from `start`, and return whether there were enough.

        Raises:
            [`OSError`]: if the file cannot be opened or read.
        """
        handle, done = self._open(path), 0
        while done < len(into):  # one call returns at most 2 GiB
            count = _read_at(handle, start + done, into[done:])
            if not count:
                return False
            done += count
        return True

    def write(self, path: str, start: int, data: memoryview) -> None:
        """Write all of `data` from `start`.

        Raises:
            [`OSError`]: if the file cannot be opened or written.
        """
        handle, done = self._open(path), 0
        while done < len(data):
            done += _write_at(handle, start + done, data[done:])


class _Handle(io.FileIO):
    def __init__(self, path: str, mode: str):
        super().__init__(path, mode, opener=_open_at_once)
        if not stat.S_ISREG(os.fstat(self.fileno()).st_mode):
            self.close()
            raise OSError(None, "it is not a regular file")

    def __del__(self) -> None:
        self.close()  # without the ResourceWarning of `FileIO`


def _open_at_once(path: str, flags: int) -> int:
    """Open a file without waiting for a writer, in case a pipe has replaced it."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))


def _handles() -> int:
    """How many files to keep open, given the limit of the process."""
    try:
        import resource
    except ImportError:  # Windows
        return HANDLES
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return HANDLES
    return max(1, min(HANDLES, allowed // SHARE))


def _read_at(handle: io.FileIO, start: int, into: memoryview) -> int:
    """Fill the beginning of `into` from an offset of the file, and return the number of bytes read."""
    if hasattr(os, "preadv"):
        return os.preadv(handle.fileno(), [into], start)
    with open(handle.name, "rb", buffering=0) as own_handle:  # Windows: one thread at a time moves the position
        own_handle.seek(start)
        return own_handle.readinto(into)


def _write_at(handle: io.FileIO, start: int, data: memoryview) -> int:
    """Write the beginning of `data` at an offset of the file, and return the number of bytes written."""
    if hasattr(os, "pwrite"):
        return os.pwrite(handle.fileno(), data, start)
    with open(handle.name, "r+b", buffering=0) as own_handle:
        own_handle.seek(start)
        return own_handle.write(data)
