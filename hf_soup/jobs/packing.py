"""Values as files for another machine: data sets become Arrow files, and ingredients refer to the Hub."""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import IO, Any, NamedTuple

from ..checkpoints import hub
from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.companion_files import WEIGHTS
from ..checkpoints.hub_cache import cache_folder
from ..checkpoints.other_contents import ADAPTER, ADAPTER_WEIGHTS
from ..checkpoints.pushed import on_hub, pushed_as
from ..errors import IngredientError, MissingExtraError, RecipeError
from ..progress import library_bars
from ..types import Ingredient


DATA, TOKENIZERS = "data", "tokenizers"  # folders of data sets and tokenizers
PUSH_IT = (
    "which jobs cannot read. Push a model first (sweep with push_runs=True, or `model.push_to_hub(...)`), and give "
    "its Hub id."
)


class DataReference(NamedTuple):
    """A data set that lies in a folder of its own beside the pickle.

    Args:
        name (`str`):
            Name of the folder.
        format (`dict[str, Any]`):
            Arguments of `Dataset.with_format`, which may hold functions.
    """

    name: str
    format: dict[str, Any]


class TokenizerReference(NamedTuple):
    """A tokenizer that lies in a folder of its own beside the pickle, because it reads its vocabulary from a file.

    Args:
        name (`str`):
            Name of the folder.
        tokenizer_class (`type`):
            Its class.
    """

    name: str
    tokenizer_class: type


class FolderReference(NamedTuple):
    """A folder of the Hub that a path leads to.

    Args:
        source (`str`):
            Repository, perhaps with a folder in it.
        commit (`str`):
            Its commit.
        files (`tuple[str, ...]`):
            Files in it, without the weights.
    """

    source: str
    commit: str
    files: tuple[str, ...]


class RelativePath(NamedTuple):
    """A relative path, on any system.

    Args:
        parts (`tuple[str, ...]`):
            Its parts.
    """

    parts: tuple[str, ...]


def refuse_elsewhere(checkpoints: Iterable[Checkpoint]) -> None:
    """Refuse ingredients that a job cannot read.

    Raises:
        [`IngredientError`]: naming the first one that is not on the Hub.
    """
    for item in checkpoints:
        if item.in_memory or item.folder is None:
            raise IngredientError(f"{item.name!r} is a model in memory, {PUSH_IT}")
        _reference_of_folder(item.folder)
        _on_hub(item.ingredient)


def pack(value: Any, folder: Path) -> bytes:
    """Pickle a value so that another machine can read it; its data sets are saved in a folder.

    Functions of a script are pickled with their code. Ingredients that are on this machine alone cannot be pickled.

    Args:
        value:
            The value.
        folder (`Path`):
            Folder in which data sets are saved.

    Raises:
        [`IngredientError`]: if an ingredient is not on the Hub.
        [`MissingExtraError`]: if cloudpickle is not installed.
        [`RecipeError`]: if something in it cannot be pickled.
    """
    cloudpickle = import_cloudpickle()
    references: dict[Path, FolderReference | RelativePath] = {}  # an adapter has its folder once for each tensor

    class Packer(cloudpickle.Pickler):  # type: ignore[name-defined]  # the library is optional
        def persistent_id(self, item: Any) -> Any:
            if isinstance(item, Path):
                if item not in references:
                    references[item] = _reference_of_path(item)
                return references[item]
            return _save_aside(item, folder)

        def reducer_override(self, item: Any) -> Any:
            if isinstance(item, Checkpoint) and item.folder is not None:
                return _made_of_fields, (type(item), _state_on_hub(item))
            return super().reducer_override(item)

    buffer = io.BytesIO()
    try:
        Packer(buffer, protocol=pickle.DEFAULT_PROTOCOL).dump(value)
    except (pickle.PicklingError, TypeError, AttributeError, RecursionError) as error:
        raise RecipeError(
            f"the function of a job, with its metric, callbacks and data, cannot be sent: {error}. Make such objects "
            "inside of the function."
        ) from error
    return buffer.getvalue()


def unpack(file: IO[bytes], folder: Path) -> Any:
    """Read a value that [`pack`] has written on a machine of the same user.

    Args:
        file (`IO[bytes]`):
            The pickle.
        folder (`Path`):
            Folder of its data sets.

    Raises:
        [`IngredientError`]: if the Hub does not give the files of an ingredient.
    """

    folders: dict[FolderReference, Path] = {}

    class Unpacker(pickle.Unpickler):
        def persistent_load(self, reference: Any) -> Any:
            if isinstance(reference, DataReference):
                return _load_data(reference, folder)
            if isinstance(reference, TokenizerReference):
                tokenizer: Any = reference.tokenizer_class
                return tokenizer.from_pretrained(folder / TOKENIZERS / reference.name)
            if isinstance(reference, RelativePath):
                return Path(*reference.parts)
            if reference not in folders:
                folders[reference] = hub.fetch(reference.source, reference.commit, list(reference.files))
            return folders[reference]

    return Unpacker(file).load()


