"""Models in memory: the tensors that `save_pretrained` would write, and a model from such tensors.

Names in memory can differ from names on disk (transformers renames on load), and tied weights are one tensor on disk:
here both are brought to what is on disk, so that like is compared with like. It reads no files.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import IngredientError


if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def tensors_on_disk(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The state of a loaded model under the names that its files have, tied weights once; views, not copies.

    Raises:
        [`IngredientError`]: if some weights are not in memory (offloaded), or the model is quantised.
    """
    from transformers.core_model_loading import revert_weight_conversion
    from transformers.modeling_utils import remove_tied_weights_from_state_dict

    if getattr(model, "hf_quantizer", None) is not None:
        method = getattr(getattr(model.config, "quantization_config", None), "quant_method", "an unknown method")
        raise IngredientError(
            f"{type(model).__name__} is quantised ({getattr(method, 'value', method)}); average the weights that it "
            "was made from."
        )
    ignored = set(model._keys_to_ignore_on_save or ())
    state = {name: tensor.detach() for name, tensor in model.state_dict().items() if name not in ignored}
    offloaded = [name for name, tensor in state.items() if tensor.device.type == "meta"]
    if offloaded:
        raise IngredientError(f"{type(model).__name__} is offloaded: {offloaded[0]} is not in memory. Load it whole.")
    return dict(sorted(revert_weight_conversion(model, remove_tied_weights_from_state_dict(state, model)).items()))


def build_model(config: Mapping[str, Any], tensors: dict[str, torch.Tensor]) -> PreTrainedModel:
    """Make a model from its configuration and tensors (named as on disk or in memory) by transformers' loading.

    Args:
        config (`Mapping[str, Any]`):
            What `config.json` holds; its first architecture is built.
        tensors (`dict[str, torch.Tensor]`):
            All weights and buffers.

    Returns:
        `transformers.PreTrainedModel`: in evaluation mode.

    Raises:
        [`IngredientError`]: if transformers has no such architecture, torch no models of that type, or tensors are
            missing, left over or misshapen.
    """
    name, cls = architecture(config)
    if "float8" in str(config.get("dtype")):
        raise IngredientError(f"torch builds no {name} in {config['dtype']}: save it, or choose another dtype.")
    model, info = _load(cls, config, tensors)
    wrong = [
        f"{kind} {', '.join(sorted(map(str, info[f'{kind}_keys']))[:5])}"
        for kind in ("missing", "unexpected", "mismatched")
        if info[f"{kind}_keys"]
    ]
    if wrong:
        raise IngredientError(f"these tensors do not make a {name}: {'; '.join(wrong)}.")
    return model.eval()


def tensors_of_body(config: Mapping[str, Any], tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What a base model gives to a model with another head, under the names that this model has on disk.

    Args:
        config (`Mapping[str, Any]`):
            Of the model with the head.
        tensors (`dict[str, torch.Tensor]`):
            Of the base model, under its own names on disk.

    Returns:
        `dict[str, torch.Tensor]`: without those that the base model lacks.
    """
    import torch

    bad = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if bad:
        raise IngredientError(f"the base model holds NaN or infinity in {bad[0]}.")
    _, cls = architecture(config)
    model, info = _load(cls, config, tensors, ignore_mismatched_sizes=True)
    lacking = set(info["missing_keys"]) | {
        key[0] if isinstance(key, tuple) else key for key in info["mismatched_keys"]
    }
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name in lacking and tensor.is_floating_point():
                tensor.fill_(torch.nan)  # a mark that goes through the renaming
    vars(model).pop("_weight_conversions", None)
    return {name: tensor for name, tensor in tensors_on_disk(model).items() if not tensor.isnan().any()}


def _load(
    cls: type[PreTrainedModel], config: Mapping[str, Any], tensors: dict[str, torch.Tensor], **options: Any
) -> tuple[PreTrainedModel, dict[str, Any]]:
    from transformers import CONFIG_MAPPING

    try:
        settings = CONFIG_MAPPING[config["model_type"]].from_dict(dict(config))
        with quiet_transformers():
            return cls.from_pretrained(None, config=settings, state_dict=tensors, output_loading_info=True, **options)
    except Exception as error:  # whatever a configuration makes transformers trip over
        why = (str(error) or type(error).__name__).splitlines()[0][:300]
        raise IngredientError(f"transformers cannot build a {cls.__name__} from its configuration: {why}") from error


def architecture(config: Mapping[str, Any]) -> tuple[str, type[PreTrainedModel]]:
    """The name and the class of the model that a configuration describes.

    Raises:
        [`IngredientError`]: if it names none, or one that is not part of transformers (remote code is never run).
    """
    import transformers

    name = (config.get("architectures") or [None])[0]
    if name is None:
        raise IngredientError(
            'the config names no architecture: set config.architectures = ["BertForSequenceClassification"], say.'
        )
    cls = getattr(transformers, name, None)
    is_model = isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel)
    if not is_model or config.get("model_type") not in transformers.CONFIG_MAPPING:
        raise IngredientError(
            f"transformers {transformers.__version__} has no {name} of type {config.get('model_type')!r}, and code "
            "from a repository is not run."
        )
    return name, cls


def names_in_depth(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of a model's tensors on disk in the order in which its class makes them, mostly from the bottom up;
    those last that transformers puts together from others.

    Args:
        config (`Mapping[str, Any]`):
            What `config.json` holds. No weights are made.
    """
    import torch
    from transformers import CONFIG_MAPPING
    from transformers.core_model_loading import revert_weight_conversion
    from transformers.modeling_utils import remove_tied_weights_from_state_dict

    _, cls = architecture(config)
    with quiet_transformers(), torch.device("meta"):
        model = cls(CONFIG_MAPPING[config["model_type"]].from_dict(dict(config)))
        state = remove_tied_weights_from_state_dict(model.state_dict(), model)
        places = {id(tensor): place for place, tensor in enumerate(state.values())}
        on_disk = revert_weight_conversion(model, state)
    return tuple(sorted(on_disk, key=lambda name: places.get(id(on_disk[name]), len(places))))


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' loading bars and notes out of the way of ours, and restore them."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
