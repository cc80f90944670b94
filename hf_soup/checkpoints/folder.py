"""What lies in the folder of a checkpoint: weights, configuration, a Trainer's checkpoints; and what is missing there.

It reads headers and small files, and weights only of pickles that the user allows.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import IngredientError
from ..untrusted import as_error, one_line
from .bounds import refuse_unbounded
from .files_beside import sizes_in
from .inside import is_there, json_inside, place_of
from .named_code import without_code
from .other_contents import has_no_weights
from .reader import (
    PICKLED_WEIGHTS,
    SAFE_WEIGHTS,
    TensorSpec,
    read_headers,
    read_raw_header,
    shard_files,
)


if TYPE_CHECKING:
    import torch


_CHECKPOINT = re.compile(r"checkpoint-([0-9]{1,18})")
QUANTISED = ("quantize_config.json", "quant_config.json")  # beside older GPTQ and AWQ checkpoints


def checkpoint_of_trainer(folder: Path) -> tuple[Path, str] | None:
    """Of a Trainer's folder without weights of its own: the checkpoint that it called best, else the last, and why."""
    if any(_holds(folder, single) for single in (SAFE_WEIGHTS, PICKLED_WEIGHTS)):
        return None
    numbered = {int(match[1]): path for path in folder.iterdir() if (match := _CHECKPOINT.fullmatch(path.name))}
    if not numbered:
        return None
    last = place_of(folder, numbered[max(numbered)].name)
    try:
        state = json_inside(last, "trainer_state.json")
    except (FileNotFoundError, IngredientError):
        state = {}
    best = state.get("best_model_checkpoint") if isinstance(state, dict) else None
    best = os.path.basename(best) if isinstance(best, str) else ""
    if _CHECKPOINT.fullmatch(best) and (folder / best).is_dir():
        return place_of(folder, best), f"the best one (metric {one_line(state.get('best_metric'), 40)})"
    return last, "the last one"


def _holds(folder: Path, single: str) -> bool:
    """Whether a folder holds weights of one format: the single file, or an index of shards."""
    return any(is_there(folder, f"{single}{end}") for end in ("", ".index.json"))


def read_specs(folder: Path, parts: Sequence[str] = ()) -> tuple[dict[str, dict[str, TensorSpec]], dict[str, str]]:
    """The tensors of a folder as its files name them, and for each file what tells that it is still the same one.

    Args:
        folder (`Path`):
            Of the checkpoint.
        parts (`Sequence[str]`, *optional*):
            Sub-folders that hold modules of the model.

    Returns:
        `tuple[dict[str, dict[str, TensorSpec]], dict[str, str]]`: part (`""` is the folder itself) -> its tensors, and
        file -> digest of its header, size and time of change.

    Raises:
        [`IngredientError`]: if there are no safetensors weights, or a file is corrupt.
    """
    found: dict[str, dict[str, TensorSpec]] = {}
    if not parts or _holds(folder, SAFE_WEIGHTS):
        _refuse_other_formats(folder)
        found[""] = read_headers(folder)
    for part in parts:
        _refuse_other_formats(folder / part)
        tensors = read_headers(folder / part)
        found[part] = {key: spec._replace(file=f"{part}/{spec.file}", part=part) for key, spec in tensors.items()}
    return found, digests_of_headers(folder, list(found))


def digests_of_headers(folder: Path, parts: Sequence[str]) -> dict[str, str]:
    """For each weight file of a folder and its parts a digest of its header, size and time of change."""
    import xxhash

    digests = {}
    for part in parts:
        for file in shard_files(folder / part):
            name = f"{part}/{file}".removeprefix("/")
            header, state = read_raw_header(place_of(folder, name))
            content = header + f"{state.st_size}:{state.st_mtime_ns}".encode()
            digests[name] = "stat:" + xxhash.xxh3_128_hexdigest(content)
    return digests


def has_weights(folder: Path) -> bool:
    """Whether a folder holds safetensors weights."""
    return _holds(folder, SAFE_WEIGHTS)


