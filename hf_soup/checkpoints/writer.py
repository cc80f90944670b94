"""The output on disk: safetensors files, sharded on request, written in parts as they arrive.

The origin of the tensors is unknown here; `output_layout.py` decides which file holds which tensor.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from .digest import Digests, bytes_of
from .files import OpenFiles
from .output_layout import OutputLayout, OutputShard, lay_out
from .reader import TensorSpec
from .staging import flush_path


if TYPE_CHECKING:
    import torch

OFTEN = 0.1  # seconds between two flushes


@contextlib.contextmanager
def weight_files(
    folder: Path, specs: Sequence[TensorSpec], *, max_shard_size: int | str = "50GB"
) -> Iterator[WeightFiles]:
    """All weight files of a folder, with their index.

    Args:
        folder (`Path`):
            An existing folder.
        specs (`Sequence[TensorSpec]`):
            Name, shape and type of each tensor that will be written.
        max_shard_size (`int` or `str`, *optional*, defaults to `"50GB"`):
            Largest size of a shard, as for [`lay_out`].

    Raises:
        [`OutputError`]: if `max_shard_size` is no size.
        [`OSError`]: if a file cannot be written, which `staged_folder` turns into an `OutputError`.
    """
    layout = lay_out(specs, max_shard_size)
    with shard_files(folder, layout.shards) as files:
        yield files
    write_indexes(folder, layout)


@contextlib.contextmanager
def shard_files(folder: Path, shards: Sequence[OutputShard]) -> Iterator[WeightFiles]:
    """Weight files whose layout is planned, so that parts of tensors can be written as they arrive.

    Args:
        folder (`Path`):
            An existing folder.
        shards (`Sequence[OutputShard]`):
            The files.

    Raises:
        [`OSError`]: if a file cannot be written, which `staged_folder` turns into an `OutputError`.
    """
    placed: dict[str, TensorSpec] = {}
    for shard in shards:
        path = folder / shard.file
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(shard.header)
            _reserve(file, shard.nbytes)
        placed |= shard.specs
    with OpenFiles("r+b") as files:
        sink = WeightFiles(folder, placed, files)
        with _flushing(sink):
            yield sink
    sink.refuse_gaps()


@contextlib.contextmanager
def _flushing(sink: WeightFiles) -> Iterator[None]:
    """Let the disk write while other work goes on, so that little is left to wait for in the end."""
    stop = threading.Event()

    def flush() -> None:
        while not stop.wait(OFTEN):
            sink.flush()

    thread = threading.Thread(target=flush, daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the system provides no threads: everything is flushed in the end
        yield
        return
    try:
        yield
    finally:
        stop.set()
        thread.join()


def write_indexes(folder: Path, layout: OutputLayout) -> None:
    """Write the indexes. Readers consider a folder with an index complete, so this comes last."""
    for file, index in layout.indexes.items():
        (folder / file).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


class WeightFiles:
    """Writes the parts of tensors to their locations in files. Created by [`shard_files`].

    Args:
        folder (`Path`):
            Folder of the files.
        specs (`Mapping[str, TensorSpec]`):
            Each tensor with its file and where it begins there.
        files (`OpenFiles`):
            Open for writing.
    """

    def __init__(self, folder: Path, specs: Mapping[str, TensorSpec], files: OpenFiles):
        self._folder, self._specs, self._files = folder, specs, files
        self._to_come = {name: spec.nbytes for name, spec in specs.items()}
        self._unflushed: set[str] = set()
        self._error: OSError | None = None
        self._lock = threading.Lock()
        self._digests = Digests()
        for spec in specs.values():
            self._digests.expect(spec.name, spec.numel)

    def write(self, name: str, start: int, data: memoryview) -> None:
        """Write the bytes of elements of one tensor, covering complete pieces; threads may write at once.

        Args:
            name (`str`):
                The tensor.
            start (`int`):
                The first element.
            data (`memoryview`):
                Bytes of the elements.
        """
        spec = self._specs[name]
        path = f"{self._folder}{os.sep}{spec.file}"
        self._files.write(path, spec.start + start * spec.itemsize, data)
        self._digests.add(name, start, data, spec.itemsize)
        with self._lock:
            self._to_come[name] -= len(data)
            self._unflushed.add(path)

    def write_tensor(self, name: str, tensor: torch.Tensor) -> None:
        """Write a complete tensor, of the type and shape that were planned."""
        self.write(name, 0, bytes_of(tensor))

    def flush(self) -> None:
        """Wait until what has been written since the last call is on the disk; [`refuse_gaps`] raises its errors.

        The system reports an error of the disk once only.
        """
        with self._lock:
            paths, self._unflushed = self._unflushed, set()
        for path in paths:
            try:
                flush_path(path)
            except OSError as error:
                self._error = self._error or error

    def digests(self) -> dict[str, str]:
        """The digest of each tensor as it was written."""
        return self._digests.result()

    def refuse_gaps(self) -> None:
        """Check that every planned byte has been written exactly once, and that the disk has reported no error."""
        if self._error is not None:
            raise self._error
        incomplete = [name for name, count in self._to_come.items() if count]
        if incomplete:
            raise RuntimeError(f"{len(incomplete)} planned tensors did not come whole, such as {incomplete[0]}")


def _reserve(file: BinaryIO, size: int) -> None:
    """Reserve space, so that a full disk is noticed before any work and several threads write at full speed."""
    file.flush()
    if not hasattr(os, "posix_fallocate"):  # macOS and Windows
        file.truncate(size)
        return
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # the file system cannot reserve space
            raise
        file.truncate(size)
