"""What a folder or repository holds where it has no safetensors weights, and what to do about it. Names alone."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection

from ..errors import listed
from .reader import SAFE_INDEX, SAFE_WEIGHTS


ADAPTER = "adapter_config.json"
COPY = "and copy config.json and the tokenizer to OUTPUT."
# Pickles that are no weights of a model, and are never offered for conversion.
STATE = re.compile(
    r"optimizer|scheduler|scaler|rng_state|random_states|training_args|trainer_state|dataloader|dl_state|sampler|"
    r"custom_checkpoint"
)
DEEPSPEED = re.compile(r"(bf16_)?zero_pp_rank_.*|mp_rank_.*")
CHECKPOINT = re.compile(r"checkpoint-\d+")  # a folder of Trainer
READ_PICKLES = re.compile(r"pytorch_model(-\d{5}-of-\d{5})?\.bin")


def describe_contents(names: Collection[str], source: str) -> str:
    """What is there instead of weights, and the way to weights.

    Args:
        names (`Collection[str]`):
            All files, relative to the folder or repository, with `/` between folders.
        source (`str`):
            The folder or repository.
    """
    top = sorted({name.split("/")[0] for name in names})
    pickles = [name for name in top if name.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl"))]
    pickles = sorted((name for name in pickles if not STATE.search(name)), key=_readable_first)
    if ADAPTER in top:
        return (
            "a PEFT adapter. Merge it into its base model first: `PeftModel.merge_and_unload().save_pretrained(...)`."
        )
    found = _state_of_training(names, source)
    if found is None and pickles:
        found = refuse_pickle(pickles[0], source)
    return (
        found
        or _other_frameworks(top)
        or _checkpoints(top, source)
        or listed(top, 8)
        or "nothing: the folder is empty"
    )


def refuse_pickle(file: str, source: str) -> str:
    """Why a pickle is not read, and what to do."""
    if not READ_PICKLES.fullmatch(posixpath.basename(file)):
        return (
            f"{file}, a pickle under a name of its own, which is not read. Load it into the model, and save that with "
            "`save_pretrained`; or give the state dict with `config=`."
        )
    return (
        f"{file}, a pickle, which can run code when it is read. Convert it once: "
        f'`AutoModel.from_pretrained("{source}").save_pretrained(...)` with the class of your task; or pass '
        "allow_pickle=True (--allow-pickle), which reads tensors and nothing else."
    )


def has_no_weights(names: Collection[str], source: str) -> str:
    """The whole sentence about a source without weights."""
    return f"{source} has no {SAFE_WEIGHTS} (nor {SAFE_INDEX}); it holds {describe_contents(names, source)}"


def _readable_first(name: str) -> tuple[bool, str]:
    return READ_PICKLES.fullmatch(name) is None, name


def _state_of_training(names: Collection[str], source: str) -> str | None:
    """What large training left instead of weights, and the command that makes weights of it."""
    files = {posixpath.basename(name) for name in names}
    folders = sorted({name.split("/")[0] for name in names if "/" in name})
    fsdp = [name for name in folders if name.startswith("pytorch_model_fsdp")]
    pieces = [name for name in files if DEEPSPEED.fullmatch(name)]
    if "zero_to_fp32.py" in names:
        return (
            "the state of DeepSpeed, in pieces. Put them together: `python zero_to_fp32.py . OUTPUT "
            f"--safe_serialization` in that folder, {COPY}"
        )
    if pieces or any(re.fullmatch(r"global_step\d+", name) for name in folders):
        place = source if pieces and not any(name in names for name in pieces) else f"{source}/.."
        place = source if any(re.fullmatch(r"global_step\d+", name) for name in folders) else place
        return (
            "the state of DeepSpeed, in pieces. Put them together: `python -m deepspeed.utils.zero_to_fp32 "
            f"{place} OUTPUT --safe_serialization`, {COPY}"
        )
    if fsdp:
        return (
            f"shards of FSDP ({fsdp[0]}). Put them together: `accelerate merge-weights {source}/{fsdp[0]} OUTPUT`, "
            f"{COPY}"
        )
    if any(name.endswith(".distcp") and "/" not in name for name in names):
        command = f"`accelerate merge-weights {source} OUTPUT`"
        return f"shards of a distributed checkpoint. Put them together: {command}, {COPY}"
    if "pytorch_model_fsdp.bin" in names:
        return (
            "the whole state of FSDP in a pickle. Convert it once: `AutoModel.from_pretrained(None, config=..., "
            'state_dict=torch.load("pytorch_model_fsdp.bin", weights_only=True)).save_pretrained(...)` with the class '
            "of your task."
        )
    return None


def _other_frameworks(names: Collection[str]) -> str | None:
    """Weights of other frameworks, and what converts them."""
    of_old = [name for name in names if name.endswith((".h5", ".msgpack"))]
    if of_old:
        return (
            f"{of_old[0]}, weights of TensorFlow or Flax. transformers 4 converts them: `AutoModel.from_pretrained("
            "..., from_tf=True)` (or `from_flax=True`), then `.save_pretrained(...)`, with the class of your task."
        )
    exported = [name for name in names if name.endswith((".gguf", ".onnx", ".tflite"))]
    if exported:
        return f"{exported[0]}, an exported model. Average the weights that it was made from."
    state = [name for name in names if STATE.search(name)]
    if state and not _checkpoints(names, ""):
        return (
            f"{listed(state, 4)}: the state of training and no weights. Save the model itself: "
            "`model.save_pretrained(...)` (with accelerate: `accelerator.unwrap_model(model).save_pretrained(...)`)."
        )
    return None


def _checkpoints(names: Collection[str], source: str) -> str | None:
    """Checkpoints of a Trainer in folders below."""
    found = [name for name in names if CHECKPOINT.fullmatch(name)]
    return f"checkpoints of a Trainer: name one of them, such as {source}/{found[-1]}." if found else None
