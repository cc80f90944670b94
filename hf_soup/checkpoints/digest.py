"""Digests of tensors: xxh3-128 of the bytes, and one for many tensors, whatever files they lie in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    import torch


def tensor_digest(tensor: torch.Tensor) -> str:
    """The xxh3-128 of a tensor's bytes in row-major order, as 32 hexadecimal digits."""
    import torch
    import xxhash

    return xxhash.xxh3_128_hexdigest(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def combined_digest(digests: Mapping[str, str]) -> str:
    """One digest over {tensor name: digest}, sorted by name: independent of order and of sharding."""
    import xxhash

    lines = "".join(f"{name}:{digest}\n" for name, digest in sorted(digests.items()))
    return "xxh3-128:" + xxhash.xxh3_128_hexdigest(lines.encode())
