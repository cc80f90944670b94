"""Runs that train an adapter of PEFT on the shared start, instead of all weights. PEFT is imported when it is used."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints.adapter_file import PREFIX, check_kind
from ..checkpoints.inside import json_inside
from ..checkpoints.other_contents import ADAPTER
from ..errors import MissingExtraError, RecipeError, did_you_mean
from ..untrusted import as_error, one_line
from .head import is_head


if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel

PEFT = "peft"  # the setting of a run, and the prefix of its parts: `peft.r`
# task of hf_soup -> `task_type` of PEFT
TASKS = {
    "text-classification": "SEQ_CLS",
    "multi-label-classification": "SEQ_CLS",
    "regression": "SEQ_CLS",
    "token-classification": "TOKEN_CLS",
    "text-generation": "CAUSAL_LM",
    "text2text-generation": "SEQ_2_SEQ_LM",
}
INIT_SEED = "init_seed"  # of the first factors, which all runs share
DECIDED = ("peft_type", "task_type", "base_model_name_or_path", "revision", "inference_mode", "auto_mapping")


def peft_settings(settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The settings of an adapter: those of `peft`, with the parts that are given apart (`peft.r`).

    Args:
        settings (`Mapping[str, Any]`):
            Settings of one run.

    Returns:
        `dict[str, Any]`: arguments of `LoraConfig`; `None` if all weights are trained.
    """
    parts = {name.partition(".")[2]: value for name, value in settings.items() if name.startswith(f"{PEFT}.")}
    whole = settings.get(PEFT)
    if whole is None and not parts:
        return None
    return {**(whole or {}), **parts}


def check_peft(settings: Mapping[str, Any]) -> None:
    """Raise an error for settings of an adapter that PEFT does not take.

    Args:
        settings (`Mapping[str, Any]`):
            Settings of one run.

    Raises:
        [`RecipeError`]: if a name is unknown, with the nearest known one, or a value is invalid.
        [`MissingExtraError`]: if PEFT is not installed.
    """
    whole = settings.get(PEFT)
    if whole is not None and not isinstance(whole, Mapping):
        raise RecipeError(f'"peft" is a mapping of settings of LoRA, such as {{"r": 8}}, not {whole!r}.')
    own = peft_settings(settings)
    if own is None:
        return
    _import_peft()
    import dataclasses

    rank = own.get("r", 1)
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise RecipeError(f'"peft.r", the rank, is a whole number from 1, not {rank!r}.')

    from peft import LoraConfig

    known = [field.name for field in dataclasses.fields(LoraConfig) if field.init and field.name not in DECIDED]
    for name in own:
        if name != INIT_SEED and name not in known:
            raise RecipeError(f'LoraConfig has no setting "{one_line(name)}"{did_you_mean(name, known)}')
    check_kind({"peft_type": "LORA", **own}, "each run")
    _lora_config(own, None, [])


def refuse_unfit(model: PreTrainedModel, own: Mapping[str, Any], task: str) -> None:
    """Raise an error if an adapter cannot be put on a model, before anything is trained.

    Args:
        model (`transformers.PreTrainedModel`):
            The shared start without weights, which is changed.
        own (`Mapping[str, Any]`), task (`str`):
            The arguments of [`with_adapter`].

    Raises:
        [`RecipeError`]: if no module has one of the names, or a rank is larger than a weight.
    """
    from peft.tuners.lora import LoraLayer

    for name, module in with_adapter(model, own, task, None).named_modules():
        if not isinstance(module, LoraLayer):
            continue
        weight: Any = module.get_base_layer().weight
        most = min(weight.shape[0], weight[0].numel())
        for rank in module.r.values():
            if rank > most:
                raise RecipeError(
                    f"the rank {rank} is larger than {name.removeprefix(PREFIX)}, of the shape {list(weight.shape)}: "
                    f'at most "peft.r" = {most} has an effect there.'
                )


def _import_peft() -> None:
    try:
        import peft  # noqa: F401
    except ImportError:
        raise MissingExtraError("adapters are trained by peft: pip install 'hf-soup[peft]'") from None


