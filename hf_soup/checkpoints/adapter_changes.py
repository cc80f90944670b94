"""What an adapter does to one weight of its base model, in float64: LoRA and DoRA, from their factors."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ..errors import IngredientError
from ..untrusted import one_line
from .digest import bytes_of
from .files import OpenFiles
from .reader import TensorSpec, read_bytes, read_tensor


if TYPE_CHECKING:
    import torch

IN_MEMORY = 32  # changes whose factors stay in memory
PREFIX = "base_model.model."  # of all names in an adapter's file
FACTOR = re.compile(r"(?P<module>.*)\.lora_(?P<embedding>embedding_)?(?P<factor>[AB])(\.weight)?")
MAGNITUDE = re.compile(r"(?P<module>.*)\.lora_magnitude_vector(\.weight)?")
ORIGINAL = ".original_module."
WRAPPED = re.compile(r"\.(modules_to_save(\.default)?|base_layer)(?=\.)")  # parts of names that PEFT inserts
# Settings of LoRA that make it something else than a product of two factors on a base model as it is.
OTHER_KINDS = (
    *("layer_replication", "target_parameters", "trainable_token_indices", "alora_invocation_tokens", "lora_bias"),
    *(
        "use_qalora",
        "arrow_config",
        "use_bdlora",
        "kasa_config",
        "monteclora_config",
        "velora_config",
        "megatron_config",
    ),
)
# Initialisations that change the weights of the base model, so that an adapter belongs to what is left of them.
RESIDUAL = re.compile(r"(?i)pissa.*|olora|corda.*|loftq|lora_ga.*")


class Stored(NamedTuple):
    """A tensor of an adapter, in a file or in memory.

    Args:
        spec (`TensorSpec`):
            Its shape and type, and where it is in its file.
        folder (`Path`, *optional*):
            Folder of the file.
        tensor (`torch.Tensor`, *optional*):
            The tensor itself, if it is in memory.
    """

    spec: TensorSpec
    folder: Path | None = None
    tensor: torch.Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self.spec.shape

    def read(self) -> torch.Tensor:
        """Read it."""
        if self.tensor is not None:
            return self.tensor
        if self.folder is None:
            raise ValueError(f"{self.spec.name} is neither in memory nor in a file")
        return read_tensor(self.folder, self.spec)

    def read_into(self, files: OpenFiles, start: int, into: memoryview) -> None:
        """Copy the bytes of consecutive elements."""
        if self.folder is not None:
            read_bytes(files, self.folder, self.spec, start, into)
        else:
            stop = start + len(into) // self.spec.itemsize
            into[:] = bytes_of(self.read().reshape(-1)[start:stop])


@dataclass(frozen=True, eq=False)
class Change:
    """The change of one weight: `left @ right`, in the layout of the weight with its columns flattened.

    Args:
        a ([`Stored`] of shape `(rank, inputs, ...)`), b ([`Stored`] of shape `(outputs, rank, ...)`):
            Factors, which are read when they are needed.
        scaling (`float`):
            Factor of their product.
        magnitude ([`Stored`], *optional*):
            Of DoRA: the length of each output of the changed weight.
        kind (`str`, *optional*, defaults to `"linear"`):
            Layout of the weight: `"transposed"` for inputs by outputs, as in GPT-2, `"embedding"` or `"convolution"`.
    """

    a: Stored
    b: Stored
    scaling: float
    magnitude: Stored | None = None
    kind: Literal["linear", "transposed", "embedding", "convolution"] = "linear"

    @property
    def by_column(self) -> bool:
        """Whether a column of the weight, and not a row, belongs to one output."""
        return self.kind in ("transposed", "embedding")

    @property
    def rank(self) -> int:
        """The rank of the factors."""
        return self.a.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """The rows and columns of the weight."""
        inputs, outputs = math.prod(self.a.shape[1:]), self.b.shape[0]
        return (inputs, outputs) if self.by_column else (outputs, inputs)

    @property
    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The scaled first factor `(rows, rank)` and the second factor `(rank, columns)`, in float64."""
        return _factors_of(self)

    def of_rows(self, first: int, last: int) -> torch.Tensor:
        """The product for some rows, without the magnitude."""
        left, right = self.factors
        return left[first:last] @ right


@functools.lru_cache(maxsize=IN_MEMORY)
def _factors_of(change: Change) -> tuple[torch.Tensor, torch.Tensor]:
    """The factors of a change; those used last stay in memory, for the pieces of one weight."""
    a = change.a.read().double().reshape(change.rank, -1)
    b = change.b.read().double().reshape(-1, change.rank) * change.scaling
    return (a.T.contiguous(), b.T.contiguous()) if change.by_column else (b, a)


