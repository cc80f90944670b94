"""Names and shapes of models' tensors, kept between processes: to import transformers' models takes a second.

A file holds a digest of what it says, so that one that is damaged, cut off or of another version is as good as none.
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
    """Where layouts are kept between processes: below `HF_HOME`."""
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME) / "hf_soup" / "layouts"


def _file(config: Mapping[str, Any]) -> Path:
    """Where the layout of a model is kept: under the digest of all that decides it."""
    import xxhash

    content = layout_key(config) + _versions()
    digest = xxhash.xxh3_128_hexdigest(content.encode("utf-8", "surrogatepass"))
    return cache_folder() / f"{digest}.json"


def remembered(config: Mapping[str, Any]) -> Mapping[str, tuple[int, ...]] | None:
    """Names and shapes that another process has looked up, or this one before."""
    return _read(_file(config))


@functools.cache  # of libraries, each of which may change the names that a class writes
def _versions() -> str:
    return json.dumps(versions(), sort_keys=True)


@functools.lru_cache(maxsize=16)
def _read(path: Path) -> Mapping[str, tuple[int, ...]] | None:
    try:
        content = read_json(path)
        shapes = {name: tuple(shape) for name, shape in content["shapes"].items()}
        is_whole = content["digest"] == _digest(path, shapes)
    except (OSError, SoupError, TypeError, KeyError, AttributeError):
        return None  # not there, damaged, or laid out otherwise: looked up anew
    return shapes if is_whole else None


def _digest(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Of the shapes in their order, and of what they are the shapes of."""
    import xxhash

    content = json.dumps([path.name, list(shapes.items())])
    return xxhash.xxh3_128_hexdigest(content.encode())


def remember(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Keep names and shapes for other processes; without a folder that can be written nothing is kept."""
    path = _file(config)
    aside = path.with_name(f".{path.name}.{os.getpid()}")  # of this process, as others may write the same
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(json.dumps({"digest": _digest(path, shapes), "shapes": shapes}), encoding="utf-8")
        os.replace(aside, path)
    except OSError:
        with contextlib.suppress(OSError):
            aside.unlink()
        return
    _read.cache_clear()
