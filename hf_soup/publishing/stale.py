"""Finds files of a repository that would be loaded instead of a pushed soup, or in addition to it, by their names."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection

from ..checkpoints.checkpoint import GENERATION
from ..checkpoints.companion_files import MODULES, OF_A_SOUP, PROCESSOR, TEMPLATES, TOKENIZER
from ..checkpoints.other_contents import ADAPTER
from ..formats.recipe_file import RECIPE_FILE


# Weights of any kind and format that transformers, a pipeline or a runtime looks for.
WEIGHTS = re.compile(
    r"adapter_config\.json|adapter_model\..*|pytorch_model.*\.bin(\.index.*\.json)?|"
    r"model(\.[\w-]+)?(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index(\.[\w-]+)?\.json|quant(ize)?_config\.json|"
    r"tf_model.*\.h5(\.index\.json)?|flax_model.*\.msgpack(\.index\.json)?|model\.ckpt\..*|rust_model\.ot|"
    r".*\.onnx(_data)?|openvino_model.*|(onnx|openvino|coreml)/.*"
)
SENTENCE_TRANSFORMER = re.compile(
    r"modules\.json|router_config\.json|config_sentence_transformers\.json|sentence_[a-z]+_config\.json|\d+_[A-Z]\w*/.*"
)
LEADERBOARD = re.compile(r"\.eval_results/hf_soup--.*\.yaml")


def stale_files(there: Collection[str], new: Collection[str]) -> list[str]:
    """The files of a repository that have to be deleted when a soup is pushed.

    Args:
        there (`Collection[str]`):
            Files of the repository.
        new (`Collection[str]`):
            Files that are pushed.

    Returns:
        `list[str]`: the files to delete, sorted, without those that are replaced.
    """
    patterns = _patterns(there, new)
    folders = {posixpath.dirname(name) for name in new} - {""}  # subfolders of a SentenceTransformer have weights too
    stale = []
    for name in there:
        if name in new:
            continue
        folder, file = posixpath.split(name)
        is_other_weight = folder in folders and WEIGHTS.fullmatch(file) is not None
        if is_other_weight or any(pattern.fullmatch(name) for pattern in patterns):
            stale.append(name)
    return sorted(stale)


def _patterns(there: Collection[str], new: Collection[str]) -> list[re.Pattern[str]]:
    """Patterns of files that might be loaded with weights that they do not belong to."""
    patterns = [WEIGHTS, OF_A_SOUP, LEADERBOARD, re.compile(re.escape(GENERATION))]
    was_a_soup = RECIPE_FILE in there  # its tokenizer and processor were pushed with it
    if was_a_soup or any(map(TOKENIZER.fullmatch, new)):
        patterns += [TOKENIZER, TEMPLATES]
    if was_a_soup or any(map(PROCESSOR.fullmatch, new)):
        patterns.append(PROCESSOR)
    if ADAPTER in new:  # whose folder has no configuration of a whole model
        patterns.append(re.compile(re.escape("config.json")))
    if MODULES not in new:
        patterns.append(SENTENCE_TRANSFORMER)
    return patterns
