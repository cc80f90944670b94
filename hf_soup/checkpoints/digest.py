"""Digests of tensors (xxh3-128), computed in pieces on any thread, and combined digests of many tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .pieces import PIECE, piece_starts


if TYPE_CHECKING:
    import numpy as np
    import torch

SIZE = 16  # bytes of one digest


class Digests:
    """Digests of tensors that arrive in pieces, in any order.

    Each piece takes 16 bytes of memory. Several threads may add pieces at once.
    """

    def __init__(self) -> None:
        self._piece_digests: dict[str, bytearray] = {}

    def expect(self, name: str, numel: int) -> None:
        """Reserve room for the pieces of one tensor."""
        self._piece_digests[name] = bytearray(SIZE * len(piece_starts(numel)))

    def add(self, name: str, start: int, data: memoryview, itemsize: int) -> None:
        """Add the bytes of one tensor from the element `start`, where a piece begins, to the end of a piece."""
        digests = _of_pieces(data, itemsize)
        place = start // PIECE * SIZE
        self._piece_digests[name][place : place + len(digests)] = digests

    def result(self) -> dict[str, str]:
        """The digest of each tensor, as 32 hexadecimal digits."""
        return {name: _joined(digests) for name, digests in self._piece_digests.items()}


def bytes_of(tensor: torch.Tensor) -> memoryview:
    """The bytes of a tensor in row-major order, without a copy if they are stored that way on the CPU."""
    import torch

    # numpy has neither bfloat16 nor float8, so it gets a view of the bytes.
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def tensor_of(data: memoryview, dtype: str) -> torch.Tensor:
    """Bytes on the CPU as a flat tensor of a type such as `"float32"`, which shares their memory."""
    import torch

    if not len(data):  # torch refuses empty memory
        return torch.empty(0, dtype=getattr(torch, dtype))
    return torch.frombuffer(data, dtype=getattr(torch, dtype))


def float64_of(data: memoryview, dtype: str) -> np.ndarray:
    """Bytes on the CPU as a flat array of float64, without torch for the types that numpy has, and for bfloat16."""
    import numpy as np

    if dtype == "bfloat16":  # the upper half of a float32
        wide = np.frombuffer(data, np.uint16).astype(np.uint32) << 16
        return wide.view(np.float32).astype(np.float64)
    if hasattr(np, dtype):
        return np.frombuffer(data, dtype).astype(np.float64)
    return tensor_of(data, dtype).double().numpy()


def tensor_digest(tensor: torch.Tensor) -> str:
    """The digest of a tensor, as 32 hexadecimal digits."""
    return _joined(_of_pieces(bytes_of(tensor), tensor.dtype.itemsize))


def combined_digest(digests: Mapping[str, str], *, partial: bool = False) -> str:
    """One digest over {tensor name: digest}, sorted by name, so that it does not depend on order or sharding.

    Args:
        digests (`Mapping[str, str]`):
            Digest of each tensor.
        partial (`bool`, *optional*, defaults to `False`):
            Whether these are not all tensors; the digest begins with their number then, as in `xxh3-128/57:`.
    """
    import xxhash

    lines = "".join(f"{name}:{digest}\n" for name, digest in sorted(digests.items()))
    algorithm = "xxh3-128"
    if partial:
        algorithm = f"xxh3-128/{len(digests)}"
    return f"{algorithm}:{xxhash.xxh3_128_hexdigest(lines.encode())}"


def _of_pieces(data: memoryview, itemsize: int) -> bytes:
    """The joined digests of the pieces of some bytes that start at a piece."""
    from xxhash import xxh3_128_digest

    size = PIECE * itemsize
    if len(data) <= size:
        return xxh3_128_digest(data)
    return b"".join(xxh3_128_digest(data[start : start + size]) for start in range(0, len(data), size))


def _joined(digests: bytes | bytearray) -> str:
    """The digest of a tensor from the digests of its pieces; with a single piece, the digest of that piece."""
    import xxhash

    if len(digests) == SIZE:
        return digests.hex()
    return xxhash.xxh3_128_hexdigest(bytes(digests))
