"""Reusable memory for the pieces of tensors of one thread. Its content is unknown here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..checkpoints.digest import bytes_of


if TYPE_CHECKING:
    import torch

WIDEST = 8  # bytes of an element


class Buffer:
    """Memory for a number of elements of any type. Larger requests get their own memory.

    Args:
        numel (`int`):
            Number of elements of the widest type that fit.
        device (`str`, *optional*, defaults to `"cpu"`):
            Device that holds the memory.
    """

    def __init__(self, numel: int, device: str = "cpu"):
        import torch

        self._numel = numel
        self._memory = torch.empty(numel * WIDEST, dtype=torch.uint8, device=device)
        # Most pieces have the same size, and creating a view takes as long as adding a small tensor.
        self._elements: dict[tuple[int, str], torch.Tensor] = {}
        self._bytes: dict[tuple[int, str], memoryview] = {}

    def elements(self, numel: int, dtype: str) -> torch.Tensor:
        """Flat memory for elements of a type such as `"float32"`; valid until the next call."""
        key = numel, dtype
        if key in self._elements:
            return self._elements[key]
        elements = self._view(numel, dtype)
        if numel <= self._numel:
            self._elements[key] = elements
        return elements

    def elements_and_bytes(self, numel: int, dtype: str) -> tuple[torch.Tensor, memoryview]:
        """The same memory also as bytes, to read a file into; only for a buffer on the CPU."""
        key = numel, dtype
        if key in self._bytes:
            return self._elements[key], self._bytes[key]
        elements = self.elements(numel, dtype)
        memory = bytes_of(elements)
        if numel <= self._numel:
            self._bytes[key] = memory
        return elements, memory

    def _view(self, numel: int, dtype: str) -> torch.Tensor:
        """The first elements of the memory as this type; if they do not fit, separate memory."""
        import torch

        element_type: torch.dtype = getattr(torch, dtype)
        size = numel * element_type.itemsize
        if numel <= self._numel:
            memory = self._memory[:size]
        else:
            memory = self._memory.new_empty(size)
        return memory.view(element_type)
