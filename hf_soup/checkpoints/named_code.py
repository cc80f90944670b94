"""References to code in settings: custom classes of a repository and external kernels. Soups never contain them.

The code that runs is chosen by the person who loads a soup, never by an ingredient. No files are read here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ..untrusted import one_line
from .inside import parse_bounded


# Custom classes and pipelines, attention and expert kernels, and custom generation code.
CODE = frozenset(
    (
        *("auto_map", "custom_pipelines", "custom_generate", "kernel_config", "use_kernels", "trust_remote_code"),
        *("attn_implementation", "_attn_implementation", "_attn_implementation_internal"),
        *("experts_implementation", "_experts_implementation", "_experts_implementation_internal"),
    )
)
# JSON files whose keys are the tokens of a vocabulary rather than settings.
WORDS = re.compile(r"tokenizer\.json|(\w+[-_])?vocab[^/]*\.json|added_tokens\.json|tekken\.json|emoji\.json")


def without_code(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without references to code, including nested settings."""
    return {key: _without_code(value) for key, value in settings.items() if key not in CODE}


def _without_code(value: Any) -> Any:
    """A setting, which may contain others, without references to code."""
    if isinstance(value, Mapping):
        return without_code(value)
    if isinstance(value, list):
        return [_without_code(item) for item in value]
    return value


def forget_code(loaded: Any) -> None:
    """Remove references to code from a configuration, tokenizer or processor that transformers has loaded, and from
    those nested in it, so that the code is neither run nor saved.

    Args:
        loaded (`Any`):
            Object with `save_pretrained`, which is changed.
    """
    waiting = [loaded]
    while waiting:
        fields = vars(waiting.pop())
        for name in CODE & fields.keys():
            if name.endswith("_internal"):
                fields[name] = None  # kernels that transformers looks up and chooses itself
            else:
                del fields[name]
        for name, value in fields.items():
            if isinstance(value, (dict, list)):
                fields[name] = _without_code(value)
            elif hasattr(value, "save_pretrained") and hasattr(value, "__dict__"):
                waiting.append(value)


def is_searched(name: str) -> bool:
    """Whether a file may hold settings, so that it has to be searched before it is copied."""
    return name.endswith(".json") and not WORDS.fullmatch(name.rpartition("/")[2])


def file_without_code(name: str, content: bytes, where: str) -> bytes:
    """The content of a settings file without references to code; unchanged byte for byte if it has none.

    Args:
        name (`str`):
            Name of the file.
        content (`bytes`):
            Content of the file.
        where (`str`):
            Name of the checkpoint in errors.

    Raises:
        [`IngredientError`]: if it is no JSON.
    """
    settings = parse_bounded(content, f"{one_line(name)} of {where}")
    kept = _without_code(settings)
    if kept == settings:
        return content
    return (json.dumps(kept, indent=2) + "\n").encode()
