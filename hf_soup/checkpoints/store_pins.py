"""A folder on an object store as an ingredient: pinned by the ETags of its files, with the headers of its weights."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ..errors import IngredientError
from ..untrusted import one_line
from .companion_files import SortedFiles
from .listed_files import Listing
from .other_contents import ADAPTER_WEIGHTS, refuse_pickle
from .reader import TensorSpec
from .remote_files import ByteRange, RemoteFiles
from .staging import staged_file
from .store import Store
from .targets import as_output_error


_FETCHING = threading.Lock()


class StorePin(NamedTuple):
    """The relevant contents of a folder on an object store.

    Args:
        files (`dict[str, str]`):
            Weight file -> its ETag.
        specs (`dict[str, dict[str, TensorSpec]]`):
            Subfolder -> its tensors; empty for an adapter.
        sorted_files ([`SortedFiles`]):
            Other files of the folder.
        folder (`Path`):
            Local folder with the small files.
        sizes (`dict[str, int]`):
            Weight file -> its size in bytes.
        checkpoint (`str`, *optional*), reason (`str`, *optional*):
            The folder of a Trainer's checkpoint that all of this is of, and why it was chosen.
    """

    files: dict[str, str]
    specs: dict[str, dict[str, TensorSpec]]
    sorted_files: SortedFiles
    folder: Path
    sizes: dict[str, int]
    checkpoint: str = ""
    reason: str = ""


def pin_store(address: str) -> StorePin:
    """List a folder, read the headers of its weights, and fetch its small files.

    Args:
        address (`str`):
            Address of the folder.

    Raises:
        [`IngredientError`]: if it cannot be reached, or holds no weights, or pickled ones.
    """
    store = Store(address)
    files = store.files()
    if not files:
        raise IngredientError(f"{one_line(address)} does not exist, or is empty.")
    sizes = {name: size for name, (size, _) in files.items()}
    place = _place_of(address, files)
    fetch = partial(_fetch, store, files, place)
    listing = Listing(address, sizes, fetch, store.read)
    chosen = listing.checkpoint()
    if chosen is not None:
        name, reason = chosen
        return pin_store(f"{address.rstrip('/')}/{name}")._replace(checkpoint=name, reason=reason)
    sorted_files, weight_files = listing.weights()
    is_adapter = ADAPTER_WEIGHTS in weight_files
    pickled = [name for name in weight_files if not name.endswith((".safetensors", ".json"))]
    if pickled:
        raise IngredientError(f"{one_line(address)} holds {refuse_pickle(pickled[0], address)}")
    small = [*listing.small_files(), *sorted_files.taken, *(weight_files if is_adapter else ())]
    return StorePin(
        {name: files[name][1] for name in weight_files},
        {} if is_adapter else listing.headers(weight_files),
        sorted_files,
        fetch("", small),
        {name: sizes[name] for name in weight_files},
    )


def fetch_from_store(address: str, names: Sequence[str]) -> Path:
    """Fetch small files of a folder, those that exist, and return the local folder that holds them.

    Args:
        address (`str`):
            Address of the folder.
        names (`Sequence[str]`):
            Names of the files.

    Raises:
        [`IngredientError`]: if it cannot be reached.
    """
    store = Store(address)
    files = store.files()
    return _fetch(store, files, _place_of(address, files), "", names)


def _fetch(
    store: Store, files: Mapping[str, tuple[int, str]], place: Path, subfolder: str, names: Sequence[str]
) -> Path:
    """Copy files of a subfolder that are not in their local place yet."""
    with _FETCHING:  # the same folder may be opened twice at once
        for name in names:
            name = f"{subfolder}/{name}".removeprefix("/")
            path = place / name
            if name in files and not path.exists():
                with as_output_error(path), staged_file(path) as aside:
                    store.download(name, aside)
    return place / subfolder


def _place_of(address: str, files: Mapping[str, tuple[int, str]]) -> Path:
    """The local folder for the small files of a folder in one state."""
    import xxhash
    from huggingface_hub.constants import HF_HOME

    states = {name: state for name, (_, state) in files.items()}
    key = xxhash.xxh3_128_hexdigest(repr((address, sorted(states.items()))).encode())
    place = Path(HF_HOME).expanduser() / "hf_soup" / "stores" / key
    with as_output_error(place):
        place.mkdir(parents=True, exist_ok=True)
    return place


@dataclass(frozen=True)
class StoreRanges:
    """Reads ranges of the weight files of a folder on an object store.

    Args:
        store ([`Store`]):
            The folder.
        states (`Mapping[str, str]`):
            File -> its ETag when it was pinned.
    """

    store: Store
    states: Mapping[str, str]

    def __call__(self, wanted: ByteRange, into: memoryview) -> None:
        """Fill memory with the bytes of a range.

        Raises:
            [`IngredientError`]: if the store does not give them.
        """
        content = self.store.read(*wanted)
        if len(content) != len(into):
            raise IngredientError(
                f"{one_line(self.store.address)}/{wanted.file} has changed since it was opened: it ends early."
            )
        into[:] = content

    def refuse_changed(self) -> None:
        """Refuse files that are others than when they were pinned.

        Raises:
            [`IngredientError`]: naming the first one.
        """
        files = self.store.files()
        for name, state in self.states.items():
            if files.get(name, (0, ""))[1] != state:
                raise IngredientError(
                    f"{one_line(self.store.address)}/{name} has changed since it was opened; merge again."
                )


def store_files(name: str, address: str, pin: StorePin) -> RemoteFiles:
    """The weight files of an ingredient on an object store.

    Args:
        name (`str`):
            Name of the ingredient.
        address (`str`), pin ([`StorePin`]):
            The folder, and what it holds.
    """
    ranges = StoreRanges(Store(address), pin.files)
    return RemoteFiles(name, pin.sizes, pin.files, ranges, ranges.refuse_changed)