def pickled_files(folder: Path) -> list[str]:
    """The pickles of a folder that has no safetensors weights: the single one, or the shards and their index."""
    if _holds(folder, SAFE_WEIGHTS) or not _holds(folder, PICKLED_WEIGHTS):
        return []
    files = shard_files(folder, PICKLED_WEIGHTS)
    return files if files == [PICKLED_WEIGHTS] else [*files, f"{PICKLED_WEIGHTS}.index.json"]


def read_pickles(folder: Path, files: Sequence[str]) -> dict[str, torch.Tensor]:
    """The tensors of pickles, read by torch's reader that makes tensors and runs no code.

    Raises:
        [`IngredientError`]: if a file is damaged, or holds anything else than tensors by name.
    """
    import torch

    state: dict[str, torch.Tensor] = {}
    for file in (name for name in files if not name.endswith(".json")):
        with as_error(IngredientError, f"{folder / file} cannot be read as tensors alone"):
            found = torch.load(place_of(folder, file), map_location="cpu", weights_only=True)
        if not isinstance(found, Mapping) or not all(
            isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in found.items()
        ):
            raise IngredientError(f"{folder / file} holds something else than tensors by name.")
        state |= found
    return state


def _refuse_other_formats(folder: Path) -> None:
    """A folder without safetensors weights: say what is there instead and what to do."""
    if not _holds(folder, SAFE_WEIGHTS):
        raise IngredientError(has_no_weights(sizes_in(folder), str(folder)))


def read_config(folder: Path, *, needed: bool = True) -> dict[str, Any]:
    """What `config.json` holds.

    Args:
        folder (`Path`):
            That holds it.
        needed (`bool`, *optional*, defaults to `True`):
            Whether there has to be one; empty otherwise.

    Raises:
        [`IngredientError`]: if it is absent, cannot be read, is of a quantised model, or of one that needs code from a
            repository.
    """
    path = folder / "config.json"
    try:
        config = json_inside(folder, path.name)
    except FileNotFoundError:
        if not needed:
            return {}
        accelerate = [path.name for path in sorted(folder.glob("random_states_*.pkl"))]
        advice = (
            " It is a state that accelerate saved: add the configuration with "
            "`accelerator.unwrap_model(model).config.save_pretrained(...)`."
        )
        raise IngredientError(
            f"{folder} has no config.json, which says what its weights are.{advice if accelerate else ''}"
        ) from None
    if not isinstance(config, dict):
        raise IngredientError(f"{path} cannot be read: it is not a mapping.")
    refuse_unbounded(config, str(path))
    _refuse_odd(config, path)
    if "auto_map" in config:
        from .memory import architecture

        architecture(config)  # refuses what only the repository's own code could build
    if config.get("quantization_config") in ({}, None):  # says nothing, and keeps transformers from loading
        config.pop("quantization_config", None)
    quantised = config.get("quantization_config") or next(
        (json_inside(folder, name) for name in QUANTISED if is_there(folder, name)), None
    )
    if quantised is not None:
        raise IngredientError(
            f"{folder} is quantised ({_quantiser(quantised)}); average the weights that it was made from."
        )
    return without_code(config)


def _refuse_odd(config: Mapping[str, Any], path: Path) -> None:
    """What a configuration says of the model has to be of the kinds that every program takes it for."""
    architectures, labels = config.get("architectures"), config.get("id2label")
    good = {
        "architectures": architectures is None
        or (isinstance(architectures, list) and all(isinstance(name, str) for name in architectures)),
        "model_type": isinstance(config.get("model_type", ""), str),
        "id2label": labels is None or (isinstance(labels, dict) and all(map(_is_class_id, labels))),
        "num_labels": config.get("num_labels") is None or type(config["num_labels"]) is int,
    }
    odd = [key for key, fine in good.items() if not fine]
    if odd:
        raise IngredientError(f"{path} cannot be right: {odd[0]} is {one_line(config[odd[0]], 80)!r}.")


def _is_class_id(key: str) -> bool:
    return key.isdecimal() and len(key) <= 9


def _quantiser(settings: Any) -> str:
    """The name of what made a checkpoint smaller."""
    found = settings if isinstance(settings, dict) else {}
    if any(key.startswith(("load_in_", "_load_in_", "bnb_")) for key in found):
        return "bitsandbytes"
    return one_line(found.get("quant_method") or found.get("quantizer") or "by an unknown method", 40)
