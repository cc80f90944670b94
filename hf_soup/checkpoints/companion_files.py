"""Companion files: which files of a checkpoint a soup takes over together with the weights.

A soup takes everything except other weights, training artefacts, programs and the model card. The decision follows
from names and sizes; skipped files are reported.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import IngredientError
from ..untrusted import one_line
from .inside import FolderContents, blocks_of, contents_of, json_inside, lies_in, place_of, read_inside
from .named_code import is_searched
from .reader import SAFE_INDEX, SAFE_WEIGHTS


LARGEST = 100 * 2**20  # bytes of one file; vocabularies are smaller
MOST = 500 * 2**20  # bytes of all of them
MODULES = "modules.json"  # the list of modules of a SentenceTransformer, each in a subfolder or in the top folder
CONFIG, CARD = "config.json", "README.md"

WEIGHTS = re.compile(
    r".*\.(safetensors|bin|pt|pth|ckpt|h5|msgpack|onnx|onnx_data|gguf|ggml|tflite|ot|npz|pkl|pickle|joblib|mlmodel|"
    r"pdparams|distcp)|.*\.(safetensors|bin|h5|msgpack)\.index\.json|adapter_config\.json"
)
SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
TRAINING = re.compile(
    r"(optimizer|scheduler|scaler|rng_state|random_states|training_args|zero_pp_rank|mp_rank|bf16_zero|average_state).*|"
    r"trainer_state\.json|zero_to_(fp32|torch)\.py|latest|(run|failed|pushed|sweep)\.json|"
    r"(all|train|eval|test|predict)_results\.json"
)
LOGS = re.compile(r"events\.out\.tfevents\..*|.*\.(log|out)|trainer_log\.jsonl")
# Executable files, which a soup of averaged numbers and settings does not need.
PROGRAMS = re.compile(r"(?i).*\.(py|pyc|pyo|pyd|pyx|so|dll|dylib|exe|sh|bash|bat|cmd|ps1|ipynb)")
# Files that a soup writes with its weights, and that every new soup writes again.
OF_A_SOUP = re.compile(
    r"soup_importance/.*|soup_recipe\.yaml|mergekit_config\.yml|soup_batchnorm\.safetensors|comparison\.(md|json)|analysis\.(md|json)|"
    r"(comparison|shifts|reliability|selection)\.png|"
    r"(similarity|diversity|landscape|plane|contribution|modules)(-\w+)?\.png"
)
OTHER_FOLDERS = re.compile(
    r"checkpoint-\d+|runs|logs|wandb|mlruns|tensorboard|onnx|openvino|coreml|global_step\d+|pytorch_model_fsdp(_\d+)?|"
    r"optimizer(_\d+)?|__pycache__"
)
# Files that convert texts, images and sounds to model inputs.
TOKENIZER = re.compile(
    r"tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json|tekken\.json|"
    r"vocab[^/]*\.(json|txt)|merges[^/]*\.txt|[^/]*\.(spm|tiktoken|bpe|model|codes)|dict\.txt|emoji\.json|"
    r"normalizer\.json"
)
TEMPLATES = re.compile(r"chat_template\.(jinja|json)|additional_chat_templates/.*")
SETTINGS = re.compile(r"(.*/)?(\w+_)?config\.json|modules\.json|sentence_\w+_config\.json")
PROCESSOR = re.compile(r"(video_)?preprocessor_config\.json|processor_config\.json")


class SortedFiles(NamedTuple):
    """The files of a checkpoint other than its weights, grouped by whether a soup takes them over.

    Args:
        taken (`tuple[str, ...]`):
            Files that are copied to the soup, relative to the folder of the checkpoint, with `/` between folders.
        left (`tuple[str, ...]`):
            Files that are not copied. A folder that is left out as a whole is listed by its name and a slash.
        subfolders (`tuple[str, ...]`):
            Sub-folders whose weights belong to the model: modules of a SentenceTransformer.
    """

    taken: tuple[str, ...]
    left: tuple[str, ...]
    subfolders: tuple[str, ...]


def sort_files(sizes: Mapping[str, int]) -> SortedFiles:
    """Decide which files of a checkpoint a soup takes over with its weights.

    Args:
        sizes (`Mapping[str, int]`):
            File, relative to the checkpoint's folder -> its bytes.

    Returns:
        [`SortedFiles`]
    """
    subfolders, elsewhere = _sort_folders(sizes)
    taken: list[str] = []
    left: list[str] = []
    total = 0
    # In order of size, so that the largest files are skipped when the total exceeds `MOST`.
    for name in sorted(sizes, key=lambda name: (sizes[name], name)):
        size = sizes[name]
        if _is_written_anew(name) or _is_read(name, subfolders):
            continue
        folder_left = _folder_around(name, elsewhere)
        if not _is_printable(name):
            left.append(one_line(name))
        elif folder_left is not None:  # reported once for all of its files
            left.append(f"{folder_left}/")
        elif _stays_behind(posixpath.basename(name)) or size > LARGEST or total + size > MOST:
            left.append(name)
        else:
            taken.append(name)
            total += size
    return SortedFiles(tuple(sorted(taken)), tuple(sorted(set(left))), tuple(subfolders))


def _sort_folders(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Subfolders whose weights belong to the model, and the outermost folders that hold nothing of it."""
    names = list(names)
    folders = {posixpath.dirname(name) for name in names}
    with_weights = set()
    for name in names:
        folder, file = posixpath.split(name)
        if WEIGHTS.fullmatch(file):
            with_weights.add(folder)
    is_sentence_transformer = MODULES in names
    subfolders, elsewhere = [], []
    for folder in sorted(folders - {""}):
        if OF_A_SOUP.fullmatch(f"{folder}/"):
            continue
        foreign = _foreign_folder(folder)
        if foreign is not None:
            elsewhere.append(foreign)
        elif folder in with_weights and is_sentence_transformer:
            subfolders.append(folder)
        elif folder in with_weights:
            elsewhere.append(folder)
    return subfolders, elsewhere


