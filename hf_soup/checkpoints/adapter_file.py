"""The content of an adapter's file, taken apart into changes of weights and whole tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal, NamedTuple

from ..errors import IngredientError, listed
from ..untrusted import one_line
from .adapter_changes import Change, Hadamard, Kronecker, LowRank, Scale, Stored


PREFIX = "base_model.model."  # of all names in an adapter's file
PART = re.compile(
    r"(?P<module>.*)\.(?P<part>lora_(embedding_)?[AB]|lora_magnitude_vector|ia3_l|hada_w[12]_[ab]|lokr_w[12](_[ab])?)"
    r"(\.weight)?"
)
OTHER_PART = re.compile(r".*\.(lora_|ia3_|hada_|lokr_).*")
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


class AdapterTensors(NamedTuple):
    """The content of an adapter's file.

    Args:
        parts (`dict[str, dict[str, Stored]]`):
            Module of the model -> the factors or vectors of its change.
        saved (`dict[str, Stored]`):
            Tensors that replace those of the base model, such as heads and biases.
    """

    parts: dict[str, dict[str, Stored]]
    saved: dict[str, Stored]


def check_kind(config: Mapping[str, Any], name: str) -> None:
    """Refuse adapters whose changes are not known.

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
    if not isinstance(kind, str) or kind not in KINDS:
        raise IngredientError(
            f"{name} is an adapter of the type {one_line(kind, 40)}; those that are read are {listed(KINDS)}. "
            f"{merge_first}"
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


def trained_whole(config: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The modules that were trained whole, by the ends of their names.

    Args:
        config (`Mapping[str, Any]`):
            Content of `adapter_config.json`.
        name (`str`):
            Name of the ingredient.

    Raises:
        [`IngredientError`]: if these are no names.
    """
    given = config.get("modules_to_save") or ()
    if isinstance(given, str):
        given = (given,)
    if not isinstance(given, list | tuple | set) or not all(isinstance(module, str) for module in given):
        raise IngredientError(f"{name} has modules_to_save = {one_line(repr(given), 60)}, which is no list of names.")
    return tuple(sorted(given))


def is_among(module: str, names: Collection[str]) -> bool:
    """Whether a module is one of those that are named by the ends of their names, as PEFT names them."""
    return any(f".{module}".endswith(f".{name}") for name in names)


def split_adapter(state: Mapping[str, Stored], name: str) -> AdapterTensors:
    """Take the tensors of an adapter apart into parts of changes and whole tensors.

    Args:
        state (`Mapping[str, Stored]`):
            Tensors by their names in the file. Each is read once, to check its numbers.
        name (`str`):
            Name of the ingredient.

    Raises:
        [`IngredientError`]: if a number is not finite, or a tensor is of another kind of adapters.
    """
    parts: dict[str, dict[str, Stored]] = {}
    saved: dict[str, Stored] = {}
    for key, tensor in state.items():
        if ORIGINAL in key:  # what a saved module replaces
            continue
        if not tensor.read().double().isfinite().all():
            raise IngredientError(f"{name!r} holds NaN or infinity in {key}: that run diverged. Leave it out.")
        path = WRAPPED.sub("", key.removeprefix(PREFIX))
        part = PART.fullmatch(path)
        if part is not None:
            parts.setdefault(part["module"], {})[part["part"]] = tensor
        elif OTHER_PART.fullmatch(path):
            raise IngredientError(f"{name} holds {one_line(key)}, which is no part of adapters that are read.")
        else:
            saved[path] = tensor
    return AdapterTensors(parts, saved)


def changes_of(
    parts: Mapping[str, Mapping[str, Stored]], config: Mapping[str, Any], transposed: Collection[str], name: str
) -> dict[str, Change]:
    """The changes that an adapter makes: tensor -> change.

    Args:
        parts (`Mapping[str, Mapping[str, Stored]]`):
            Module -> the factors or vectors of its change.
        config (`Mapping[str, Any]`):
            Content of `adapter_config.json`, of a kind that [`check_kind`] knows.
        transposed (`Collection[str]`):
            Modules whose weights are inputs by outputs, as in GPT-2. PEFT, too, looks at the module, whatever
            `fan_in_fan_out` is.
        name (`str`):
            Name of the ingredient.

    Raises:
        [`IngredientError`]: if a factor lacks its other one, the two do not fit, or a setting is invalid.
    """
    changes: dict[str, Change] = {}
    of_module = KINDS[config["peft_type"]]
    for module, own in parts.items():
        try:
            changes |= of_module(module, own, config, module in transposed)
        except KeyError as error:
            raise IngredientError(f"{name} has no {error.args[0]} of {one_line(module)}: it is not whole.") from None
        except ValueError as error:
            raise IngredientError(f"{name}: {error}.") from None
        except (TypeError, AttributeError, ArithmeticError, re.error) as error:
            raise IngredientError(
                f"{name} has invalid settings of rank or alpha for {one_line(module)}: {one_line(error)}."
            ) from None
    return changes


def _low_rank(
    module: str, own: Mapping[str, Stored], config: Mapping[str, Any], is_transposed: bool
) -> dict[str, Change]:
    """The change by LoRA: the factors A (rank by inputs) and B (outputs by rank) of a module."""
    is_embedding = any(part.startswith("lora_embedding") for part in own)
    a, b = (own[f"lora_embedding_{side}" if is_embedding else f"lora_{side}"] for side in "AB")
    magnitude = own.get("lora_magnitude_vector")
    if len(b.shape) < 2 or b.shape[1] != a.shape[0] or math.prod(b.shape[2:]) != 1:
        raise ValueError(
            f"the factors of {one_line(module)} have the shapes {list(a.shape)} and {list(b.shape)}, which are not "
            "those of a product"
        )
    if config.get("use_dora") and (is_embedding or len(a.shape) > 2):
        raise ValueError(f"it is a DoRA adapter of {one_line(module)}, and DoRA is read of linear layers alone")
    if config.get("use_dora") and magnitude is None:
        raise KeyError("lora_magnitude_vector")
    kind: Literal["linear", "transposed", "embedding", "convolution"] = "linear"
    if is_embedding:
        kind = "embedding"
    elif is_transposed:
        kind = "transposed"
    elif len(a.shape) > 2:
        kind = "convolution"
    rank = a.shape[0]
    scaling = _alpha(module, config, "lora_alpha") / (rank**0.5 if config.get("use_rslora") else rank)
    return {f"{module}.weight": LowRank(a, b, scaling, magnitude, kind)}


def _scale(
    module: str, own: Mapping[str, Stored], config: Mapping[str, Any], is_transposed: bool
) -> dict[str, Change]:
    """The changes by IA3: of the outputs of a module with their biases, or of the inputs of a feed-forward module."""
    vector = own["ia3_l"]
    if len(vector.shape) != 2 or min(vector.shape) != 1:
        raise ValueError(
            f"ia3_l of {one_line(module)} has the shape {list(vector.shape)}, and IA3 is read of linear layers alone"
        )
    of_inputs = vector.shape[0] == 1
    by_column = of_inputs != is_transposed
    changes: dict[str, Change] = {f"{module}.weight": Scale(vector, by_column)}
    if not of_inputs:
        changes[f"{module}.bias"] = Scale(vector, by_column=False)
    return changes


def _hadamard(
    module: str, own: Mapping[str, Stored], config: Mapping[str, Any], is_transposed: bool
) -> dict[str, Change]:
    """The change by LoHa."""
    first, second = ((own[f"hada_w{number}_a"], own[f"hada_w{number}_b"]) for number in (1, 2))
    scaling = _alpha(module, config, "alpha") / _rank(module, config)
    return {f"{module}.weight": Hadamard(first, second, scaling)}


def _kronecker(
    module: str, own: Mapping[str, Stored], config: Mapping[str, Any], is_transposed: bool
) -> dict[str, Change]:
    """The change by LoKr."""
    left, right = (
        (own[side],) if side in own else (own[f"{side}_a"], own[f"{side}_b"]) for side in ("lokr_w1", "lokr_w2")
    )
    return {f"{module}.weight": Kronecker(left, right, _alpha(module, config, "alpha") / _rank(module, config))}


# The types of adapters that are read: module, its tensors, the adapter's configuration, and whether the weight is
# inputs by outputs -> changes by tensor.
KINDS: dict[str, Callable[[str, Mapping[str, Stored], Mapping[str, Any], bool], dict[str, Change]]] = {
    "LORA": _low_rank,
    "IA3": _scale,
    "LOHA": _hadamard,
    "LOKR": _kronecker,
}


def _alpha(module: str, config: Mapping[str, Any], key: str) -> float:
    alpha = float(_by_pattern(module, config.get("alpha_pattern"), config.get(key, 8)))
    if not math.isfinite(alpha):
        raise ValueError(f"its {key} of {one_line(module)} is {alpha}")
    return alpha


def _rank(module: str, config: Mapping[str, Any]) -> int:
    return int(_by_pattern(module, config.get("rank_pattern"), config.get("r", 8)))


def _by_pattern(module: str, patterns: Mapping[str, Any] | None, default: Any) -> Any:
    """What a configuration sets for a module by its name, as PEFT looks it up."""
    for pattern, own in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return own
    return default
