"""What an adapter does to one weight of its base model, in float64: LoRA and DoRA, IA3, LoHa and LoKr."""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from .digest import bytes_of
from .files import OpenFiles
from .reader import TensorSpec, read_bytes, read_tensor


if TYPE_CHECKING:
    import torch

IN_MEMORY = 16  # changes whose factors stay in memory
JOINED_IN_MEMORY = 2  # the same for joined changes, which have the factors of many


class Stored(NamedTuple):
    """A tensor of an adapter, in a file or in memory.

    Args:
        spec (`TensorSpec`):
            Its shape and type, and where it is in its file.
        folder (`Path`, *optional*):
            Folder of the file.
        tensor (`torch.Tensor`, *optional*):
            The tensor itself, if it is in memory.
    """

    spec: TensorSpec
    folder: Path | None = None
    tensor: torch.Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self.spec.shape

    def read(self) -> torch.Tensor:
        """Read it."""
        if self.tensor is not None:
            return self.tensor
        if self.folder is None:
            raise ValueError(f"{self.spec.name} is neither in memory nor in a file")
        return read_tensor(self.folder, self.spec)

    def read_into(self, files: OpenFiles, start: int, into: memoryview) -> None:
        """Copy the bytes of consecutive elements."""
        if self.folder is not None:
            read_bytes(files, self.folder, self.spec, start, into)
        else:
            stop = start + len(into) // self.spec.itemsize
            into[:] = bytes_of(self.read().reshape(-1)[start:stop])


@dataclass(frozen=True, eq=False)
class Change(ABC):
    """The change of one weight, which is a matrix here: its columns are flattened."""

    @abstractmethod
    def misfit(self, rows: int, columns: int) -> str | None:
        """Why it is no change of a matrix of this shape; `None` if it is one."""

    @abstractmethod
    def read_factors(self) -> tuple[torch.Tensor, ...]:
        """Read what the change is computed from, in float64."""

    @abstractmethod
    def of_rows(self, base: torch.Tensor, first: int) -> torch.Tensor:
        """Change some rows.

        Args:
            base (`torch.Tensor` of shape `(rows, columns)`):
                Consecutive rows of the base model's weight, in float64.
            first (`int`):
                The first of them.

        Returns:
            `torch.Tensor` of the same shape: these rows of the changed weight.
        """

    @property
    def factors(self) -> tuple[torch.Tensor, ...]:
        """What [`read_factors`] returns; those used last stay in memory, for the pieces of one weight."""
        return _factors_of(self)


@functools.lru_cache(maxsize=IN_MEMORY)
def _factors_of(change: Change) -> tuple[torch.Tensor, ...]:
    return change.read_factors()


@dataclass(frozen=True, eq=False)
class Product(Change):
    """The addition of `left @ right`, which are what [`read_factors`] returns."""

    def of_rows(self, base: torch.Tensor, first: int) -> torch.Tensor:
        """Rows with the product added, without the magnitude of DoRA."""
        import torch

        left, right = self.factors
        return torch.addmm(base, left[first : first + len(base)], right)


@dataclass(frozen=True, eq=False)
class LowRank(Product):
    """The addition of `left @ right`: LoRA, and DoRA with a magnitude.

    Args:
        a ([`Stored`] of shape `(rank, inputs, ...)`), b ([`Stored`] of shape `(outputs, rank, ...)`):
            Factors, which are read when they are needed.
        scaling (`float`):
            Factor of their product.
        magnitude ([`Stored`], *optional*):
            Of DoRA: the length of each output of the changed weight.
        kind (`str`, *optional*, defaults to `"linear"`):
            Layout of the weight: `"transposed"` for inputs by outputs, as in GPT-2, `"embedding"` or `"convolution"`.

    Source: Hu et al. 2021, [LoRA](https://arxiv.org/abs/2106.09685), and Liu et al. 2024,
    [DoRA](https://arxiv.org/abs/2402.09353).
    """

    a: Stored
    b: Stored
    scaling: float
    magnitude: Stored | None = None
    kind: Literal["linear", "transposed", "embedding", "convolution"] = "linear"

    @property
    def by_column(self) -> bool:
        """Whether a column of the weight, and not a row, belongs to one output."""
        return self.kind in ("transposed", "embedding")

    @property
    def rank(self) -> int:
        """The rank of the factors."""
        return self.a.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """The rows and columns of the weight."""
        inputs, outputs = math.prod(self.a.shape[1:]), self.b.shape[0]
        return (inputs, outputs) if self.by_column else (outputs, inputs)

    def misfit(self, rows: int, columns: int) -> str | None:
        """Another shape, or a rank that a matrix of this shape cannot have."""
        if self.shape != (rows, columns):
            return f"has the shape {list(self.shape)}"
        return f"has the rank {self.rank}, which is larger than the matrix" if self.rank > min(self.shape) else None

    def read_factors(self) -> tuple[torch.Tensor, ...]:
        """The scaled first factor `(rows, rank)` and the second factor `(rank, columns)`."""
        a = self.a.read().double().reshape(self.rank, -1)
        b = self.b.read().double().reshape(-1, self.rank) * self.scaling
        return (a.T.contiguous(), b.T.contiguous()) if self.by_column else (b, a)


