"""What an adapter does to one weight of its base model, in float64: LoRA and DoRA, from their factors.

Nothing is read from disk here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ..errors import IngredientError
from ..untrusted import one_line


if TYPE_CHECKING:
    import torch

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


@dataclass(frozen=True)
class Change:
    """The change of one weight: `left @ right`, in the layout of the weight with its rows flattened.

    Args:
        left (`torch.Tensor` of shape `(rows, rank)`):
            The scaled first factor.
        right (`torch.Tensor` of shape `(rank, columns)`):
            The second factor.
        magnitude (`torch.Tensor`, *optional*):
            Of DoRA: the length of each row of the changed weight (of each column, if the weight is transposed).
        kind (`str`, *optional*, defaults to `"linear"`):
            Layout of the weight: `"transposed"` for inputs by outputs, as in GPT-2, `"embedding"` or `"convolution"`.
    """

    left: torch.Tensor
    right: torch.Tensor
    magnitude: torch.Tensor | None = None
    kind: Literal["linear", "transposed", "embedding", "convolution"] = "linear"

    @property
    def by_column(self) -> bool:
        """Whether a column of the weight, and not a row, belongs to one output."""
        return self.kind in ("transposed", "embedding")

    @property
    def rank(self) -> int:
        """The rank of the factors."""
        return self.left.shape[1]

    def of_rows(self, first: int, last: int) -> torch.Tensor:
        """The product for some rows, without the magnitude."""
        return self.left[first:last] @ self.right


class AdapterTensors(NamedTuple):
    """The content of an adapter's file.

    Args:
        changes (`dict[str, Change]`):
            Module -> the change of its weight.
        saved (`dict[str, torch.Tensor]`):
            Tensors that replace those of the base model, such as heads and biases.
    """

    changes: dict[str, Change]
    saved: dict[str, torch.Tensor]


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


def split_adapter(state: Mapping[str, torch.Tensor], config: Mapping[str, Any], name: str) -> AdapterTensors:
    """Take the tensors of an adapter apart into changes of weights and whole tensors.

    Args:
        state (`Mapping[str, torch.Tensor]`):
            Tensors by their names in the file.
        config (`Mapping[str, Any]`):
            Content of `adapter_config.json`.
        name (`str`):
            Name of the ingredient.

    Raises:
        [`IngredientError`]: if a factor lacks its other one, the two do not fit, or a number is not finite.
    """
    factors: dict[str, dict[str, torch.Tensor]] = {}
    embeddings: set[str] = set()
    saved: dict[str, torch.Tensor] = {}
    for key, tensor in state.items():
        if ORIGINAL in key:  # what a saved module replaces
            continue
        if not tensor.isfinite().all():
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
    module: str, own: Mapping[str, torch.Tensor], config: Mapping[str, Any], name: str, *, is_embedding: bool
) -> Change:
    """The change of a module's weight from its factors A (rank by inputs) and B (outputs by rank)."""
    if "A" not in own or "B" not in own:
        raise IngredientError(f"{name} has one factor of {one_line(module)} and lacks the other: it is not whole.")
    a, b = own["A"].double(), own["B"].double()
    rank = a.shape[0]
    if b.shape[1] != rank or b[0, 0].numel() != 1:
        raise IngredientError(
            f"{name}: the factors of {one_line(module)} have the shapes {list(a.shape)} and {list(b.shape)}, which "
            "are not those of a product."
        )
    a, b = a.reshape(rank, -1), b.reshape(len(b), rank)  # of convolutions as well
    b = b * _scaling(module, rank, config)
    magnitude = own.get("magnitude")
    if config.get("use_dora") and (magnitude is None or is_embedding or own["A"].dim() > 2):
        raise IngredientError(
            f"{name} is a DoRA adapter of {one_line(module)}, and DoRA is read of linear layers alone."
        )
    if magnitude is not None:
        magnitude = magnitude.double().reshape(-1)
    if is_embedding or config.get("fan_in_fan_out"):
        kind: Literal["embedding", "transposed"] = "embedding" if is_embedding else "transposed"
        return Change(a.T.contiguous(), b.T.contiguous(), magnitude, kind)
    return Change(b, a, magnitude, "convolution" if own["A"].dim() > 2 else "linear")


def _scaling(module: str, rank: int, config: Mapping[str, Any]) -> float:
    """The factor of a module's product: alpha / rank, or alpha / sqrt(rank) if it is rank-stabilised."""
    alpha = config.get("lora_alpha", 8)
    for pattern, own in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = own
            break
    return float(alpha) / (rank**0.5 if config.get("use_rslora") else rank)
