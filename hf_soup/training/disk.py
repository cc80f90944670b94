"""How much disk a sweep takes at most while it runs, and whether there is room for it. Nothing is written."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import OutputError
from .lengths import Length


if TYPE_CHECKING:
    from transformers import PreTrainedModel

OPTIMIZER_STATES = 2  # of the size of the weights, as AdamW has them
UNDER_WAY = 3  # checkpoints of a run: the best or the one before, the last, and the one that is being written


def most_bytes(
    model: PreTrainedModel,
    lengths: Mapping[str, Length],
    done: frozenset[str],
    *,
    keep: str,
    makes_start: bool,
    workers: int,
) -> int:
    """Bytes that runs take at most: weights of what is kept, and checkpoints with their optimizer on the way.

    Args:
        model (`transformers.PreTrainedModel`):
            The model that runs start from; it may lie on the `meta` device.
        lengths (`Mapping[str, Length]`):
            Of all runs, by their names.
        done (`frozenset[str]`):
            Those that are not trained any more.
        keep (`str`):
            `"best"`, `"last"` or `"all"`.
        makes_start (`bool`):
            Whether the start has yet to be saved.
        workers (`int`):
            How many runs are trained at once.
    """
    to_train = [length for name, length in lengths.items() if name not in done]
    if keep == "all":
        kept = sum(length.evaluations for length in to_train)
    else:
        kept = len(to_train)
    if makes_start:
        kept += 1
    on_the_way = min(workers, len(to_train)) * UNDER_WAY * (1 + OPTIMIZER_STATES)
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    return weights * (kept + on_the_way)


def refuse_small_disk(folder: Path, needed: int, summary: Callable[[], str]) -> None:
    """Refuse a sweep that its disk has no room for.

    Args:
        folder (`Path`):
            Of the sweep; it need not be there yet.
        needed (`int`):
            Bytes.
        summary (`Callable`):
            Gives what the error says of the sweep, for which the records of its runs are read.

    Raises:
        [`OutputError`]: if fewer bytes are free.
    """
    # a folder that is not there yet will lie on the disk of the nearest one above it
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(nearest).free
    if needed > free:
        raise OutputError(
            f"{folder}: {summary()}, and {free / 1e9:.1f} GB are free. Make room, or train fewer runs at once."
        )