def _folder_around(name: str, folders: Iterable[str]) -> str | None:
    """The first of the given folders that contains a file; `None` if there is none."""
    for folder in folders:
        if name.startswith(f"{folder}/"):
            return folder
    return None


def _is_written_anew(name: str) -> bool:
    """Whether a soup writes its own file of this name, or the file is not part of the model."""
    return _is_hidden(name) or name in (CONFIG, CARD) or OF_A_SOUP.fullmatch(name) is not None


def _stays_behind(file: str) -> bool:
    """Whether a file with this name (without its folder) is of no use to a soup."""
    return is_of_training(file) or any(pattern.fullmatch(file) for pattern in (WEIGHTS, PROGRAMS))


def is_of_training(file: str) -> bool:
    """Whether a file with this name (without its folder) is a state or a log that Trainer and the like write.

    Args:
        file (`str`):
            Name of the file.
    """
    return any(pattern.fullmatch(file) for pattern in (TRAINING, LOGS))


def sizes_in(folder: Path) -> dict[str, int]:
    """The files of a folder and its subfolders, relative to it, with their bytes; links to folders are not followed.

    Raises:
        [`IngredientError`]: if the folder cannot be read.
    """
    return contents_of(folder).sizes


class CompanionFiles(Mapping[str, bytes]):
    """Companion files of a checkpoint by name; each is read when its content is looked up.

    Args:
        folder (`Path`):
            Folder that holds the files.
        names (`tuple[str, ...]`):
            Relative to it.
    """

    def __init__(self, folder: Path, names: tuple[str, ...]):
        self._folder, self._names = folder, names

    def __getitem__(self, name: str) -> bytes:
        self._refuse_other(name)
        try:
            return read_inside(self._folder, name, at_most=LARGEST)
        except FileNotFoundError:
            raise IngredientError(f"{one_line(self._folder / name)} is not there any more.") from None

    def blocks(self, name: str) -> Iterator[bytes]:
        """The content of one file in pieces, of which memory holds one at a time."""
        self._refuse_other(name)
        try:
            yield from blocks_of(self._folder, name, at_most=LARGEST)
        except FileNotFoundError:
            raise IngredientError(f"{one_line(self._folder / name)} is not there any more.") from None

    def _refuse_other(self, name: str) -> None:
        if name not in self._names:
            raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def pieces_of(files: Mapping[str, bytes], name: str) -> Iterable[bytes]:
    """The content of a companion file, read in pieces if it is in a folder."""
    if isinstance(files, CompanionFiles):
        return files.blocks(name)
    return [files[name]]


