"""Files that several threads read and write at places of their own, each opened once.

It knows no format. A handle that falls out of the cache is closed when the last thread that uses it is done.
"""

from __future__ import annotations

import functools
import io
import os
import stat


HANDLES = 100  # open at once, where the system allows it
SHARE = 4  # a quarter of the handles that a process may have: other parts of it open files at the same time


class OpenFiles:
    """Files by path, kept open while the block lasts.

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
        """Fill `into` with the bytes from `start`; whether there were as many.

        Raises:
            [`OSError`]: if the file cannot be opened or read.
        """
        handle, done = self._open(path), 0
        while done < len(into):  # one call gives at most 2 GiB
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
    """Open without waiting for a writer, where a pipe has taken the place of a file."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))


def _handles() -> int:
    """How many files to keep open, of those that the system lets a process have."""
    try:
        import resource
    except ImportError:  # Windows
        return HANDLES
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return HANDLES
    return max(1, min(HANDLES, allowed // SHARE))


def _read_at(handle: io.FileIO, start: int, into: memoryview) -> int:
    """Fill the beginning of `into` from a place of the file; returns how many bytes that were."""
    if hasattr(os, "preadv"):
        return os.preadv(handle.fileno(), [into], start)
    with open(handle.name, "rb", buffering=0) as own_handle:  # Windows: a handle's place belongs to one thread
        own_handle.seek(start)
        return own_handle.readinto(into)


def _write_at(handle: io.FileIO, start: int, data: memoryview) -> int:
    """Write the beginning of `data` to a place of the file; returns how many bytes that were."""
    if hasattr(os, "pwrite"):
        return os.pwrite(handle.fileno(), data, start)
    with open(handle.name, "r+b", buffering=0) as own_handle:
        own_handle.seek(start)
        return own_handle.write(data)
