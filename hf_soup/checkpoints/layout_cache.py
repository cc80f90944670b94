"""Names and shapes of models' tensors, cached between processes to avoid importing transformers' models.

Each file contains a digest of its content, so that a damaged, truncated or outdated file is ignored.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import SoupError
from ..untrusted import read_json
from ..version import versions
from .loading_rules import layout_key


def cache_folder() -> Path:
    """The folder of the cached layouts, below `HF_HOME`."""
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME) / "hf_soup" / "layouts"


def _file(config: Mapping[str, Any]) -> Path:
    """The file of a model's layout, named by the digest of everything that determines it."""
    import xxhash

    content = layout_key(config) + _versions()
    digest = xxhash.xxh3_128_hexdigest(content.encode("utf-8", "surrogatepass"))
    return cache_folder() / f"{digest}.json"


def remembered(config: Mapping[str, Any]) -> Mapping[str, tuple[int, ...]] | None:
    """Names and shapes that this or another process has looked up before."""
    return _read(_file(config))


@functools.cache  # versions of libraries, each of which may change the names that a class writes
def _versions() -> str:
    return json.dumps(versions(), sort_keys=True)


@functools.lru_cache(maxsize=16)
def _read(path: Path) -> Mapping[str, tuple[int, ...]] | None:
    try:
        content = read_json(path)
        shapes = {name: tuple(shape) for name, shape in content["shapes"].items()}
        is_whole = content["digest"] == _digest(path, shapes)
    except (OSError, SoupError, TypeError, KeyError, AttributeError):
        return None  # missing, damaged, or in another layout: it is looked up again
    return shapes if is_whole else None


def _digest(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The digest of the shapes in their order and of the file that they belong to."""
    import xxhash

    content = json.dumps([path.name, list(shapes.items())])
    return xxhash.xxh3_128_hexdigest(content.encode())


def remember(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Store names and shapes for other processes; if the folder cannot be written, nothing is stored."""
    path = _file(config)
    aside = path.with_name(f".{path.name}.{os.getpid()}")  # unique, since others may write the same file
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(json.dumps({"digest": _digest(path, shapes), "shapes": shapes}), encoding="utf-8")
        os.replace(aside, path)
    except OSError:
        with contextlib.suppress(OSError):
            aside.unlink()
        return
    _read.cache_clear()
