"""What lies in the folder of a checkpoint: weights, configuration, a Trainer's checkpoints; and what is missing there.

It reads headers and small files, no weights.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import IngredientError
from .reader import SAFE_INDEX, SAFE_WEIGHTS, TensorSpec, read_headers, read_raw_header, shard_files


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
        found = (
            f"{pickles[0]}, a pickle, which can run code when it is read. Convert it once: "
            f'`AutoModel.from_pretrained("{folder}").save_pretrained("{folder}")` with the class of your task.'
        )
    else:
        found = ", ".join(names[:8]) or "nothing: the folder is empty"
    raise IngredientError(f"{folder} has no {SAFE_WEIGHTS} (nor an index of shards); it holds {found}")


def read_config(folder: Path) -> dict[str, Any]:
    """What `config.json` holds.

    Raises:
        [`IngredientError`]: if it is absent, cannot be read, or is of a quantised model.
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
    if "quantization_config" in config:
        method = config["quantization_config"].get("quant_method", "an unknown method")
        raise IngredientError(f"{folder} is quantised ({method}); average the weights that it was made from.")
    return config