class AdapterTensors(NamedTuple):
    """The content of an adapter's file.

    Args:
        changes (`dict[str, Change]`):
            Module -> the change of its weight.
        saved (`dict[str, Stored]`):
            Tensors that replace those of the base model, such as heads and biases.
    """

    changes: dict[str, Change]
    saved: dict[str, Stored]


def check_kind(config: Mapping[str, Any], name: str) -> None:
    """Refuse adapters that are no products of two factors.

    Args:
        config (`Mapping[str, Any]`):
            Content of `adapter_config.json`.
        name (`str`):
            Name or place of the ingredient.

    Raises:
        [`IngredientError`]: naming the kind, and what to do.
    """
    merge_first = "Merge it into its base model first: `PeftModel.merge_and_unload()`."
    kind = config.get("peft_type")
    if kind != "LORA":
        raise IngredientError(
            f"{name} is an adapter of the type {one_line(kind, 40)}, and LoRA is read. {merge_first}"
        )
    for setting in OTHER_KINDS:
        if config.get(setting):
            raise IngredientError(f"{name} is a LoRA adapter with {setting}, which is not read. {merge_first}")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and RESIDUAL.fullmatch(start):
        raise IngredientError(
            f"{name} was started with init_lora_weights={start!r}, which changes the base model, so that the adapter "
            "does not belong to the base model as it is. Save it with `path_initial_model_for_weight_conversion`."
        )


def split_adapter(state: Mapping[str, Stored], config: Mapping[str, Any], name: str) -> AdapterTensors:
    """Take the tensors of an adapter apart into changes of weights and whole tensors.

    Args:
        state (`Mapping[str, Stored]`):
            Tensors by their names in the file. Each is read once, to check its numbers.
        config (`Mapping[str, Any]`):
            Content of `adapter_config.json`.
        name (`str`):
            Name of the ingredient.

    Raises:
        [`IngredientError`]: if a factor lacks its other one, the two do not fit, or a number is not finite.
    """
    factors: dict[str, dict[str, Stored]] = {}
    embeddings: set[str] = set()
    saved: dict[str, Stored] = {}
    for key, tensor in state.items():
        if ORIGINAL in key:  # what a saved module replaces
            continue
        if not tensor.read().isfinite().all():
            raise IngredientError(f"{name!r} holds NaN or infinity in {key}: that run diverged. Leave it out.")
        path = WRAPPED.sub("", key.removeprefix(PREFIX))
        factor, magnitude = FACTOR.fullmatch(path), MAGNITUDE.fullmatch(path)
        if factor is not None:
            factors.setdefault(factor["module"], {})[factor["factor"]] = tensor
            if factor["embedding"]:
                embeddings.add(factor["module"])
        elif magnitude is not None:
            factors.setdefault(magnitude["module"], {})["magnitude"] = tensor
        elif ".lora_" in path:
            raise IngredientError(f"{name} holds {one_line(key)}, which is no part of LoRA or DoRA that is read.")
        else:
            saved[path] = tensor
    changes = {}
    for module, own in factors.items():
        changes[module] = _change(module, own, config, name, is_embedding=module in embeddings)
    return AdapterTensors(changes, saved)


def _change(
    module: str, own: Mapping[str, Stored], config: Mapping[str, Any], name: str, *, is_embedding: bool
) -> Change:
    """The change of a module's weight from its factors A (rank by inputs) and B (outputs by rank)."""
    if "A" not in own or "B" not in own:
        raise IngredientError(f"{name} has one factor of {one_line(module)} and lacks the other: it is not whole.")
    a, b, magnitude = own["A"], own["B"], own.get("magnitude")
    if len(b.shape) < 2 or b.shape[1] != a.shape[0] or math.prod(b.shape[2:]) != 1:
        raise IngredientError(
            f"{name}: the factors of {one_line(module)} have the shapes {list(a.shape)} and {list(b.shape)}, which "
            "are not those of a product."
        )
    if config.get("use_dora") and (magnitude is None or is_embedding or len(a.shape) > 2):
        raise IngredientError(
            f"{name} is a DoRA adapter of {one_line(module)}, and DoRA is read of linear layers alone."
        )
    kind: Literal["linear", "transposed", "embedding", "convolution"] = "linear"
    if is_embedding:
        kind = "embedding"
    elif config.get("fan_in_fan_out"):
        kind = "transposed"
    elif len(a.shape) > 2:
        kind = "convolution"
    return Change(a, b, _scaling(module, a.shape[0], config), magnitude, kind)


def _scaling(module: str, rank: int, config: Mapping[str, Any]) -> float:
    """The factor of a module's product: alpha / rank, or alpha / sqrt(rank) if it is rank-stabilised."""
    alpha = config.get("lora_alpha", 8)
    for pattern, own in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = own
            break
    return float(alpha) / (rank**0.5 if config.get("use_rslora") else rank)
