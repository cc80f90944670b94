"""The contents of a checkpoint folder: weights, configuration, checkpoints of a Trainer; and what is missing.

Only headers and small files are read, and weights only from pickles that the user allows.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import IngredientError
from ..untrusted import as_error, one_line
from .bounds import refuse_unbounded
from .companion_files import sizes_in
from .inside import is_there, json_inside, place_of
from .named_code import without_code
from .other_contents import has_no_weights
from .reader import PICKLED_WEIGHTS, SAFE_WEIGHTS, TensorSpec
from .shards import read_headers, shard_files


if TYPE_CHECKING:
    import torch


_CHECKPOINT = re.compile(r"checkpoint-([0-9]{1,18})")
QUANTISED = ("quantize_config.json", "quant_config.json")  # an extra file of older GPTQ and AWQ checkpoints


class TrainerCheckpoint(NamedTuple):
    """The chosen checkpoint in a Trainer's output folder, and the reason for the choice."""

    folder: Path
    reason: str


def checkpoint_of_trainer(folder: Path) -> TrainerCheckpoint | None:
    """Of a Trainer's folder without weights of its own, the checkpoint recorded as best, else the last."""
    if _holds(folder, SAFE_WEIGHTS) or _holds(folder, PICKLED_WEIGHTS):
        return None
    folders = [path.name for path in folder.iterdir() if path.is_dir()]
    chosen = choose_checkpoint(folders, lambda name: place_of(folder, name))
    if chosen is None:
        return None
    name, reason = chosen
    place_of(folder, name)  # refuses a link that leads out of the folder
    return TrainerCheckpoint(folder / name, reason)


def checkpoints_by_step(names: Iterable[str]) -> list[str]:
    """The names of a Trainer's checkpoints among other names, in the order of their steps.

    Args:
        names (`Iterable[str]`):
            Names of folders beside each other.
    """
    names_by_step = {}  # sorted as numbers, since as text `checkpoint-900` would come after `checkpoint-1000`
    for name in names:
        match = _CHECKPOINT.fullmatch(name)
        if match:
            names_by_step[int(match[1])] = name
    return [names_by_step[step] for step in sorted(names_by_step)]


def choose_checkpoint(names: Collection[str], place: Callable[[str], Path]) -> tuple[str, str] | None:
    """Choose among the checkpoints that a Trainer saved: the best according to the Trainer, else the last.

    Args:
        names (`Collection[str]`):
            Folders beside each other; those that are no checkpoints are passed over.
        place (`Callable[[str], Path]`):
            Gives the folder in which the state of a checkpoint can be read.

    Returns:
        `tuple[str, str]`: the folder's name, and why it was chosen; `None` where there is no checkpoint.
    """
    checkpoints = checkpoints_by_step(names)
    if not checkpoints:
        return None
    last = checkpoints[-1]
    try:
        state = json_inside(place(last), "trainer_state.json")
    except (FileNotFoundError, IngredientError):  # the weights can be complete nevertheless
        state = None
    if isinstance(state, dict) and isinstance(state.get("best_model_checkpoint"), str):
        best = os.path.basename(state["best_model_checkpoint"])  # the folder may have been moved since
        if best in checkpoints:
            return best, f"the best one (metric {one_line(state.get('best_metric'), 40)})"
    return last, "the last one"


def _holds(folder: Path, single: str) -> bool:
    """Whether a folder holds weights of one format: a single file, or an index of shards."""
    return any(is_there(folder, f"{single}{end}") for end in ("", ".index.json"))


class Headers(NamedTuple):
    """The contents of the headers of a checkpoint's weight files.

    Args:
        specs (`dict[str, dict[str, TensorSpec]]`):
            Subfolder (`""` is the folder itself) -> its tensors as the files name them.
        digests (`dict[str, str]`):
            File -> a digest of its header, size and time of change, which tells whether it is still the same.
    """

    specs: dict[str, dict[str, TensorSpec]]
    digests: dict[str, str]


def read_specs(folder: Path, subfolders: Sequence[str] = ()) -> Headers:
    """The tensors of a folder under the names in its files.

    Args:
        folder (`Path`):
            Folder of the checkpoint.
        subfolders (`Sequence[str]`, *optional*):
            Sub-folders that hold modules of the model.

    Raises:
        [`IngredientError`]: if there are no safetensors weights, or a file is corrupt.
    """
    specs: dict[str, dict[str, TensorSpec]] = {}
    digests: dict[str, str] = {}
    if not subfolders or _holds(folder, SAFE_WEIGHTS):
        _refuse_other_formats(folder)
        specs[""], digests = read_headers(folder)
    for subfolder in subfolders:
        _refuse_other_formats(folder / subfolder)
        headers = read_headers(folder / subfolder)
        specs[subfolder] = {}
        for name, spec in headers.specs.items():
            specs[subfolder][name] = spec._replace(file=f"{subfolder}/{spec.file}", subfolder=subfolder)
        for file, digest in headers.digests.items():
            digests[f"{subfolder}/{file}"] = digest
    return Headers(specs, digests)


