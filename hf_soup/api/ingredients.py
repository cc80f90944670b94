"""Ingredients as users pass them (any iterable, a folder of runs, a sweep) -> a sequence of sources in fixed order."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.companion_files import MODULES
from ..checkpoints.other_contents import ADAPTER
from ..checkpoints.source import open_checkpoint
from ..errors import RecipeError, listed, warn
from ..options import answers_keywords
from ..training.manifest import SWEEP_FILE
from ..training.records import FailedRun, load_failure
from ..training.sweep import Sweep, load_sweep
from ..types import Ingredient
from ..untrusted import one_line


if TYPE_CHECKING:
    from transformers import PretrainedConfig

# Names in the folder of a model: transformers', PEFT's, and those of a SentenceTransformer or a pipeline
OF_A_MODEL = ("config.json", ADAPTER, MODULES, "model_index.json")
WEIGHTS = ("*.safetensors", "*.bin", "*.index.json", ".metadata", "pytorch_model_fsdp*", "global_step*")
SHOWN = 60  # characters of a source in an error


@answers_keywords
def load_ingredient(
    source: Any,
    *,
    name: str | None = None,
    config: PretrainedConfig | Mapping[str, Any] | None = None,
    allow_pickle: bool = False,
) -> Checkpoint:
    """Open one ingredient with options of its own; the result can be used wherever an ingredient or base model can.

    Most ingredients do not need this: folders, Hub ids and models can be passed directly.

    Args:
        source (`str`, `os.PathLike`, [`Ingredient`], `transformers.PreTrainedModel` or `Mapping[str, torch.Tensor]`):
            Source of the weights: a folder, a Hub id, a model, or a state dict.
        name (`str`, *optional*):
            Name of the ingredient in tables and recipes; by default the name of the folder or repository, or the class
            of the model.
        config (`transformers.PretrainedConfig` or `Mapping`, *optional*):
            Configuration of the model that a state dict belongs to.
        allow_pickle (`bool`, *optional*, defaults to `False`):
            Whether `pytorch_model.bin` is read where there are no safetensors weights, with torch's
            `weights_only=True`, and the pickles of FSDP and DeepSpeed that say where tensors are.

    Returns:
        `Checkpoint`: the opened ingredient, pinned to its current content.

    Raises:
        [`IngredientError`]: if the source does not exist, is empty, corrupt or a pickle, or cannot be downloaded.
    """
    return open_checkpoint(source, name=name, config=config, allow_pickle=allow_pickle)


def read_ingredients(ingredients: Any) -> Sequence[Any]:
    """Turn the ingredients that a user passes into a sequence of sources.

    Args:
        ingredients (`Iterable`, `str` or `os.PathLike`):
            Sources in any iterable that has an order: a list, a generator such as `Path("runs").glob("*")`, a
            [`Sweep`]. A folder of runs stands for its runs: those of a sweep, or else every subfolder that holds
            a model, in the order of their names (`run-2` before `run-10`).

    Returns:
        `Sequence`: sources for `open_checkpoint`. The folder of a sweep gives the [`Sweep`], which knows its base
        model.

    Raises:
        [`RecipeError`]: if the ingredients have no order, or are a single model.
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
    if isinstance(ingredients, Sweep):  # it knows its base model, and which runs have failed
        return ingredients
    return _expanded(list(ingredients))


def _expanded(sources: list[Any]) -> Sequence[Any]:
    """The sources with the runs in place of each folder of runs; one folder of a sweep alone is that sweep."""
    expanded: list[Any] = []
    for source in sources:
        failure = _failure_in(source)
        if failure is not None:
            if not failure.is_stopped:
                warn(f"{failure.name} is left out: {failure.reason}")
            continue
        runs = _runs_in(source)
        if runs is not None and len(sources) == 1:
            return runs
        expanded += [source] if runs is None else runs
    return expanded


def _failure_in(source: Any) -> FailedRun | None:
    """Why the run of a sweep in a folder has no model, as among the matches of `runs/run-*`; `None` of others."""
    if not isinstance(source, (str, os.PathLike)):
        return None
    try:
        folder = Path(source).expanduser()
        failure = load_failure(folder)
        return None if failure is None or _holds_model(folder) else failure
    except (OSError, RuntimeError, ValueError):  # the error is reported when the source is opened
        return None


def _is_one_source(ingredients: Any) -> bool:
    """Whether a single ingredient was passed instead of a list: strings and state dicts are iterable too."""
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
    except (OSError, RuntimeError, ValueError):  # the error is reported when the source is opened
        return None
    return _runs_among(content, folder)


def _runs_among(content: Sequence[Path], folder: Path) -> list[str] | None:
    """The runs in the content of a folder; `None` if its files may be a model of another format.

    Raises:
        [`RecipeError`]: if there are other folders only.
    """
    folders = [path for path in content if path.is_dir()]
    runs = [str(path) for path in folders if _holds_model(path)]
    if runs:
        return runs
    if len(folders) < len(content) or not content:  # opening the folder says what its files are
        return None
    raise RecipeError(
        f"{one_line(folder)} is neither a model nor a folder of runs: it has no config.json and no weights, and it "
        f"contains {one_line(listed([path.name for path in folders], 5))}. Name the folders of the runs."
    )


def _holds_model(folder: Path) -> bool:
    """Whether a folder is a checkpoint: it has weights, a model's configuration, or one Trainer run's checkpoints."""
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
