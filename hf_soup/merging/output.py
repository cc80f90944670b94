"""Plan -> weight files: shards of the soup, with the digests of what was read and written for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.output_layout import OutputShard
from ..checkpoints.writer import shard_files
from .blend import blend
from .plan import Plan


if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Digested:
    """What was read and written for some tensors of a soup.

    Args:
        written (`Mapping[str, str]`):
            Tensor -> its digest in the soup.
        read (`tuple[Mapping[str, str], ...]`):
            For each ingredient the digest of each tensor that was read, those of the base model last.
        verified (`tuple[frozenset[str], ...]`):
            For each of them, the streamed files that were read completely and have the digest that the Hub reports.
    """

    written: Mapping[str, str]
    read: tuple[Mapping[str, str], ...]
    verified: tuple[frozenset[str], ...]

    @classmethod
    def together(cls, parts: Iterable[Digested]) -> Digested:
        """What was read and written for all tensors."""
        written: dict[str, str] = {}
        reads: list[dict[str, str]] = []
        verified: list[frozenset[str]] = []
        for part in parts:
            written |= part.written
            reads += [{} for _ in range(len(part.read) - len(reads))]
            verified += [frozenset() for _ in range(len(part.verified) - len(verified))]
            for place, digests in enumerate(part.read):
                reads[place] |= digests
                verified[place] |= part.verified[place]
        return cls(written, tuple(reads), tuple(verified))


def make_shards(
    folder: Path,
    shards: Sequence[OutputShard],
    plan: Plan,
    checkpoints: Sequence[Checkpoint],
    *,
    statistics: Mapping[str, torch.Tensor],
    device: str = "cpu",
) -> Digested:
    """Average the tensors of some files, and write them.

    Args:
        folder (`Path`):
            Existing folder to write to.
        shards (`Sequence[OutputShard]`):
            The files.
        plan ([`Plan`]), checkpoints (`Sequence[Checkpoint]`):
            Plan of the whole soup, and its ingredients.
        statistics (`Mapping[str, torch.Tensor]`):
            Tensors that replace averages, as returned by [`running_statistics`].
        device (`str`, *optional*, defaults to `"cpu"`):
            Device on which tensors are averaged.

    Raises:
        [`IngredientError`]: if an ingredient contains NaN, or has changed since the recipe was made.
    """

    def sink(name: str, start: int, content: memoryview) -> None:
        if name not in statistics:
            files.write(name, start, content)

    names = {name for shard in shards for name in shard.specs}
    own_plan = plan._replace(steps=tuple(step for step in plan.steps if step.spec.name in names))
    with shard_files(folder, shards) as files:
        # Averages that are replaced by statistics are computed too, because digests cover every tensor that was read.
        read = blend(own_plan, checkpoints, sink, digests=True, device=device)
        for name, tensor in statistics.items():
            if name in names:
                files.write_tensor(name, tensor)
    verified = [item.verified_files for item in checkpoints]
    verified.append(frozenset() if plan.base is None else plan.base.verified_files)
    return Digested(files.digests(), tuple(read), tuple(verified))