def import_cloudpickle() -> Any:
    """The module cloudpickle, an optional dependency."""
    try:
        import cloudpickle
    except ImportError:
        raise MissingExtraError("executor=\"jobs\" needs cloudpickle: pip install 'hf-soup[jobs]'") from None
    return cloudpickle


def _save_aside(item: Any, folder: Path) -> DataReference | TokenizerReference | None:
    """Save what is not pickled in a folder of its own, and return what is pickled instead; `None` for others."""
    datasets, transformers = sys.modules.get("datasets"), sys.modules.get("transformers")
    if datasets is not None and isinstance(item, datasets.Dataset):
        return _save_data(item, folder)
    if transformers is not None and isinstance(item, transformers.PreTrainedTokenizerBase) and not item.is_fast:
        name = str(len(list((folder / TOKENIZERS).glob("*"))))
        item.save_pretrained(folder / TOKENIZERS / name)
        return TokenizerReference(name, type(item))
    return None


@library_bars("datasets")
def _save_data(data: Any, folder: Path) -> DataReference:
    """Save a data set without its format, which may be a function."""
    format_of_data = data.format
    kwargs = {
        "type": format_of_data["type"],
        "columns": format_of_data["columns"],
        "output_all_columns": format_of_data["output_all_columns"],
        **format_of_data["format_kwargs"],
    }
    name = data._fingerprint
    if not (folder / DATA / name).is_dir():  # not yet saved for another part of the same value
        data.with_format(None).save_to_disk(folder / DATA / name)
    return DataReference(name, kwargs)


def _load_data(reference: DataReference, folder: Path) -> Any:
    """The data set that a reference stands for."""
    import datasets

    return datasets.load_from_disk(folder / DATA / reference.name).with_format(**reference.format)


def _reference_of_path(path: Path) -> FolderReference | RelativePath:
    """What a path is on another machine.

    Raises:
        [`IngredientError`]: if it is of this machine alone.
    """
    return _reference_of_folder(path) if path.is_absolute() else RelativePath(path.parts)


def _reference_of_folder(path: Path) -> FolderReference:
    """Where a folder is on the Hub.

    Raises:
        [`IngredientError`]: if it is not there.
    """
    found = _cached_as(path) or pushed_as(path)
    if found is None:
        raise IngredientError(f"{path} is on this machine alone, {PUSH_IT}")
    source, commit = found
    return FolderReference(source, commit, tuple(sorted(_small_files(path))))


def _cached_as(path: Path) -> tuple[str, str] | None:
    """The source and commit of a folder in the cache of the Hub; `None` for others."""
    cache = cache_folder()
    parts = path.relative_to(cache).parts if path.is_relative_to(cache) else ()
    if len(parts) < 3 or not parts[0].startswith("models--") or parts[1] != "snapshots":
        return None
    repository, _, commit, *subfolders = parts
    repo_id = repository.removeprefix("models--").replace("--", "/")
    return "/".join([repo_id, *subfolders]), commit


def _small_files(folder: Path) -> Iterator[str]:
    """The files of a folder except for weights, and with those of an adapter."""
    for path in folder.rglob("*"):
        if path.is_file() and (not WEIGHTS.fullmatch(path.name) or path.name in (ADAPTER, ADAPTER_WEIGHTS)):
            yield path.relative_to(folder).as_posix()


def _state_on_hub(item: Checkpoint) -> dict[str, Any]:
    """The fields of a checkpoint, as they would be if it had been opened from the Hub.

    Values that are computed on demand are left out: they may hold paths, and the job computes what it needs.
    """
    state = {name.name: getattr(item, name.name) for name in fields(item)}
    return {**state, "ingredient": _on_hub(item.ingredient), "opened_as": {}}


def _on_hub(ingredient: Ingredient) -> Ingredient:
    """The ingredient by its repository.

    Raises:
        [`IngredientError`]: if it has been changed since it was pushed.
    """
    found = on_hub(ingredient)
    if found.revision is None and pushed_as(Path(ingredient.source)) is not None:
        raise IngredientError(f"{ingredient.source} has changed since it was pushed, and jobs read it from the Hub.")
    return found


def _made_of_fields(cls: type[Checkpoint], state: dict[str, Any]) -> Checkpoint:
    """A frozen dataclass with these fields."""
    return cls(**state)