def has_weights(folder: Path) -> bool:
    """Whether a folder holds safetensors weights."""
    return _holds(folder, SAFE_WEIGHTS)


def pickled_files(folder: Path) -> list[str]:
    """The pickle files of a folder without safetensors weights: a single file, or shards and their index."""
    if _holds(folder, SAFE_WEIGHTS) or not _holds(folder, PICKLED_WEIGHTS):
        return []
    files = shard_files(folder, PICKLED_WEIGHTS)
    if files != [PICKLED_WEIGHTS]:
        files.append(f"{PICKLED_WEIGHTS}.index.json")
    return files


def read_pickles(folder: Path, files: Sequence[str]) -> dict[str, torch.Tensor]:
    """The tensors of pickle files, read by torch's weights-only loader, which runs no code.

    Raises:
        [`IngredientError`]: if a file is damaged, or holds anything else than tensors by name.
    """
    import torch

    state: dict[str, torch.Tensor] = {}
    for file in files:
        if file.endswith(".json"):  # the index of shards
            continue
        with as_error(IngredientError, f"{folder / file} cannot be read as tensors alone"):
            content = torch.load(place_of(folder, file), map_location="cpu", weights_only=True)
        if not _is_state(content):
            raise IngredientError(f"{folder / file} holds something other than tensors by name.")
        state |= content
    return state


def _is_state(content: object) -> bool:
    """Whether a pickle holds tensors by name and nothing else."""
    import torch

    if not isinstance(content, Mapping):
        return False
    return all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in content.items())


def _refuse_other_formats(folder: Path) -> None:
    """Refuse a folder without safetensors weights, and report its contents and what to do."""
    if not _holds(folder, SAFE_WEIGHTS):
        raise IngredientError(has_no_weights(sizes_in(folder), str(folder)))


def read_config(folder: Path, *, needed: bool = True) -> dict[str, Any]:
    """The content of `config.json`.

    Args:
        folder (`Path`):
            Folder that holds the file.
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
        raise IngredientError(
            f"{folder} has no config.json, which says what its weights are.{_advice_without_config(folder)}"
        ) from None
    if not isinstance(config, dict):
        raise IngredientError(f"{path} cannot be read: it is not a mapping.")
    refuse_unbounded(config, str(path))
    _refuse_wrong_types(config, path)
    if "auto_map" in config:
        from .memory import architecture

        architecture(config)  # refuses a model that only the repository's own code could build
    if config.get("quantization_config") in ({}, None):  # has no meaning, and prevents transformers from loading
        config.pop("quantization_config", None)
    _refuse_quantised(config, folder)
    return without_code(config)


def _advice_without_config(folder: Path) -> str:
    """The end of an error about a folder without configuration, such as a saved state of accelerate."""
    if not any(folder.glob("random_states_*.pkl")):
        return ""
    return (
        " It is a state that accelerate saved: add the configuration with "
        "`accelerator.unwrap_model(model).config.save_pretrained(...)`."
    )


def _refuse_wrong_types(config: Mapping[str, Any], path: Path) -> None:
    """Refuse a configuration whose main settings have other types than every program expects."""
    is_right = {
        "architectures": _is_list_of_names(config.get("architectures", [])),
        "model_type": isinstance(config.get("model_type", ""), str),
        "id2label": _is_mapping_of_classes(config.get("id2label", {})),
        "num_labels": config.get("num_labels") is None or type(config["num_labels"]) is int,  # `True` is an int
    }
    for key, right in is_right.items():
        if not right:
            raise IngredientError(f"{path} cannot be right: {key} is {one_line(config[key], 80)!r}.")


def _is_list_of_names(value: object) -> bool:
    if value is None:
        return True
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_mapping_of_classes(value: object) -> bool:
    """Whether it is a mapping with class numbers as keys; JSON stores them as strings."""
    if value is None:
        return True
    return isinstance(value, dict) and all(key.isdecimal() and len(key) <= 9 for key in value)


class QuantisedError(IngredientError):
    """Weights are quantised.

    Args:
        folder (`Path`):
            Folder of the configuration that says so.
        quantiser (`str`):
            Name of the method or library.
    """

    def __init__(self, folder: Path, quantiser: str):
        super().__init__(f"{folder} is quantised ({quantiser}); average the weights that it was made from.")
        self.folder = folder


def _refuse_quantised(config: Mapping[str, Any], folder: Path) -> None:
    """Refuse quantised weights, recognised by the configuration or by an extra file."""
    settings = config.get("quantization_config")
    if not settings:
        files = [name for name in QUANTISED if is_there(folder, name)]
        if not files:
            return
        settings = json_inside(folder, files[0])
    if settings is not None:
        raise QuantisedError(folder, _quantiser(settings))


def _quantiser(settings: object) -> str:
    """The name of the method or library that quantised a checkpoint."""
    if not isinstance(settings, dict):
        settings = {}
    if any(key.startswith(("load_in_", "_load_in_", "bnb_")) for key in settings):
        return "bitsandbytes"
    return one_line(settings.get("quant_method") or settings.get("quantizer") or "by an unknown method", 40)
