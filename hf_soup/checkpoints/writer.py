"""The sink on disk: safetensors files, sharded where asked, in a folder that takes its name only when it is whole.

It does not know where the tensors come from. Files are byte for byte what `safetensors` itself would write.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ..errors import OutputError
from .digest import tensor_digest
from .reader import CODES, DTYPES, SAFE_INDEX, TensorSpec


if TYPE_CHECKING:
    import torch

PARTIAL, OLD = ".partial", ".old"  # folders beside a target: the new one being made, the old one being replaced
_RANK = {code: rank for rank, code in enumerate(DTYPES)}  # safetensors puts the highest first


@contextlib.contextmanager
def staged_folder(target: str | os.PathLike, *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder beside `target` that takes its name when the block ends well, and is deleted otherwise.

    Args:
        target (`str` or `os.PathLike`):
            The folder to make.
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether a folder that is there is replaced; it stays as it was until the new one is whole.

    Raises:
        [`OutputError`]: if `target` exists, or something cannot be written.
    """
    target = refuse_target(target, overwrite=overwrite)
    with _as_output_error(target), contextlib.ExitStack() as stack:
        target.parent.mkdir(parents=True, exist_ok=True)
        _clear_litter(target)
        stage = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=PARTIAL, dir=target.parent))
        stack.callback(shutil.rmtree, stage, ignore_errors=True)
        stack.enter_context(_locked(stage))
        yield stage
        stage.chmod(0o777 & ~_umask())
        _take_name(stage, target, overwrite=overwrite)


def _take_name(stage: Path, target: Path, *, overwrite: bool) -> None:
    """Rename the whole new folder; without `overwrite`, one that another process has made meanwhile is left alone."""
    old = stage.with_suffix(OLD)
    if overwrite and target.exists():
        target.rename(old)
    try:
        stage.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _clear_litter(target: Path) -> None:
    """Remove what a process that was killed has left beside the target; what it had moved away comes back."""
    for path in [path for path in target.parent.iterdir() if path.name.startswith(f".{target.name}.")]:
        if path.suffix not in (PARTIAL, OLD):
            continue
        with _locked(path) as dead:
            if dead and path.suffix == OLD and not target.exists():
                path.rename(target)
            elif dead:
                shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold a lock on a folder, which ends with the process; gives whether nobody else holds it."""
    try:
        import fcntl
    except ImportError:  # Windows: nothing is locked, so nothing is taken for dead
        yield False
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:  # somebody else has just removed it
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = True
    except OSError:
        free = False
    try:
        yield free
    finally:
        os.close(descriptor)


def refuse_target(target: str | os.PathLike, *, overwrite: bool = False, keep: Iterable[Path] = ()) -> Path:
    """The absolute path of a folder that may be made, or replaced with `overwrite=True`.

    Args:
        target (`str` or `os.PathLike`):
            The folder.
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether one that is there may be replaced.
        keep (`Iterable[Path]`, *optional*):
            Folders that it may neither be nor hold.

    Raises:
        [`OutputError`]: if it may not be made.
    """
    target = Path(os.path.abspath(Path(target).expanduser()))
    if target.exists() and not target.is_dir():
        raise OutputError(f"{target} is a file; name a folder.")
    if target.is_dir() and any(target.iterdir()) and not overwrite:
        raise OutputError(
            f"{target} exists and is not empty. Name another folder, or pass overwrite=True (--overwrite)."
        )
    for folder in (Path.cwd(), *keep):
        if target.resolve() in (folder.resolve(), *folder.resolve().parents):
            raise OutputError(f"{target} holds {folder}, which would be lost. Name another folder.")
    return target


@contextlib.contextmanager
def _as_output_error(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror or error}.") from None


def write_weights(
    folder: Path,
    specs: Sequence[TensorSpec],
    tensors: Iterable[tuple[str, torch.Tensor]],
    *,
    max_shard_size: int | str = "50GB",
) -> dict[str, str]:
    """Write tensors as they come to safetensors files whose layout is planned in advance.

    Args:
        folder (`Path`):
            An existing folder.
        specs (`Sequence[TensorSpec]`):
            What will come: names, shapes and types.
        tensors (`Iterable[tuple[str, torch.Tensor]]`):
            Each of them once, in any order.
        max_shard_size (`int` or `str`, *optional*, defaults to `"50GB"`):
            As in transformers; one larger tensor gets a shard of its own.

    Returns:
        `dict[str, str]`: tensor name -> xxh3-128 of its bytes.

    Raises:
        [`OutputError`]: if `max_shard_size` is no size.
        [`OSError`]: if a file cannot be written, which [`staged_folder`] turns into an `OutputError`.
    """
    from huggingface_hub import split_state_dict_into_shards_factory

    by_name = {spec.name: spec for spec in specs}
    try:
        split = split_state_dict_into_shards_factory(
            by_name,
            get_storage_size=lambda spec: spec.nbytes,
            filename_pattern="model{suffix}.safetensors",
            max_shard_size=max_shard_size,
        )
    except ValueError as error:
        raise OutputError(
            f"max_shard_size={max_shard_size!r}: {error}. Write a number and its unit, as in 5GB."
        ) from None
    digests = {}
    with contextlib.ExitStack() as stack:
        places: dict[str, tuple[BinaryIO, int]] = {}
        for name, keys in split.filename_to_tensors.items():
            file = stack.enter_context((folder / name).open("wb"))
            places |= {
                key: (file, start) for key, start in _write_header(file, [by_name[key] for key in keys]).items()
            }
        for name, tensor in tensors:
            file, start = places.pop(name)
            file.seek(start)
            file.write(_bytes(tensor))
            digests[name] = tensor_digest(tensor)
        if places:
            raise RuntimeError(f"{len(places)} planned tensors did not come, such as {next(iter(places))}")
    if split.is_sharded:
        total = sum(spec.numel for spec in specs)
        index = {"metadata": {"total_parameters": total, **split.metadata}, "weight_map": split.tensor_to_filename}
        (folder / SAFE_INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return digests


def _write_header(file: BinaryIO, specs: Sequence[TensorSpec]) -> dict[str, int]:
    """Lay the tensors out as safetensors does (widest type first, then by name) and say where each begins."""
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    end = 0
    for spec in sorted(specs, key=lambda spec: (-_RANK[CODES[spec.dtype]], spec.name)):
        header[spec.name] = {
            "dtype": CODES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [end, end + spec.nbytes],
        }
        end += spec.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    file.truncate(8 + len(text) + end)
    return {name: 8 + len(text) + entry["data_offsets"][0] for name, entry in header.items() if "dtype" in entry}


def _bytes(tensor: torch.Tensor) -> memoryview:
    import torch

    return memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
