"""Statistics of an ingredient's weights on disk: found beside the ingredient, opened, and written.

What they are and how they are made is unknown here; `hf_soup.evaluation.importance` estimates them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..errors import RecipeError, SoupError, listed
from ..types import DataDescription, Ingredient, StatisticsRecord
from ..untrusted import read_json
from .checkpoint import Checkpoint, contents_of
from .content import content_digests, file_state
from .reader import SAFE_WEIGHTS, TensorSpec
from .shards import read_headers
from .staging import staged_folder
from .writer import weight_files


if TYPE_CHECKING:
    import torch

FOLDER = "soup_importance"  # in the folder of an ingredient
ABOUT = "importance.json"
LAYOUT = 1  # version of the statistics; after a change older ones are not taken


class Importance(NamedTuple):
    """Statistics of the weights of one ingredient.

    Args:
        record ([`StatisticsRecord`]):
            The data that they were estimated on, and their digest.
        tensors (`Checkpoint`):
            Opened file with a tensor for each weight that has statistics.
    """

    record: StatisticsRecord
    tensors: Checkpoint


def find_importance(
    item: Checkpoint, kind: str, *, batches: str | None = None, digest: str | None = None
) -> Importance:
    """The statistics of one kind that are kept for an ingredient with its current weights.

    Args:
        item (`Checkpoint`):
            The ingredient.
        kind (`str`):
            `"fisher"` or `"gram"`.
        batches (`str`, *optional*):
            Digest of the data that they were estimated on; by default there may be only one.
        digest (`str`, *optional*):
            Digest of the statistics.

    Raises:
        [`RecipeError`]: if there are none, or more than one of them fits.
    """
    weights = weights_digest(item)
    fitting, others = [], 0
    for path in sorted(_folder_of(item).glob(f"{kind}-*/{ABOUT}")):
        importance = _open(path, item.name, weights)
        if importance is None:
            others += 1
        elif batches in (None, importance.record.batches) and digest in (None, importance.record.digest):
            fitting.append(importance)
    how = "give importance_data=..." if item.in_memory else f"hf_soup.importance({item.ingredient.source!r}, data"
    if not item.in_memory:
        how += f', kind="{kind}")'
    if not fitting:
        which = " that the recipe was made with" if digest is not None else ""
        changed = f" ({others} of other weights, or damaged)" if others else ""
        raise RecipeError(f"{item.name!r} has no {kind} statistics{which}{changed}. Make them: {how}.")
    if len({importance.record.digest for importance in fitting}) > 1:
        data = [f"{each.record.dataset.rows} of {each.record.dataset.path or 'data in memory'}" for each in fitting]
        raise RecipeError(
            f"{item.name!r} has {kind} statistics of several sets of examples ({listed(data)}): say which with "
            f"importance_data, or delete the others from {_folder_of(item)}."
        )
    return fitting[0]


def write_importance(
    item: Checkpoint,
    kind: str,
    specs: Sequence[TensorSpec],
    record: StatisticsRecord,
    fill: Callable[[Callable[[str, torch.Tensor], None]], None],
) -> Path:
    """Write statistics beside an ingredient; they only appear when they are complete.

    Args:
        item (`Checkpoint`), kind (`str`):
            The ingredient, and the kind of statistics.
        specs (`Sequence[TensorSpec]`):
            Name, shape and type of each tensor.
        record ([`StatisticsRecord`]):
            The data that they are estimated on.
        fill (`Callable`):
            Is called with a function that takes each tensor by its name.

    Returns:
        `Path`: the folder of the statistics.

    Raises:
        [`OutputError`]: if it cannot be written.
    """
    target = _folder_of(item) / f"{kind}-{(record.batches or '').rpartition(':')[2][:16]}"
    with staged_folder(target, overwrite=True) as stage:
        with weight_files(stage, specs, max_shard_size="1000TB") as files:
            fill(files.write_tensor)
        (digest,) = content_digests([stage / SAFE_WEIGHTS]).values()
        about = {
            "kind": kind,
            "weights": weights_digest(item),
            "dataset": record.dataset.as_dict(),
            "batches": record.batches,
            "digest": digest,
        }
        (stage / ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return target


def weights_digest(item: Checkpoint) -> str:
    """A digest of the current weights and configuration of an ingredient, wherever they are."""
    import xxhash

    (contents,) = contents_of([item])
    config = {key: value for key, value in item.config.items() if key not in ("_name_or_path", "transformers_version")}
    decisive = [LAYOUT, sorted(contents.values()), config]
    return xxhash.xxh3_128_hexdigest(json.dumps(decisive, sort_keys=True, default=str).encode())


def _folder_of(item: Checkpoint) -> Path:
    """Where statistics are kept: in the folder of an ingredient, or below `HF_HOME` where it has none of its own."""
    from huggingface_hub.constants import HF_HOME

    if item.folder is not None and not item.on_hub:
        return item.folder / FOLDER
    return Path(HF_HOME) / "hf_soup" / "importance" / weights_digest(item)


def _open(path: Path, name: str, weights: str) -> Importance | None:
    """Statistics on disk; `None` if they are damaged, or belong to other weights."""
    folder = path.parent
    try:
        about = read_json(path)
        if about["weights"] != weights or content_digests([folder / SAFE_WEIGHTS]) != {
            str(folder / SAFE_WEIGHTS): about["digest"]
        }:
            return None
        record = StatisticsRecord(DataDescription(**about["dataset"]), about["batches"], digest=about["digest"])
        specs = read_headers(folder).specs
    except (OSError, ValueError, LookupError, TypeError, SoupError):
        return None
    states = {SAFE_WEIGHTS: file_state(folder / SAFE_WEIGHTS)}
    ingredient = Ingredient(name, str(folder))
    return Importance(record, Checkpoint(ingredient, {}, specs, folder=folder, opened_as=states))
