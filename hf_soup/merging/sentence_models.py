"""Models of sentence-transformers in memory, loaded by their own classes from what a saved soup would hold."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..checkpoints.companion_files import MODULES
from ..checkpoints.companions import in_order, mapping_of, taken_files
from ..checkpoints.memory import quiet_transformers, tensors_on_disk
from ..checkpoints.staging import temporary_folder
from ..checkpoints.subfolders import subfolder_prefix
from ..checkpoints.writer import weight_files
from ..errors import IngredientError, MissingExtraError
from ..untrusted import one_line
from .blend import blend
from .plan import Plan


if TYPE_CHECKING:
    import torch

    from ..checkpoints.checkpoint import Checkpoint

SETTINGS = "config_sentence_transformers.json"
CLASSES = ("SentenceTransformer", "CrossEncoder", "SparseEncoder")
EXTRA = "models of sentence-transformers need its library: pip install 'hf-soup[sentence-transformers]'"


def sentence_class(plan: Plan, checkpoints: Sequence[Checkpoint]) -> str | None:
    """The class of sentence-transformers that a soup is of; `None` if it has no list of modules.

    Raises:
        [`IngredientError`]: if its settings name a class that is not known.
    """
    files = taken_files(in_order(checkpoints, plan.settings))
    if MODULES not in files:
        return None
    name = mapping_of(files, SETTINGS).get("model_type", CLASSES[0])  # older folders do not name it
    if name not in CLASSES:
        raise IngredientError(f"{SETTINGS} has the model_type {one_line(name, 40)!r}; known are {CLASSES}.")
    return str(name)


def cook_sentence_model(
    plan: Plan, checkpoints: Sequence[Checkpoint], config: dict[str, Any], class_name: str, *, device: str = "cpu"
) -> Any:
    """The model of a plan, made by the same stream and the same loading as a saved soup.

    Args:
        plan ([`Plan`]):
            Plan of the merge.
        checkpoints (`Sequence[Checkpoint]`):
            The ingredients in recipe order.
        config (`dict[str, Any]`):
            Configuration of the soup; empty if it has none.
        class_name (`str`):
            What [`sentence_class`] returns.
        device (`str`, *optional*, defaults to `"cpu"`):
            Device on which tensors are averaged. The model is on the CPU.

    Returns:
        `SentenceTransformer`, `CrossEncoder` or `SparseEncoder`: in evaluation mode.

    Raises:
        [`MissingExtraError`]: if sentence-transformers is not installed.
        [`IngredientError`]: if it cannot load the model.
    """
    try:
        import sentence_transformers
    except ImportError:
        raise MissingExtraError(EXTRA) from None
    files = taken_files(in_order(checkpoints, plan.settings))
    with temporary_folder() as folder:
        for name in files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            files.copy(name, folder / name)
        if config:
            (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        with weight_files(folder, plan.specs) as sink:
            blend(plan, checkpoints, sink.write, device=device)
        try:
            with quiet_transformers():
                model = getattr(sentence_transformers, class_name)(str(folder), device="cpu", local_files_only=True)
        except Exception as error:  # it may raise anything for an invalid configuration
            raise IngredientError(
                f"sentence-transformers cannot load a {class_name} from these files: {one_line(str(error))}"
            ) from error
    return model.eval()


def tensors_of_modules(model: Any) -> dict[str, torch.Tensor]:
    """The memory of a model of sentence-transformers by names on disk; modules within modules are left out.

    Args:
        model (`SentenceTransformer`, `CrossEncoder` or `SparseEncoder`):
            A loaded model.
    """
    tensors: dict[str, torch.Tensor] = {}
    for place, (name, module) in enumerate(model.named_children()):
        if place == 0 and body_of(model) is getattr(module, "model", None):
            tensors |= tensors_on_disk(module.model)
            continue
        folder = "" if place == 0 else f"{name}_{type(module).__name__}"
        for key, tensor in module.state_dict().items():
            tensors[subfolder_prefix(folder) + key] = tensor.detach()
    return tensors


def is_sentence_model(model: Any) -> bool:
    """Whether a model is one of sentence-transformers, which need not be installed."""
    return any(base.__module__.startswith("sentence_transformers.") for base in type(model).__mro__)


def body_of(model: Any) -> Any:
    """The model of transformers in one of sentence-transformers; any other model as it is."""
    inner = model.transformers_model if is_sentence_model(model) else None
    return model if inner is None else inner
