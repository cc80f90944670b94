"""What was read of the ingredients, as the digests that a recipe records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.digest import combined_digest
from ..checkpoints.reader import TensorSpec
from ..errors import IngredientError
from ..types import Ingredient


def as_read(checkpoint: Checkpoint, read: Mapping[str, str], verified: frozenset[str] = frozenset()) -> Ingredient:
    """The reference to an ingredient with the digests of what was read.

    Args:
        checkpoint ([`Checkpoint`]):
            The ingredient.
        read (`Mapping[str, str]`):
            Tensor name -> digest of each tensor that was read.
        verified (`frozenset[str]`, *optional*):
            Files that were streamed from their beginning to their end, and have the digest that the Hub reports.

    Raises:
        [`IngredientError`]: if what was read is not what the recipe, or the look at a model in memory, recorded.
    """
    files = file_digests(checkpoint, read)
    return replace(checkpoint.ingredient, files=files, tensors=tensor_digests(checkpoint, read, verified))


def tensor_digests(checkpoint: Checkpoint, read: Mapping[str, str], verified: frozenset[str]) -> dict[str, str]:
    """The digests of the tensors of streamed files whose own digest was not computed, because they were read in parts.

    Raises:
        [`IngredientError`]: if the recipe records others.
    """
    digests = {}
    for file in checkpoint.ingredient.files:
        recorded = checkpoint.ingredient.tensors.get(file)
        is_hashed = file in verified or not checkpoint.ingredient.files[file].startswith("sha")
        is_read_in_parts = checkpoint.remote is not None and not is_hashed
        if not is_read_in_parts and recorded is None:
            continue
        digest = _digest_of_file(checkpoint, file, read)
        if digest is None:
            continue
        _refuse_another(checkpoint, file, recorded, digest)
        if is_read_in_parts:
            digests[file] = digest
    return digests


def file_digests(checkpoint: Checkpoint, read: Mapping[str, str]) -> dict[str, str]:
    """The digests of an ingredient's files that a recipe records after reading; the Hub's own digests are kept.

    Args:
        checkpoint ([`Checkpoint`]):
            The ingredient.
        read (`Mapping[str, str]`):
            Tensor name -> digest of each tensor that was read.

    Raises:
        [`IngredientError`]: if what was read is not what the recipe, or the look at a model in memory, recorded.
    """
    result = dict(checkpoint.ingredient.files)
    for file, recorded in checkpoint.ingredient.files.items():
        if recorded.startswith("sha"):  # the Hub's own digest, of the complete file
            continue
        digest = _digest_of_file(checkpoint, file, read)
        if digest is None:
            continue
        _refuse_another(checkpoint, file, recorded, digest)
        # a digest of some tensors is weaker than one of all of them, and stronger than size and times, or an ETag
        if not _is_partial(digest) or recorded.startswith(("stat:", "etag:")):
            result[file] = digest
    return result


def _digest_of_file(checkpoint: Checkpoint, file: str, read: Mapping[str, str]) -> str | None:
    """One digest of the tensors of a file that were read; `None` if there are none."""
    specs = _specs_of_file(checkpoint, file)
    digests = {spec.key: read[name] for name, spec in specs.items() if name in read}
    if not digests:
        return None
    return combined_digest(digests, partial=len(digests) < len(specs))


def _is_partial(digest: str) -> bool:
    """Whether a digest is that of some tensors of a file."""
    return "/" in digest.split(":")[0]


def _refuse_another(checkpoint: Checkpoint, file: str, recorded: str | None, digest: str) -> None:
    """Refuse tensors whose digest differs from the recorded one."""
    # The part before the colon states what was hashed: all tensors of a file, some of them, or its size and times.
    if recorded is None or recorded.split(":")[0] != digest.split(":")[0] or recorded == digest:
        return
    raise IngredientError(
        f"the weights of {checkpoint.name!r} are not those that the recipe was made from ({file} has changed)."
    )


def _specs_of_file(checkpoint: Checkpoint, file: str) -> dict[str, TensorSpec]:
    """The tensors that the digest of a file covers; for a model in memory all, whatever name it is recorded under."""
    if checkpoint.in_memory:
        return dict(checkpoint.specs)
    return {name: spec for name, spec in checkpoint.specs.items() if spec.file in (file, "")}
