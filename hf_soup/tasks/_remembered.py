"""The tasks of configurations, kept between processes: finding one imports transformers, which takes a second."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..plugins import names
from ..value_store import ValueStore
from ..version import versions


def store() -> ValueStore:
    """The store of the tasks, below `HF_HOME`."""
    from huggingface_hub.constants import HF_HOME

    return ValueStore(Path(HF_HOME) / "hf_soup" / "tasks.sqlite", "tasks of models")


def recall_task(config: Mapping[str, Any]) -> str | None:
    """The task of a configuration that this or another process has found before."""
    key = _key(config)
    task = store().read([key]).get(key, b"").decode(errors="replace")
    return task if task in names("task") else None


def remember_task(config: Mapping[str, Any], task: str) -> None:
    """Keep the task of a configuration."""
    store().write(_key(config), "task", str(config.get("architectures")), task.encode())


def _key(config: Mapping[str, Any]) -> str:
    """A digest of the configuration and of the libraries that know what it means."""
    import xxhash

    content = json.dumps([config, versions(), names("task")], sort_keys=True, default=str)
    return xxhash.xxh3_128_hexdigest(content.encode("utf-8", "surrogatepass"))
