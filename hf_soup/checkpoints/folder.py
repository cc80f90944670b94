"""What lies in the folder of a checkpoint: weights, configuration, a Trainer's checkpoints; and what is missing there.

It reads headers and small files, and weights only of pickles that the user allows.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import IngredientError
from .reader import (
    PICKLED_WEIGHTS,
    SAFE_INDEX,
    SAFE_WEIGHTS,
    TensorSpec,
    read_headers,
    read_raw_header,
    shard_files,
)


if TYPE_CHECKING:
    import torch


# What torch raises for a pickle that is damaged, or holds more than tensors.
DAMAGED = (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError, AttributeError, IndexError)
# Buffers of older files that transformers ignores on load and no longer writes: they make no two files different.
IGNORED = re.compile(r"(^|\.)position_ids$|(^|\.)rotary_emb\.inv_freq$")


def checkpoint_of_trainer(folder: Path) -> tuple[Path, str] | None:
    """Of a Trainer's folder without weights of its own: the checkpoint that it called best, else the last, and why."""
    if (folder / SAFE_WEIGHTS).is_file() or (folder / SAFE_INDEX).is_file():
        return None
    numbered = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    last = max(numbered, key=lambda path: int(path.name.removeprefix("checkpoint-")), default=None)
    if last is None:
        return None
    try:
        state = json.loads((last / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        state = {}
    best = Path(state.get("best_model_checkpoint") or "").name
    if best and (folder / best).is_dir():
        return folder / best, f"the best one (metric {state.get('best_metric')})"
    return last, "the last one"


def read_specs(folder: Path) -> tuple[dict[str, TensorSpec], dict[str, str]]:
    """All tensors of a folder, and for each of its files what tells that it is still the same one."""
    _refuse_other_formats(folder)
    return read_headers(folder), digests_of_headers(folder)


def digests_of_headers(folder: Path) -> dict[str, str]:
    """For each weight file a digest of its header, size and time of change."""
    import xxhash

    digests = {}
    for file in shard_files(folder):
        header, state = read_raw_header(folder / file)
        digests[file] = "stat:" + xxhash.xxh3_128_hexdigest(header + f"{state.st_size}:{state.st_mtime_ns}".encode())
    return digests


def without_ignored(specs: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
    """Without the buffers that transformers ignores on load."""
    return {name: spec for name, spec in specs.items() if not IGNORED.search(name)}


def pickled_files(folder: Path) -> list[str]:
    """The pickles of a folder that has no safetensors weights: the single one, or the shards and their index."""
    if (folder / SAFE_WEIGHTS).is_file() or (folder / SAFE_INDEX).is_file():
        return []
    if (folder / PICKLED_WEIGHTS).is_file():
        return [PICKLED_WEIGHTS]
    index = f"{PICKLED_WEIGHTS}.index.json"
    return [*shard_files(folder, PICKLED_WEIGHTS), index] if (folder / index).is_file() else []


def read_pickles(folder: Path, files: Sequence[str]) -> dict[str, torch.Tensor]:
    """The tensors of pickles, read by torch's reader that makes tensors and runs no code.

    Raises:
        [`IngredientError`]: if a file is damaged, or holds anything else than tensors by name.
    """
    import torch

    state: dict[str, torch.Tensor] = {}
    for file in (name for name in files if not name.endswith(".json")):
        try:
            found = torch.load(folder / file, map_location="cpu", weights_only=True)
        except DAMAGED as error:
            reason = (str(error) or type(error).__name__).splitlines()[0][:200]
            raise IngredientError(f"{folder / file} cannot be read as tensors alone: {reason}") from None
        if not isinstance(found, Mapping) or not all(isinstance(value, torch.Tensor) for value in found.values()):
            raise IngredientError(f"{folder / file} holds something else than tensors by name.")
        state |= found
    return state


def _refuse_other_formats(folder: Path) -> None:
    """A folder without safetensors weights: say what is there instead and what to do."""
    if (folder / SAFE_WEIGHTS).is_file() or (folder / SAFE_INDEX).is_file():
        return
    names = sorted(path.name for path in folder.iterdir())
    pickles = [
        name for name in names if name.endswith((".bin", ".pt", ".pth", ".ckpt")) and name != "training_args.bin"
    ]
    if "adapter_config.json" in names:
        found = (
            "a PEFT adapter. Merge it into its base model first: `PeftModel.merge_and_unload().save_pretrained(...)`."
        )
    elif pickles:
        found = refuse_pickle(pickles[0], str(folder))
    else:
        found = ", ".join(names[:8]) or "nothing: the folder is empty"
    raise IngredientError(f"{folder} has no {SAFE_WEIGHTS} (nor an index of shards); it holds {found}")


def refuse_pickle(file: str, source: str) -> str:
    """Why a pickle is not read, and what to do."""
    return (
        f"{file}, a pickle, which can run code when it is read. Convert it once: "
        f'`AutoModel.from_pretrained("{source}").save_pretrained(...)` with the class of your task; or pass '
        "allow_pickle=True (--allow-pickle), which reads tensors and nothing else."
    )


def read_config(folder: Path) -> dict[str, Any]:
    """What `config.json` holds.

    Raises:
        [`IngredientError`]: if it is absent, cannot be read, is of a quantised model, or of one that needs code from a
            repository.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("it is not a mapping")
    except FileNotFoundError:
        raise IngredientError(f"{folder} has no config.json, so nobody can tell what its weights are.") from None
    except (OSError, ValueError) as error:
        raise IngredientError(f"{path} cannot be read: {error}.") from None
    if "auto_map" in config:
        from .memory import architecture

        architecture(config)  # refuses what only the repository's own code could build
        del config["auto_map"]
    if "quantization_config" in config:
        method = config["quantization_config"].get("quant_method", "an unknown method")
        raise IngredientError(f"{folder} is quantised ({method}); average the weights that it was made from.")
    return config
