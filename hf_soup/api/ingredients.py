"""What a user calls ingredients: any iterable, a folder of runs, a sweep -> a sequence of sources in a fixed order."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.source import open_checkpoint
from ..errors import RecipeError, listed
from ..options import answers_keywords
from ..training.manifest import SWEEP_FILE
from ..training.sweep import Sweep, load_sweep
from ..types import Ingredient
from ..untrusted import one_line


if TYPE_CHECKING:
    from transformers import PretrainedConfig

# Names in the folder of a model: transformers', PEFT's, and those of a SentenceTransformer or a pipeline
OF_A_MODEL = ("config.json", "adapter_config.json", "modules.json", "model_index.json")
WEIGHTS = ("*.safetensors", "*.bin", "*.index.json")
SHOWN = 60  # characters of a source in an error


@answers_keywords
def load_ingredient(
    source: Any,
    *,
    name: str | None = None,
    config: PretrainedConfig | Mapping[str, Any] | None = None,
    allow_pickle: bool = False,
) -> Checkpoint:
    """One ingredient, opened with what its owner knows of it: to be passed wherever an ingredient or a base model is.

    Most ingredients need no such call: folders, Hub ids and models are passed as they are.

    Args:
        source (`str`, `os.PathLike`, [`Ingredient`], `transformers.PreTrainedModel` or `Mapping[str, torch.Tensor]`):
            Where the weights are.
        name (`str`, *optional*):
            What tables and recipes call it; by default the folder's or repository's name, or the class of a model.
        config (`transformers.PretrainedConfig` or `Mapping`, *optional*):
            Of a state dict, which does not say what it is the state of.
        allow_pickle (`bool`, *optional*, defaults to `False`):
            Read `pytorch_model.bin` where there are no safetensors weights, with torch's `weights_only=True`.

    Returns:
        `Checkpoint`: pinned to what is there now.

    Raises:
        [`IngredientError`]: if it does not exist, is empty, corrupt or pickled, or cannot be fetched.
    """
    return open_checkpoint(source, name=name, config=config, allow_pickle=allow_pickle)


def read_ingredients(ingredients: Any) -> Sequence[Any]:
    """The ingredients that a user names, one by one.

    Args:
        ingredients (`Iterable`, `str` or `os.PathLike`):
            Sources in any iterable that has an order: a list, a generator such as `Path("runs").glob("*")`, a
            [`Sweep`]. A folder of runs stands for the runs in it: those of a sweep, or else every subfolder that holds
            a model, in the order of their names (`run-2` before `run-10`).

    Returns:
        `Sequence`: of sources for `open_checkpoint`. One folder of a sweep gives the [`Sweep`], which knows its base
        model.

    Raises:
        [`RecipeError`]: if they have no order, or are one model alone.
    """
    if isinstance(ingredients, (set, frozenset)):
        raise RecipeError("a set has no order, and the first ingredient gives the soup its settings: pass a list.")
    runs = _runs_in(ingredients)
    if runs is not None:
        return runs
    if _is_one_source(ingredients):
        raise RecipeError(f"ingredients are a list; to take one alone, write [{one_line(str(ingredients), SHOWN)}].")
    if not isinstance(ingredients, Iterable):
        raise RecipeError(f"ingredients are a list of sources, not {type(ingredients).__name__}.")
    if isinstance(ingredients, Sweep):  # which knows its base model, and which runs have failed
        return ingredients
    return _expanded(list(ingredients))


def _expanded(sources: list[Any]) -> Sequence[Any]:
    """The sources with the runs in place of each folder of runs; one folder of a sweep alone is that sweep."""
    expanded: list[Any] = []
    for source in sources:
        runs = _runs_in(source)
        if runs is not None and len(sources) == 1:
            return runs
        expanded += [source] if runs is None else runs
    return expanded


def _is_one_source(ingredients: Any) -> bool:
    """Whether one ingredient was given where a list of them is taken: a text and a state dict are iterable too."""
    if isinstance(ingredients, (str, os.PathLike, Mapping, Ingredient, Checkpoint)):
        return True
    return hasattr(ingredients, "state_dict") or hasattr(ingredients, "as_ingredient")


def _runs_in(source: Any) -> Sequence[Any] | None:
    """The runs in a folder of runs; `None` of everything else, be it a model, a file or the id of a repository.

    Raises:
        [`RecipeError`]: if it is a folder of other folders, of which none is a run.
    """
    if not isinstance(source, (str, os.PathLike)):
        return None
    try:
        folder = Path(source).expanduser()
        if not folder.is_dir() or _holds_model(folder):
            return None
        if (folder / SWEEP_FILE).is_file():
            return load_sweep(folder)
        content = sorted(folder.iterdir(), key=_natural)
        folders = [path for path in content if path.is_dir()]
        runs = [str(path) for path in folders if _holds_model(path)]
    except (OSError, RuntimeError, ValueError):  # what cannot be looked at is told when it is opened
        return None
    if runs:
        return runs
    if (
        len(folders) < len(content) or not content
    ):  # files that may be a model of another format: opening it says which
        return None
    raise RecipeError(
        f"{one_line(folder)} is neither a model nor a folder of runs: it has no config.json and no weights, and in it "
        f"there is {one_line(listed([path.name for path in folders], 5))}. Name the folders of the runs."
    )


def _holds_model(folder: Path) -> bool:
    """Whether a folder is a checkpoint: it has weights or settings of a model, or Trainer's checkpoints of one run."""
    if any((folder / name).is_file() for name in OF_A_MODEL) or any(folder.glob("checkpoint-*/")):
        return True
    return any(next(folder.glob(pattern), None) for pattern in WEIGHTS)


def _natural(path: Path) -> list[Any]:
    """A key by which `run-2` comes before `run-10`, and `lr-0.003` before `lr-0.01`."""
    words = re.split(r"(\d+(?:\.\d+)?)", path.name)  # every second one is a number
    key: list[Any] = []
    for index, word in enumerate(words):
        key.append((index % 2, float(word) if index % 2 else 0.0, word))
    return key
