"""Maximum disk space of a sweep while it runs, and whether it is available. Nothing is written."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import OutputError
from .lengths import Length


if TYPE_CHECKING:
    from transformers import PreTrainedModel

OPTIMIZER_STATES = 2  # states of the size of the weights, as for AdamW
UNDER_WAY = 3  # checkpoints of a run: the best or previous one, the last, and the one that is being written


def most_bytes(
    model: PreTrainedModel,
    lengths: Mapping[str, Length],
    done: frozenset[str],
    *,
    keep: str,
    makes_start: bool,
    workers: int,
) -> int:
    """Maximum number of bytes that runs need: kept weights, and temporary checkpoints with optimizer states.

    Args:
        model (`transformers.PreTrainedModel`):
            Model that the runs start from; it may be on the `meta` device.
        lengths (`Mapping[str, Length]`):
            Lengths of all runs, by name.
        done (`frozenset[str]`):
            Names of runs that are not trained again.
        keep (`str`):
            `"best"`, `"last"` or `"all"`.
        makes_start (`bool`):
            Whether the start still has to be saved.
        workers (`int`):
            Number of runs trained at once.
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
    """Raise an error if the disk is too small for a sweep.

    Args:
        folder (`Path`):
            Folder of the sweep, which need not exist yet.
        needed (`int`):
            Number of bytes that the sweep needs.
        summary (`Callable`):
            Function that returns the description of the sweep in the error; it reads the records of the runs.

    Raises:
        [`OutputError`]: if fewer bytes are free.
    """
    # a folder that does not exist yet will be on the disk of its nearest existing parent
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(nearest).free
    if needed > free:
        raise OutputError(
            f"{folder}: {summary()}, and {free / 1e9:.1f} GB are free. Make room, or train fewer runs at once."
        )
