"""Which files of a repository would be loaded instead of a soup that is pushed there, or on top of it. Names alone."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection

from ..checkpoints.checkpoint import GENERATION
from ..checkpoints.files_beside import MODULES, OF_A_SOUP, PROCESSOR, TEMPLATES, TOKENIZER
from ..recipes import RECIPE_FILE


# Weights that transformers, a pipeline or a runtime looks for, of any kind and format.
WEIGHTS = re.compile(
    r"adapter_config\.json|adapter_model\..*|pytorch_model.*\.bin(\.index.*\.json)?|"
    r"model(\.[\w-]+)?(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index(\.[\w-]+)?\.json|quant(ize)?_config\.json|"
    r"tf_model.*\.h5(\.index\.json)?|flax_model.*\.msgpack(\.index\.json)?|model\.ckpt\..*|rust_model\.ot|"
    r".*\.onnx(_data)?|openvino_model.*|(onnx|openvino|coreml)/.*"
)
SENTENCE_TRANSFORMER = re.compile(
    r"modules\.json|router_config\.json|config_sentence_transformers\.json|sentence_[a-z]+_config\.json|\d+_[A-Z]\w*/.*"
)


def stale_files(there: Collection[str], new: Collection[str]) -> list[str]:
    """Files of a repository that have to go when a soup comes.

    Args:
        there (`Collection[str]`):
            The files of the repository.
        new (`Collection[str]`):
            Those that come.

    Returns:
        `list[str]`: sorted; of files that are replaced nothing needs to be said.
    """
    kinds = [WEIGHTS, OF_A_SOUP, re.compile(r"\.eval_results/hf_soup--.*\.yaml"), re.compile(re.escape(GENERATION))]
    was_a_soup = RECIPE_FILE in there  # whose tokenizer came with it
    for kind in (TOKENIZER, PROCESSOR):
        if was_a_soup or any(kind.fullmatch(name) for name in new):
            kinds.append(kind)
    if TOKENIZER in kinds:
        kinds.append(TEMPLATES)
    if MODULES not in new:
        kinds.append(SENTENCE_TRANSFORMER)
    parts = {posixpath.dirname(name) for name in new} - {""}
    gone = []
    for name in there:
        folder, file = posixpath.split(name)
        in_part = folder in parts and WEIGHTS.fullmatch(file)
        if name not in new and (in_part or any(kind.fullmatch(name) for kind in kinds)):
            gone.append(name)
    return sorted(gone)