def _lora_config(own: Mapping[str, Any], task_type: str | None, heads: list[str]) -> LoraConfig:
    """The configuration of PEFT; heads are trained whole, unless the settings name other modules."""
    from peft import LoraConfig

    arguments = {name: value for name, value in own.items() if name != INIT_SEED}
    arguments.setdefault("modules_to_save", heads or None)
    with as_error(RecipeError, f"LoraConfig refuses {one_line(dict(own))}"):
        return LoraConfig(task_type=task_type, **arguments)


def with_adapter(model: PreTrainedModel, own: Mapping[str, Any], task: str, resume: Path | None) -> PeftModel:
    """A model with an adapter that is trained in its place.

    All runs start from the same factors, so that their averages are averages of fine-tunes of one start.

    Args:
        model (`transformers.PreTrainedModel`):
            The shared start.
        own (`Mapping[str, Any]`):
            Arguments of `LoraConfig`, and `init_seed`.
        task (`str`):
            Name of the task.
        resume (`Path`, *optional*):
            Checkpoint with the adapter of an interrupted run.

    Raises:
        [`RecipeError`]: if PEFT finds nothing to adapt.
    """
    import transformers
    from peft import PeftModel, get_peft_model

    if resume is not None:
        return _in_order(PeftModel.from_pretrained(model, resume, is_trainable=True))
    heads = []
    has_no_head = task in ("text-generation", "zero-shot-image-classification")
    if not has_no_head and not getattr(model.config, "is_encoder_decoder", False):
        for name, module in model.named_children():
            if any(True for _ in module.parameters()) and is_head(model, f"{name}."):
                heads.append(name)
    config = _lora_config(own, TASKS.get(task), heads)
    transformers.set_seed(own.get(INIT_SEED, 0))  # for other ways to start factors
    with as_error(RecipeError, f"no adapter can be put on {type(model).__name__}"):
        adapted = get_peft_model(model, config)
    if config.init_lora_weights is True:
        _same_start(adapted, own.get(INIT_SEED, 0))
    return _in_order(adapted)


def _same_start(model: PeftModel, seed: int) -> None:
    """Draw the factors A of each module by its name, row by row, as PEFT distributes them.

    Runs with other ranks or other modules then share the rows and the modules that they have in common.
    """
    import torch
    from peft.tuners.lora import LoraLayer

    for name, module in model.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        number = int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8], "big")
        layers: Any = module.lora_A.values()
        for layer in layers:
            weight = layer.weight.data
            if weight.is_meta:  # of a model without weights
                continue
            bound = 1 / math.sqrt(weight[0].numel())  # of Kaiming's uniform distribution, as PEFT calls it
            for row in range(len(weight)):
                generator = torch.Generator().manual_seed((number + row) % 2**63)
                drawn = torch.rand(weight[row].shape, generator=generator, dtype=torch.float64)
                weight[row] = (bound * (2 * drawn - 1)).to(weight)


def _in_order(model: PeftModel) -> PeftModel:
    """The model with its sets of module names sorted: PEFT writes them in an order that changes between processes."""
    for config in model.peft_config.values():
        for name, value in vars(config).items():
            if isinstance(value, set):
                setattr(config, name, sorted(value))
    return model


def plain(model: Any) -> PreTrainedModel:
    """The model of transformers inside of one with an adapter."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


def copy_for_hub(folder: Path, target: Path, base: tuple[str, str]) -> None:
    """Copy a run that is an adapter, with the repository of the start as its base model.

    Args:
        folder (`Path`):
            Folder of the run.
        target (`Path`):
            Existing folder for the copy.
        base (`tuple[str, str]`):
            Repository and commit of the start.
    """
    shutil.copytree(folder, target, dirs_exist_ok=True)
    for path in [target / ADAPTER, *target.glob(f"checkpoint-*/{ADAPTER}")]:
        config = json_inside(path.parent, ADAPTER)
        config["base_model_name_or_path"], config["revision"] = base
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