def without_unreadable(folder: Path, sorted_files: SortedFiles) -> SortedFiles:
    """The same files without those that are named JSON but are not valid JSON.

    Raises:
        [`IngredientError`]: if a tokenizer, a processor or a model needs one of them.
    """
    unreadable = []
    for name in filter(is_searched, sorted_files.taken):
        try:
            content = json_inside(folder, name)
            if name == MODULES:
                _refuse_foreign_modules(content, one_line(folder / name))
        except (IngredientError, FileNotFoundError):
            if _is_needed(name):
                raise
            unreadable.append(name)
    taken = tuple(name for name in sorted_files.taken if name not in unreadable)
    return sorted_files._replace(taken=taken, left=(*sorted_files.left, *unreadable))


def _refuse_foreign_modules(modules: Any, where: str) -> None:
    """Refuse SentenceTransformer modules that are outside the folder or are not classes of the library."""
    if not isinstance(modules, list) or not all(isinstance(module, Mapping) for module in modules):
        raise IngredientError(f"{where} is not a list of modules.")
    for module in modules:
        path, class_name = str(module.get("path", "")), str(module.get("type", ""))
        if posixpath.isabs(path) or ".." in path.split("/"):
            raise IngredientError(f"{where} names {one_line(path, 80)!r}, which is not a folder below it.")
        if not class_name.startswith("sentence_transformers."):
            raise IngredientError(
                f"{where} needs {one_line(class_name, 80)!r}, a class of its own; code from a repository is not run."
            )


def _is_needed(name: str) -> bool:
    """Whether a model cannot be used without a file."""
    return any(pattern.fullmatch(name) for pattern in (TOKENIZER, TEMPLATES, PROCESSOR, SETTINGS))


def without_links(folder: Path, sorted_files: SortedFiles, contents: FolderContents) -> SortedFiles:
    """The same files without links that lead out of the folder, whose targets a soup would otherwise copy.

    Raises:
        [`IngredientError`]: if the model, its tokenizer or processor, or its card is or needs one of them.
    """
    for name in (CONFIG, CARD):
        place_of(folder, name)  # refuses a link that leads out of the folder
    links = [name for name in sorted_files.taken if not lies_in(folder, folder / name)]
    for name in filter(_is_needed, links):
        place_of(folder, name)
    if MODULES in sorted_files.taken:  # which names folders of modules, each of which may be needed
        _refuse_linked_modules(folder, contents.linked_folders)
    _refuse_special_files(folder, contents.special_files)
    taken = tuple(name for name in sorted_files.taken if name not in links)
    linked_folders = [f"{name}/" for name in contents.linked_folders]
    return sorted_files._replace(
        taken=taken, left=(*sorted_files.left, *links, *contents.special_files, *linked_folders)
    )


def _refuse_linked_modules(folder: Path, linked_folders: Iterable[str]) -> None:
    """Refuse links to outside folders that may hold modules of a SentenceTransformer."""
    for name in linked_folders:
        if _foreign_folder(name) is None:
            place_of(folder, name)


def _refuse_special_files(folder: Path, special_files: Iterable[str]) -> None:
    """Refuse pipes, sockets and devices where a regular file is expected."""
    for name in special_files:
        if name in (CONFIG, CARD, SAFE_WEIGHTS) or _is_needed(name):
            raise IngredientError(f"{one_line(folder / name)} is not a regular file.")


def _foreign_folder(folder: str) -> str | None:
    """The outermost folder on the path to this one that holds nothing of a model."""
    names = folder.split("/")
    for index, name in enumerate(names):
        if OTHER_FOLDERS.fullmatch(name):
            return "/".join(names[: index + 1])
    return None


def _is_printable(name: str) -> bool:
    """Whether a name has no control characters, so that it can appear in a message and in any folder."""
    without_spaces = name.replace(" ", "_")
    return one_line(without_spaces, len(name)) == without_spaces


def _is_hidden(name: str) -> bool:
    """Whether the name of a file, or of a folder on its path, begins with a dot."""
    return name.startswith(".") or "/." in name


def _is_read(name: str, subfolders: list[str]) -> bool:
    """Whether a file holds weights that are averaged: those of the model itself, or of a module in a subfolder."""
    folder, file = posixpath.split(name)
    if folder != "" and folder not in subfolders:
        return False
    return file in (SAFE_WEIGHTS, SAFE_INDEX) or SHARD.fullmatch(file) is not None
