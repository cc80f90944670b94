"""An adapter as an ingredient: the tensors of its base model with its changes, formed when they are read.

No merged copy is made: a piece of a weight is a piece of the base model's plus the product of the adapter's factors.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import IngredientError, listed
from ..types import Ingredient
from ..untrusted import as_error
from .adapter_base import misfits, one_of_tied, open_base_of
from .adapter_changes import Change, LowRank, Scale, Stored
from .adapter_file import OTHER_PART, AdapterTensors, changes_of, check_kind, split_adapter, trained_whole
from .adapter_model import config_of, form_of
from .base_names import fit_base
from .checkpoint import MEMORY, Checkpoint, make_ready
from .companion_files import TOKENIZER
from .content import file_state
from .digest import bytes_of
from .files import OpenFiles
from .inside import json_inside
from .named_code import without_code
from .opened_tensors import open_tensors
from .other_contents import ADAPTER, ADAPTER_WEIGHTS
from .reader import TensorSpec, read_header
from .remote_files import ByteRange, RemoteFiles


if TYPE_CHECKING:
    import torch

PICKLED = "adapter_model.bin"
WIDE = "float64"  # the type in which changed weights are formed


@dataclass(frozen=True, kw_only=True)
class AdapterCheckpoint(Checkpoint):
    """An opened adapter, which stands for its base model with its changes.

    Args:
        base (`Checkpoint`):
            The base model under the names of its class with the head.
        adapter_config (`Mapping[str, Any]`):
            Content of `adapter_config.json`.
        changes (`Mapping[str, Change]`):
            Tensor -> its change.
        saved (`Mapping[str, Stored]`):
            Tensors that the adapter holds whole, such as heads; one that it changes, too, is in place of the base
            model's.
        adapter_names (`Mapping[str, str]`):
            Tensor -> its name in memory, by which adapters call it, if this is another one.
    """

    base: Checkpoint
    adapter_config: Mapping[str, Any]
    changes: Mapping[str, Change] = field(compare=False, repr=False)
    saved: Mapping[str, Stored] = field(compare=False, repr=False)
    adapter_names: Mapping[str, str] = field(compare=False, repr=False)

    @property
    def in_memory(self) -> bool:
        """Whether the adapter was passed in memory."""
        return self.folder is None

    def tensors_digest(self) -> str:
        """The digest of an adapter in memory."""
        return self.ingredient.files[ADAPTER_WEIGHTS]

    @property
    def processing_folder(self) -> Path | None:
        """Its own folder, if that has a tokenizer or processor, or else that of the base model."""
        if self.folder is not None and any(TOKENIZER.fullmatch(name) for name in self.companion_names):
            return self.folder
        return self.base.processing_folder

    @functools.cached_property
    def companions(self) -> Mapping[str, bytes]:
        """Its own companion files, and those of the base model that it lacks."""
        return {**self.base.companions, **super().companions}

    @property
    def generation(self) -> str | None:
        """The content of the base model's `generation_config.json`, if it has one."""
        return self.base.generation

    @property
    def unequal_twins(self) -> tuple[tuple[str, str], ...]:
        """Tied weights that the files of the base model store twice with different values."""
        return self.base.unequal_twins

    def kept_dtype(self, name: str) -> str:
        """The type of a tensor in a soup of type `"auto"`: that of the base model for a changed one."""
        if name not in self.changes:
            return self.specs[name].dtype
        return self.saved[name].spec.dtype if name in self.saved else self.base.specs[name].dtype

    def origin(self, name: str) -> object:
        """The base model, for a tensor that the adapter leaves as it is; such tensors are read once for all."""
        if name in self.changes or name in self.saved:
            return None
        base = self.base.ingredient
        return base.source, base.revision, tuple(sorted(base.files.items())), name

    @property
    def is_streamed(self) -> bool:
        """Whether weights of the base model are read from a server as they are needed."""
        return self.base.is_streamed

    def byte_ranges(self, name: str) -> Iterator[tuple[RemoteFiles, ByteRange]]:
        """The bytes of the base model on servers that reading a tensor takes."""
        if name not in self.saved:
            yield from self.base.byte_ranges(name)

    def read_anew(self) -> None:
        """Forget which files of the base model have been verified."""
        self.base.read_anew()

    def prepare(self) -> None:
        """Fetch the base model, unless it is streamed, and read what DoRA multiplies with."""
        make_ready([self.base])
        _ = self._dora_factors

    def digests_apart(self) -> dict[str, str]:
        """Nothing: the digests of the adapter's own files are known since it was opened."""
        return {}

    def read(self, name: str) -> torch.Tensor:
        """Read one tensor on the CPU, changed."""
        import torch

        if name in self.saved and name not in self.changes:
            return self.saved[name].read()
        if name not in self.changes:
            return self.base.read(name)
        spec = self.specs[name]
        tensor = torch.empty(spec.shape, dtype=torch.float64)
        with OpenFiles() as files:
            self.read_into(files, name, 0, bytes_of(tensor))
        return tensor

    def read_into(self, files: OpenFiles, name: str, start: int, into: memoryview) -> None:
        """Copy the bytes of consecutive elements of one tensor, formed in float64 if the adapter changes it."""
        if name in self.changes:
            into[:] = bytes_of(self._changed(files, name, start, len(into) // self.specs[name].itemsize))
        elif name in self.saved:
            self.saved[name].read_into(files, start, into)
        else:
            self.base.read_into(files, name, start, into)

    def read_row(self, files: OpenFiles, names: Sequence[str], into: memoryview) -> None:
        """Copy the bytes of complete tensors, one after the other."""
        if all(name not in self.changes and name not in self.saved for name in names):
            self.base.read_row(files, names, into)
            return
        place = 0
        for name in names:
            size = self.specs[name].nbytes
            self.read_into(files, name, 0, into[place : place + size])
            place += size

    def _changed(self, files: OpenFiles, name: str, start: int, count: int) -> torch.Tensor:
        """Consecutive elements of a changed weight, in float64."""
        change, columns = self.changes[name], math.prod(self.specs[name].shape[1:])
        first, last = start // columns, -(-(start + count) // columns)
        base = self._of_base(files, name, first * columns, (last - first) * columns)
        rows = change.of_rows(base.reshape(-1, columns), first)
        if isinstance(change, LowRank) and change.magnitude is not None:
            factors = self._dora_factors[name]
            rows *= factors if change.by_column else factors[first:last, None]
        return rows.reshape(-1)[start - first * columns :][:count]

    def _of_base(self, files: OpenFiles, name: str, start: int, count: int) -> torch.Tensor:
        """Consecutive elements of what is changed, in float64: the base model's, or those stored in their place."""
        import torch

        saved = self.saved.get(name)
        dtype = self.base.specs[name].dtype if saved is None else saved.spec.dtype
        elements = torch.empty(count, dtype=getattr(torch, dtype))
        if saved is None:
            self.base.read_into(files, name, start, bytes_of(elements))
        else:
            saved.read_into(files, start, bytes_of(elements))
        return elements.double()

    @functools.cached_property
    def _dora_factors(self) -> dict[str, torch.Tensor]:
        """Tensor -> by what each row or column of the sum is multiplied; one weight is read at a time."""
        factors = {}
        with OpenFiles() as files:
            for name, change in self.changes.items():
                if not isinstance(change, LowRank) or change.magnitude is None:
                    continue
                base = self._of_base(files, name, 0, math.prod(change.shape)).reshape(change.shape)
                lengths = change.of_rows(base, 0).norm(dim=0 if change.by_column else 1)
                factors[name] = change.magnitude.read().double().reshape(-1) / lengths
        return factors


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter."""
    return (folder / ADAPTER).is_file()


def open_adapter(
    ingredient: Ingredient,
    folder: Path,
    companion_names: tuple[str, ...],
    open_base: Callable[[str], Checkpoint],
    notes: Sequence[str] = (),
) -> AdapterCheckpoint:
    """Open an adapter whose files are in a folder.

    Args:
        ingredient ([`Ingredient`]):
            The reference that recipes keep; the digests of the files are added if it has none.
        folder (`Path`):
            Folder of the files.
        companion_names (`tuple[str, ...]`):
            Other files that a soup takes over.
        open_base (`Callable[[str], Checkpoint]`):
            Opens the base model from its path or Hub id.
        notes (`Sequence[str]`, *optional*):
            Notes on what was chosen where the source left a choice.

    Raises:
        [`IngredientError`]: if the adapter is of another kind, is not whole, or does not fit its base model.
    """
    name = ingredient.name
    config = read_adapter_config(folder, name)
    check_kind(config, ingredient.source)
    if not (folder / ADAPTER_WEIGHTS).is_file():
        held = ", and no other weights either"
        if (folder / PICKLED).is_file():
            held = f"; it holds {PICKLED}, a pickle: save it again with a newer PEFT"
        raise IngredientError(f"{name} is an adapter without {ADAPTER_WEIGHTS}{held}.")
    files = {}
    for file in (ADAPTER, ADAPTER_WEIGHTS):
        with (folder / file).open("rb") as opened:
            files[file] = f"sha256:{hashlib.file_digest(opened, 'sha256').hexdigest()}"
    with as_error(IngredientError, f"{ADAPTER_WEIGHTS} of {name} cannot be read"):
        specs = read_header(folder / ADAPTER_WEIGHTS)
        state = {key: Stored(spec._replace(file=ADAPTER_WEIGHTS), folder) for key, spec in specs.items()}
    source = config.get("base_model_name_or_path")
    if not isinstance(source, str) or not source:
        raise IngredientError(f"{ADAPTER} of {name} names no base model (base_model_name_or_path).")
    if Path(source).is_dir() and Path(source).samefile(folder):
        raise IngredientError(f"{ADAPTER} of {name} names the adapter itself as its base model.")
    base, base_notes = open_base_of(name, source, config.get("revision"), open_base)
    if not ingredient.files:
        ingredient = replace(ingredient, files=files)
    tensors = split_adapter(state, name)
    return _with_base(ingredient, folder, companion_names, base, config, tensors, (*notes, *base_notes))


def open_peft_model(model: Any, name: str | None) -> AdapterCheckpoint:
    """Open a `PeftModel` in memory, on its base model as it is there.

    Args:
        model (`peft.PeftModel`):
            Model with one active adapter.
        name (`str`, *optional*):
            Name of the ingredient; the class of the base model by default.

    Raises:
        [`IngredientError`]: if several adapters are active, the adapter is of another kind, or it is merged.
    """
    from peft import get_peft_model_state_dict

    inner = model.get_base_model()
    name = name or type(inner).__name__
    active = model.active_adapters
    if len(active) != 1:
        raise IngredientError(f"{name} has the active adapters {listed(active)}: activate one with `set_adapter`.")
    if any(getattr(module, "disable_adapters", False) is True for module in inner.modules()):
        raise IngredientError(f"the adapter of {name} is disabled: call `enable_adapter_layers()` first.")
    if any(getattr(module, "merged", False) is True for module in inner.modules()):
        raise IngredientError(
            f"the adapter of {name} is merged into the weights of its base model, where it would count twice: call "
            "`unmerge_adapter()` first, or `merge_and_unload()` for a whole model."
        )
    config = {key: getattr(value, "value", value) for key, value in model.peft_config[active[0]].to_dict().items()}
    check_kind(config, name)
    state = get_peft_model_state_dict(model, adapter_name=active[0], save_embedding_layers=False)
    stored = {}
    for key, tensor in state.items():
        dtype = str(tensor.dtype).removeprefix("torch.")
        stored[key] = Stored(TensorSpec(key, tuple(tensor.shape), dtype), tensor=tensor.detach().cpu())
    split = split_adapter(stored, name)
    tensors = {}
    for key, tensor in inner.state_dict().items():
        path = key.replace(".base_layer.", ".").replace(".original_module.", ".")
        is_of_base = not OTHER_PART.fullmatch(key) and ".modules_to_save." not in key
        if is_of_base and path not in split.saved:  # a new head is random, and another one in each model
            tensors[path] = tensor
    settings = without_code(inner.config.to_dict()) | {"architectures": [type(inner).__name__]}
    base = open_tensors(tensors, f"base model of {name}", settings)
    digest = hashlib.sha256()
    for key, each in sorted(stored.items()):
        digest.update(key.encode() + bytes_of(each.read()))
    ingredient = Ingredient(name, MEMORY, files={ADAPTER_WEIGHTS: f"sha256:{digest.hexdigest()}"})
    return _with_base(ingredient, None, (), base, config, split, ())


def read_adapter_config(folder: Path, name: str) -> dict[str, Any]:
    """The content of `adapter_config.json`.

    Raises:
        [`IngredientError`]: if it cannot be read, or is no mapping.
    """
    config = json_inside(folder, ADAPTER)
    if not isinstance(config, dict):
        raise IngredientError(f"{ADAPTER} of {name} is no mapping.")
    return config


def _with_base(
    ingredient: Ingredient,
    folder: Path | None,
    companion_names: tuple[str, ...],
    base: Checkpoint,
    adapter_config: Mapping[str, Any],
    tensors: AdapterTensors,
    notes: tuple[str, ...],
) -> AdapterCheckpoint:
    """An adapter on its base model, under the names of the class that it was trained as."""
    name = ingredient.name
    config = config_of(name, folder, base, adapter_config, tensors)
    form = form_of(config)
    shapes = form.shapes
    like = Checkpoint(ingredient, config, {key: TensorSpec(key, shape, "float32") for key, shape in shapes.items()})
    base = fit_base(base, like)
    changes: dict[str, Change] = {}
    for key, change in changes_of(tensors.parts, adapter_config, form.transposed, name).items():
        stored = form.on_disk.get(key, key)
        if not isinstance(change, Scale) or not key.endswith(".bias") or stored in shapes:
            changes[stored] = change  # IA3 scales a bias if there is one
    if not changes and not tensors.saved:
        raise IngredientError(f"{name} holds no tensor, and so no change of its base model.")
    whole, problems = one_of_tied(tensors.saved, form, trained_whole(adapter_config, name))
    saved = {form.on_disk.get(key, key): tensor for key, tensor in whole.items()}
    for key in sorted(saved.keys() & changes.keys()):
        if _is_that_of(base, key, saved[key]):  # PEFT keeps a copy of the base model's embeddings
            del saved[key]
    problems += misfits(changes, saved, base.specs, form)
    there = {key for key, spec in base.specs.items() if shapes.get(key) == spec.shape}
    lacking = sorted(key for key in shapes if key not in there and key not in saved)
    if lacking:
        problems.append(f"neither it nor its base model has {listed(lacking, 3)}")
    if problems:
        raise IngredientError(f"{name} does not fit its base model {base.ingredient.source}: {'; '.join(problems)}.")
    specs: dict[str, TensorSpec] = {}
    for key in sorted(shapes):
        if key in changes:
            specs[key] = TensorSpec(key, shapes[key], WIDE)
        elif key in saved:
            specs[key] = TensorSpec(key, shapes[key], saved[key].spec.dtype)
        else:
            specs[key] = base.specs[key]._replace(file="", start=0, stored="")
    return AdapterCheckpoint(
        ingredient,
        config,
        specs,
        folder,
        opened_as={} if folder is None else {file: file_state(folder / file) for file in ingredient.files},
        companion_names=companion_names,
        notes=notes,
        base=base,
        adapter_config=adapter_config,
        changes=changes,
        saved=saved,
        adapter_names={key: name for name, key in form.on_disk.items() if name != key},
    )


def _is_that_of(base: Checkpoint, name: str, tensor: Stored) -> bool:
    """Whether a tensor of an adapter is that of its base model."""
    import torch

    if name not in base.specs or base.specs[name].shape != tuple(tensor.shape):
        return False
    make_ready([base])
    return torch.equal(base.read(name).double(), tensor.read().double())
