"""Reusable memory for the pieces of tensors of one thread. Its content is unknown here."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

from ..checkpoints.digest import tensor_of
from ..checkpoints.reader import bytes_per_element


if TYPE_CHECKING:
    import torch

WIDEST = 8  # bytes of an element


class Buffer:
    """Memory for a number of elements of any type. Larger requests get their own memory.

    Memory on the CPU is given as bytes without an import of torch.

    Args:
        numel (`int`):
            Number of elements of the widest type that fit.
        device (`str`, *optional*, defaults to `"cpu"`):
            Device that holds the memory.
    """

    def __init__(self, numel: int, device: str = "cpu"):
        self._numel = numel
        self._on_device: torch.Tensor | None = None
        if device == "cpu":
            self._memory = memoryview(mmap.mmap(-1, numel * WIDEST))  # begins at a page, as vectors like it
        else:
            import torch

            self._on_device = torch.empty(numel * WIDEST, dtype=torch.uint8, device=device)

    def bytes(self, numel: int, dtype: str) -> memoryview:
        """Memory on the CPU for elements of a type such as `"float32"`; valid until the next call."""
        size = numel * bytes_per_element(dtype)
        if numel <= self._numel:
            return self._memory[:size]
        return memoryview(bytearray(size))

    def elements(self, numel: int, dtype: str) -> torch.Tensor:
        """The same as a flat tensor on the device."""
        if self._on_device is None:
            return tensor_of(self.bytes(numel, dtype), dtype)
        import torch

        size = numel * bytes_per_element(dtype)
        if numel <= self._numel:
            memory = self._on_device[:size]
        else:
            memory = self._on_device.new_empty(size)
        return memory.view(getattr(torch, dtype))