@dataclass(frozen=True, eq=False)
class Joined(Product):
    """The weighted mean of several low-rank changes of one weight, as one product of the factors side by side.

    Args:
        changes (`tuple[LowRank, ...]`):
            Changes without magnitudes.
        shares (`tuple[float, ...]`):
            The part of each one in the mean.
    """

    changes: tuple[LowRank, ...]
    shares: tuple[float, ...]

    def misfit(self, rows: int, columns: int) -> str | None:
        """Nothing: each change was checked when its adapter was opened."""

    def read_factors(self) -> tuple[torch.Tensor, ...]:
        """The factors side by side."""
        import torch

        left, right = zip(*(change.read_factors() for change in self.changes), strict=True)
        shared = [factor * share for factor, share in zip(left, self.shares, strict=True)]
        return torch.cat(shared, dim=1), torch.cat(right)

    @property
    def factors(self) -> tuple[torch.Tensor, ...]:
        """Those used last stay in memory."""
        return _joined_factors_of(self)


@functools.lru_cache(maxsize=JOINED_IN_MEMORY)
def _joined_factors_of(change: Joined) -> tuple[torch.Tensor, ...]:
    return change.read_factors()


@dataclass(frozen=True, eq=False)
class Scale(Change):
    """The product of each row, or of each column, with a number: IA3.

    Args:
        vector ([`Stored`]):
            A number for each row or column.
        by_column (`bool`):
            Whether they belong to columns.

    Source: Liu et al. 2022, [Few-Shot Parameter-Efficient Fine-Tuning](https://arxiv.org/abs/2205.05638).
    """

    vector: Stored
    by_column: bool

    def misfit(self, rows: int, columns: int) -> str | None:
        """Another number of rows or columns."""
        count = math.prod(self.vector.shape)
        if count == (columns if self.by_column else rows):
            return None
        return f"scales {count} {'columns' if self.by_column else 'rows'}"

    def read_factors(self) -> tuple[torch.Tensor, ...]:
        """The numbers, in a column or a row."""
        return (self.vector.read().double().reshape((1, -1) if self.by_column else (-1, 1)),)

    def of_rows(self, base: torch.Tensor, first: int) -> torch.Tensor:
        """Rows, scaled."""
        (vector,) = self.factors
        return base * (vector if self.by_column else vector[first : first + len(base)])


@dataclass(frozen=True, eq=False)
class Hadamard(Change):
    """The addition of the product, element by element, of two products of factors: LoHa.

    Args:
        first_pair (`tuple[Stored, Stored]`), second_pair (`tuple[Stored, Stored]`):
            Factors of shapes `(rows, rank)` and `(rank, columns)`.
        scaling (`float`):
            Factor of the addition.

    Source: Hyeon-Woo et al. 2021, [FedPara](https://arxiv.org/abs/2108.06098).
    """

    first_pair: tuple[Stored, Stored]
    second_pair: tuple[Stored, Stored]
    scaling: float

    def misfit(self, rows: int, columns: int) -> str | None:
        """Another shape."""
        for left, right in (self.first_pair, self.second_pair):
            if left.shape[0] != rows or right.shape[1] != columns or left.shape[1] != right.shape[0]:
                return f"has factors of the shapes {list(left.shape)} and {list(right.shape)}"
        return None

    def read_factors(self) -> tuple[torch.Tensor, ...]:
        """The four factors, the first of them scaled."""
        first, *others = (each.read().double() for each in (*self.first_pair, *self.second_pair))
        return first * self.scaling, *others

    def of_rows(self, base: torch.Tensor, first: int) -> torch.Tensor:
        """Rows with the product added."""
        left, right, second_left, second_right = self.factors
        last = first + len(base)
        return base + (left[first:last] @ right) * (second_left[first:last] @ second_right)


@dataclass(frozen=True, eq=False)
class Kronecker(Change):
    """The addition of the Kronecker product of two matrices, of which each may be a product of two factors: LoKr.

    Args:
        left (`tuple[Stored, ...]`), right (`tuple[Stored, ...]`):
            A matrix, or two factors of it.
        scaling (`float`):
            Factor of the addition.

    Source: Yeh et al. 2023, [LyCORIS](https://arxiv.org/abs/2309.14859).
    """

    left: tuple[Stored, ...]
    right: tuple[Stored, ...]
    scaling: float

    def misfit(self, rows: int, columns: int) -> str | None:
        """Another shape."""
        shape = tuple(math.prod(sizes) for sizes in zip(_shape(self.left), _shape(self.right), strict=True))
        return None if shape == (rows, columns) else f"has the shape {list(shape)}"

    def read_factors(self) -> tuple[torch.Tensor, ...]:
        """The scaled left matrix, and the right one."""
        left, right = _product(self.left), _product(self.right)
        return left * self.scaling, right

    def of_rows(self, base: torch.Tensor, first: int) -> torch.Tensor:
        """Rows with the product added."""
        import torch

        left, right = self.factors
        rows = torch.arange(first, first + len(base))
        # row i of the product is the Kronecker product of a row of each matrix
        ours, theirs = left[rows // len(right)], right[rows % len(right)]
        return base + (ours[:, :, None] * theirs[:, None, :]).reshape(base.shape)


def _shape(parts: Sequence[Stored]) -> tuple[int, int]:
    """The shape of a matrix, or of the product of two factors, with its columns flattened."""
    return parts[0].shape[0], math.prod(parts[-1].shape[1:])


def _product(parts: Sequence[Stored]) -> torch.Tensor:
    """A matrix, or the product of two factors, in float64."""
    matrix = parts[0].read().double().flatten(1)
    return matrix if len(parts) == 1 else matrix @ parts[1].read().double().flatten(1)
