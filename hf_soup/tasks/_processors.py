"""Processors, which combine a tokenizer with what prepares sounds or images."""

from __future__ import annotations

from typing import Any

from ..checkpoints.hub_errors import read_errors
from ..errors import DataError


@read_errors(DataError, "the processor cannot be read")
def load_processor(source: str, revision: str | None = None, *, what: str, **options: Any) -> Any:
    """Load the processor of a checkpoint.

    Args:
        source (`str`), revision (`str`, *optional*):
            Folder or Hub id of the checkpoint, and its commit.
        what (`str`):
            What it prepares, for errors, such as `"sounds and texts"`.
        options:
            Further arguments of `AutoProcessor.from_pretrained`.

    Raises:
        [`DataError`]: if the checkpoint lacks one of its parts.
    """
    from transformers import AutoProcessor

    try:
        return AutoProcessor.from_pretrained(source, revision=revision or "main", trust_remote_code=False, **options)
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{source} has no processor of {what} that loads ({reason}).") from None
