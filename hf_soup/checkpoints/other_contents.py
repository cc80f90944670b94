"""What a folder or repository without safetensors weights contains, judged by names, and what to do about it."""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Collection

from ..errors import listed
from .reader import SAFE_INDEX, SAFE_WEIGHTS


ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
COPY = "and copy config.json and the tokenizer to OUTPUT."
# Pickles that are not weights of a model, and are never suggested for conversion.
STATE = re.compile(
    r"optimizer|scheduler|scaler|rng_state|random_states|training_args|trainer_state|dataloader|dl_state|sampler|"
    r"custom_checkpoint"
)
DEEPSPEED = re.compile(r"(bf16_)?zero_pp_rank_.*|mp_rank_.*")
SHARDS = re.compile(r"global_step\d+")  # a folder of DeepSpeed
PICKLE_ENDINGS = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
SHOWN = 8  # files listed if nothing else is recognised
CHECKPOINT = re.compile(r"checkpoint-\d+")  # a folder of the Trainer
READ_PICKLES = re.compile(r"pytorch_model(-\d{5}-of-\d{5})?\.bin")


def describe_contents(names: Collection[str], source: str) -> str:
    """Describe the contents found instead of weights, and how to get weights.

    Args:
        names (`Collection[str]`):
            All files, relative to the folder or repository, with `/` between folders.
        source (`str`):
            The folder or repository.
    """
    top = sorted({name.split("/")[0] for name in names})
    if ADAPTER in top and "adapter_model.bin" in top:
        return "a PEFT adapter in a pickle (adapter_model.bin). Save it again with a newer PEFT."
    if ADAPTER in top:
        return (
            "a PEFT adapter. Merge it into its base model first: `PeftModel.merge_and_unload().save_pretrained(...)`."
        )
    # Training states are recognised before pickles, since DeepSpeed and FSDP write such files too.
    return (
        _state_of_deepspeed(names, source)
        or _state_of_fsdp(names, source)
        or _pickles(top, source)
        or _other_frameworks(top)
        or _checkpoints(top, source)
        or listed(top, SHOWN)
        or "nothing: the folder is empty"
    )


def refuse_pickle(file: str, source: str) -> str:
    """Explain why a pickle is not read, and what to do."""
    if not READ_PICKLES.fullmatch(posixpath.basename(file)):
        return (
            f"{file}, a pickle under a name of its own, which is not read. Load it into the model, and save that with "
            "`save_pretrained`; or pass hf_soup.load_ingredient(state, config=...)."
        )
    return (
        f"{file}, a pickle, which can run code when it is read. Convert it once: "
        f'`AutoModel.from_pretrained("{source}").save_pretrained(...)` with the class of your task; or pass '
        "hf_soup.load_ingredient(..., allow_pickle=True) (--allow-pickle), which reads tensors and nothing else."
    )


def has_no_weights(names: Collection[str], source: str) -> str:
    """The complete sentence about a source without weights."""
    return f"{source} has no {SAFE_WEIGHTS} (nor {SAFE_INDEX}); it holds {describe_contents(names, source)}"


def _pickles(names: Collection[str], source: str) -> str | None:
    """Weights in a pickle, preferably one that `allow_pickle` reads."""
    pickles = [name for name in names if name.endswith(PICKLE_ENDINGS) and not STATE.search(name)]
    if not pickles:
        return None
    return refuse_pickle(min(pickles, key=_readable_first), source)


def _readable_first(name: str) -> tuple[bool, str]:
    """A sort key that puts readable pickles before others."""
    return READ_PICKLES.fullmatch(name) is None, name


def _state_of_deepspeed(names: Collection[str], source: str) -> str | None:
    """The state that DeepSpeed saved instead of weights, and the command that converts it to weights."""
    if "zero_to_fp32.py" in names:  # DeepSpeed puts its conversion script next to the shards
        return (
            "the state of DeepSpeed, in pieces. Put them together: `python zero_to_fp32.py . OUTPUT "
            f"--safe_serialization` in that folder, {COPY}"
        )
    folder = _deepspeed_folder(names, source)
    if folder is None:
        return None
    return (
        "the state of DeepSpeed, in pieces. Put them together: `python -m deepspeed.utils.zero_to_fp32 "
        f"{shlex.quote(folder)} OUTPUT --safe_serialization`, {COPY}"
    )


def _state_of_fsdp(names: Collection[str], source: str) -> str | None:
    """The state that FSDP saved instead of weights, and the command that converts it to weights."""
    folders = sorted(_folders(names))
    fsdp_folders = [folder for folder in folders if folder.startswith("pytorch_model_fsdp")]
    if fsdp_folders:
        first = fsdp_folders[0]
        place = shlex.quote(f"{source}/{first}")
        return f"shards of FSDP ({first}). Put them together: `accelerate merge-weights {place} OUTPUT`, {COPY}"
    if any(name.endswith(".distcp") and "/" not in name for name in names):
        command = f"`accelerate merge-weights {shlex.quote(source)} OUTPUT`"
        return f"shards of a distributed checkpoint. Put them together: {command}, {COPY}"
    if "pytorch_model_fsdp.bin" in names:
        return (
            "the whole state of FSDP in a pickle. Convert it once: `AutoModel.from_pretrained(None, config=..., "
            'state_dict=torch.load("pytorch_model_fsdp.bin", weights_only=True)).save_pretrained(...)` with the class '
            "of your task."
        )
    return None


def _folders(names: Collection[str]) -> set[str]:
    """The top-level folders of the files that are in folders."""
    return {name.split("/")[0] for name in names if "/" in name}


def _deepspeed_folder(names: Collection[str], source: str) -> str | None:
    """The folder to pass to DeepSpeed's conversion script, if there are shards of its state: their parent folder."""
    if any(SHARDS.fullmatch(folder) for folder in _folders(names)):
        return source
    pieces = [name for name in names if DEEPSPEED.fullmatch(posixpath.basename(name))]
    if not pieces:
        return None
    are_in_folders = all("/" in name for name in pieces)
    return source if are_in_folders else f"{source}/.."


def _other_frameworks(names: Collection[str]) -> str | None:
    """Weights of other frameworks, and how to convert them."""
    unsupported = [name for name in names if name.endswith((".h5", ".msgpack"))]
    if unsupported:  # transformers 5 reads neither TensorFlow nor Flax
        return (
            f"{unsupported[0]}, weights of TensorFlow or Flax. transformers 4 converts them: "
            "`AutoModel.from_pretrained(..., from_tf=True)` (or `from_flax=True`), then `.save_pretrained(...)`, with "
            "the class of your task."
        )
    exported = [name for name in names if name.endswith((".gguf", ".onnx", ".tflite"))]
    if exported:
        return f"{exported[0]}, an exported model. Average the weights that it was made from."
    states = [name for name in names if STATE.search(name)]
    if states and not _checkpoints(names, ""):
        return (
            f"{listed(states, 4)}: the state of training and no weights. Save the model itself: "
            "`model.save_pretrained(...)` (with accelerate: `accelerator.unwrap_model(model).save_pretrained(...)`)."
        )
    return None


def _checkpoints(names: Collection[str], source: str) -> str | None:
    """The Trainer checkpoints in subfolders."""
    checkpoints = [name for name in names if CHECKPOINT.fullmatch(name)]
    if not checkpoints:
        return None
    return f"checkpoints of a Trainer: name one of them, such as {source}/{checkpoints[-1]}."
