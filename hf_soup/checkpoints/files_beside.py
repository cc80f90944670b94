"""Which files of a checkpoint a soup takes over beside its weights: all but weights, traces of training and the card.

It looks at names and sizes alone. What is left behind has a reason, and is told.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from ..errors import IngredientError
from .reader import SAFE_INDEX, SAFE_WEIGHTS, lies_in


LARGEST = 100 * 2**20  # bytes of one file; vocabularies are smaller
MOST = 500 * 2**20  # bytes of all of them
MODULES = "modules.json"  # which modules a SentenceTransformer has, each in a sub-folder or in the folder itself
CONFIG, CARD = "config.json", "README.md"

WEIGHTS = re.compile(
    r".*\.(safetensors|bin|pt|pth|ckpt|h5|msgpack|onnx|onnx_data|gguf|ggml|tflite|ot|npz|pkl|pickle|joblib|mlmodel|"
    r"pdparams|distcp)|.*\.(safetensors|bin|h5|msgpack)\.index\.json|adapter_config\.json"
)
TRAINING = re.compile(
    r"(optimizer|scheduler|scaler|rng_state|random_states|training_args|zero_pp_rank|mp_rank|bf16_zero).*|"
    r"trainer_state\.json|zero_to_fp32\.py|latest|(run|failed|pushed|sweep)\.json|"
    r"(all|train|eval|test|predict)_results\.json"
)
LOGS = re.compile(r"events\.out\.tfevents\..*|.*\.(log|out)|trainer_log\.jsonl")
# What a soup wrote beside its weights, and the next one writes anew.
OF_A_SOUP = re.compile(
    r"soup_recipe\.yaml|soup_batchnorm\.safetensors|comparison\.(md|json)|analysis\.(md|json)|"
    r"(comparison|shifts|reliability|selection)\.png|"
    r"(similarity|diversity|landscape|plane|contribution|modules)(-\w+)?\.png"
)
OTHER_FOLDERS = re.compile(
    r"checkpoint-\d+|runs|logs|wandb|mlruns|tensorboard|onnx|openvino|coreml|global_step\d+|pytorch_model_fsdp(_\d+)?|"
    r"optimizer(_\d+)?|__pycache__"
)
# What turns texts, images and sounds into what a model takes.
TOKENIZER = re.compile(
    r"tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json|tekken\.json|"
    r"vocab[^/]*\.(json|txt)|merges[^/]*\.txt|[^/]*\.(spm|tiktoken|bpe|model|codes)|dict\.txt|emoji\.json|"
    r"normalizer\.json"
)
TEMPLATES = re.compile(r"chat_template\.(jinja|json)|additional_chat_templates/.*")
PROCESSOR = re.compile(r"(video_)?preprocessor_config\.json|processor_config\.json")


class Beside(NamedTuple):
    """The files of a checkpoint besides its weights.

    Args:
        taken (`tuple[str, ...]`):
            Those that go along, relative to its folder, with `/` between folders.
        left (`tuple[str, ...]`):
            Those that stay behind; of a folder that stays as a whole its name and a slash.
        parts (`tuple[str, ...]`):
            Sub-folders whose weights belong to the model: modules of a SentenceTransformer.
    """

    taken: tuple[str, ...]
    left: tuple[str, ...]
    parts: tuple[str, ...]


def sort_out(sizes: Mapping[str, int]) -> Beside:
    """Decide which files of a checkpoint go along with its weights.

    Args:
        sizes (`Mapping[str, int]`):
            File, relative to the checkpoint's folder -> its bytes.

    Returns:
        [`Beside`]
    """
    folders = {posixpath.dirname(name) for name in sizes}
    with_weights = {posixpath.dirname(name) for name in sizes if WEIGHTS.fullmatch(posixpath.basename(name))}
    is_sentence_transformer = MODULES in sizes
    parts, elsewhere = [], []
    for folder in sorted(folders - {""}):
        other = _other_folder(folder)
        if other is not None:
            elsewhere.append(other)
        elif folder in with_weights and is_sentence_transformer:
            parts.append(folder)
        elif folder in with_weights:
            elsewhere.append(folder)
    taken, left, total = [], [], 0
    for name in sorted(sizes, key=lambda name: (sizes[name], name)):
        folder, file = posixpath.split(name)
        outer = next((other for other in elsewhere if f"{folder}/".startswith(f"{other}/")), None)
        if _is_hidden(name) or name in (CONFIG, CARD) or OF_A_SOUP.fullmatch(name) or _is_read(name, parts):
            continue
        if outer is not None:
            left.append(f"{outer}/")
        elif (
            TRAINING.fullmatch(file)
            or LOGS.fullmatch(file)
            or WEIGHTS.fullmatch(file)
            or sizes[name] > LARGEST
            or total + sizes[name] > MOST
        ):
            left.append(name)
        else:
            taken.append(name)
            total += sizes[name]
    return Beside(tuple(sorted(taken)), tuple(sorted(set(left))), tuple(parts))


def sizes_in(folder: Path) -> dict[str, int]:
    """The files of a folder and of folders in it, relative to it, and their bytes; links to folders are not followed.

    Raises:
        [`IngredientError`]: if the folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise IngredientError(f"cannot read {error.filename}: {error.strerror}.")

    sizes = {}
    for place, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for file in files:
            path = Path(place, file)
            if path.is_file():  # no broken link, no socket
                sizes[path.relative_to(folder).as_posix()] = path.stat().st_size
    return sizes


class FilesBeside(Mapping[str, bytes]):
    """Files beside the weights of a checkpoint, by name; each is read when it is asked for.

    Args:
        folder (`Path`):
            That holds them.
        names (`tuple[str, ...]`):
            Relative to it.
    """

    def __init__(self, folder: Path, names: tuple[str, ...]):
        self._folder, self._names = folder, names

    def __getitem__(self, name: str) -> bytes:
        if name not in self._names:
            raise KeyError(name)
        path = self._folder / name
        try:
            return path.read_bytes()
        except OSError as error:
            raise IngredientError(f"cannot read {path}: {error.strerror}.") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def without_links(folder: Path, beside: Beside) -> Beside:
    """The same without files that are links to somewhere else: a soup would carry off what they point to.

    Raises:
        [`IngredientError`]: if a tokenizer or processor needs one of them.
    """
    links = [name for name in beside.taken if not lies_in(folder, folder / name)]
    for name in links:
        if any(kind.fullmatch(name) for kind in (TOKENIZER, TEMPLATES, PROCESSOR)):
            raise IngredientError(f"{folder / name} is a link out of its folder; these are not followed. Copy {name}.")
    taken = tuple(name for name in beside.taken if name not in links)
    return beside._replace(taken=taken, left=(*beside.left, *links))


def _other_folder(folder: str) -> str | None:
    """The outermost folder on the way to this one that holds no part of a model."""
    pieces = folder.split("/")
    for count in range(1, len(pieces) + 1):
        if OTHER_FOLDERS.fullmatch(pieces[count - 1]):
            return "/".join(pieces[:count])
    return None


def _is_hidden(name: str) -> bool:
    return any(piece.startswith(".") for piece in name.split("/"))


def _is_read(name: str, parts: list[str]) -> bool:
    """Whether a file holds weights that are averaged: of the model itself, or of a module in a sub-folder."""
    folder, file = posixpath.split(name)
    is_weights = file in (SAFE_WEIGHTS, SAFE_INDEX) or re.fullmatch(r"model-\d{5}-of-\d{5}\.safetensors", file)
    return (folder == "" or folder in parts) and bool(is_weights)
