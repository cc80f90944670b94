"""Models in memory: the tensors that `save_pretrained` would write, and a model built from such tensors.

Names in memory can differ from names on disk (transformers renames on load), and tied weights are one tensor on disk.
Both are converted to the form on disk, so that tensors can be compared. No files are read.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

from ..errors import IngredientError, MissingExtraError
from ..untrusted import one_line
from .bounds import MOST_BUILT, at_most_modules


if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


KEYS_SHOWN = 5  # of each kind, in an error
WRAPPED_AS = ("_orig_mod", "module", "_fsdp_wrapped_module")  # attribute names under which wrappers hold the model


def plain_model(source: Any) -> PreTrainedModel:
    """The model itself, without wrappers that compile it or distribute it over devices.

    Args:
        source (`torch.nn.Module`):
            A model of transformers, or a wrapper of one: torch.compile, DataParallel, DDP, FSDP, accelerate.

    Raises:
        [`IngredientError`]: if it has an adapter, is sharded, or is no model of transformers.
    """
    from transformers import PreTrainedModel

    model = source
    while not isinstance(model, PreTrainedModel):
        children = getattr(model, "_modules", {})
        inner_names = [name for name in WRAPPED_AS if name in children]
        if not inner_names:
            break
        model = children[inner_names[0]]
    if type(model).__module__.startswith("peft."):
        raise IngredientError(
            f"{type(source).__name__} is an adapter on a base model. Merge it first: `model.merge_and_unload()` gives "
            "the model to hand over."
        )
    if not isinstance(model, PreTrainedModel):
        raise IngredientError(
            f"{type(source).__name__} is no model of transformers (PreTrainedModel): give that, or a state dict with "
            "hf_soup.load_ingredient(state, config=...), or the folder that it was saved to."
        )
    if any(_is_adapter(module) for module in model.modules()):
        raise IngredientError(
            f"{type(model).__name__} has layers of an adapter, which a soup would lose. Merge them into the weights "
            "first: `merge_and_unload()` of its `PeftModel` gives the model to hand over."
        )
    return model


def _is_adapter(module: torch.nn.Module) -> bool:
    """Whether a module was inserted by PEFT, which may not be installed."""
    return any(cls.__module__.startswith("peft.") for cls in type(module).__mro__)


def tensors_on_disk(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The state of a loaded model under its names on disk, with tied weights once; views, not copies.

    Raises:
        [`IngredientError`]: if some weights are not in memory (offloaded), or the model is quantised.
    """
    import torch

    _refuse_quantiser(model)
    state: dict[str, torch.Tensor] = {}
    ignored = set(model._keys_to_ignore_on_save or ())  # the tensors that `save_pretrained` omits
    for name, value in model.state_dict().items():
        if not isinstance(value, torch.Tensor):  # torch stores the packed parameters of a quantised layer in the state
            raise IngredientError(
                f"{type(model).__name__} is quantised by torch: {name} is not a tensor. Average the weights that it "
                "was "
                "made from."
            )
        if name not in ignored:
            state[name] = value.detach()
    _refuse_absent_weights(model, state)
    return dict(sorted(on_disk(model, state).items()))


def _refuse_quantiser(model: PreTrainedModel) -> None:
    """Refuse a model that transformers quantised on loading."""
    if getattr(model, "hf_quantizer", None) is None:
        return
    settings = getattr(model.config, "quantization_config", None)
    method = getattr(settings, "quant_method", "an unknown method")
    method_name = getattr(method, "value", method)  # a member of an enumeration, or a string
    raise IngredientError(
        f"{type(model).__name__} is quantised ({method_name}); average the weights that it was made from."
    )


def _refuse_absent_weights(model: PreTrainedModel, state: Mapping[str, torch.Tensor]) -> None:
    """Refuse a model some of whose weights are not in this process's memory."""
    offloaded = [name for name, tensor in state.items() if tensor.device.type == "meta"]
    if offloaded:
        raise IngredientError(f"{type(model).__name__} is offloaded: {offloaded[0]} is not in memory. Load it whole.")
    sharded = [name for name, tensor in state.items() if hasattr(tensor, "full_tensor")]  # a DTensor
    if sharded:
        raise IngredientError(
            f"{type(model).__name__} is spread over processes: of {sharded[0]} there is a part here. Save it with "
            "Trainer or accelerate, and give the folder."
        )


def build_model(config: Mapping[str, Any], tensors: dict[str, torch.Tensor]) -> PreTrainedModel:
    """Build a model from its configuration and tensors (named as on disk or in memory) through transformers' loading.

    Args:
        config (`Mapping[str, Any]`):
            Content of `config.json`; its first architecture is built.
        tensors (`dict[str, torch.Tensor]`):
            All weights and buffers.

    Returns:
        `transformers.PreTrainedModel`: in evaluation mode.

    Raises:
        [`IngredientError`]: if transformers has no such architecture, or tensors are missing, left over or misshapen.
    """
    name, cls = architecture(config)
    if "float8" in str(config.get("dtype")):
        config = {**config, "dtype": "bfloat16"}  # torch computes nothing in float8
    model, info = _load(cls, config, tensors)
    problems = []
    for problem in ("missing", "unexpected", "mismatched"):
        keys = sorted(str(key) for key in info[f"{problem}_keys"])
        if keys:
            problems.append(f"{problem} {', '.join(keys[:KEYS_SHOWN])}")
    if problems:
        raise IngredientError(f"these tensors do not make a {name}: {'; '.join(problems)}.")
    return model.eval()


def _load(
    cls: type[PreTrainedModel], config: Mapping[str, Any], tensors: dict[str, torch.Tensor]
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A model, and what transformers reports about the names of the tensors."""
    from transformers import CONFIG_MAPPING

    try:
        settings = CONFIG_MAPPING[config["model_type"]].from_dict(dict(config))
        with quiet_transformers():
            loaded = cls.from_pretrained(None, config=settings, state_dict=tensors, output_loading_info=True)
    except Exception as error:  # transformers may raise anything for an invalid configuration
        raise _cannot_build(cls, error) from error
    # transformers declares only a model as the return type
    return cast("tuple[PreTrainedModel, dict[str, Any]]", loaded)


def _cannot_build(cls: type[PreTrainedModel], error: Exception) -> IngredientError | MissingExtraError:
    """Convert an error of transformers; it raises an `ImportError` if a library is not installed."""
    reason = _first_sentence(error)
    if isinstance(error, ImportError):
        return MissingExtraError(reason)
    return IngredientError(f"transformers cannot build a {cls.__name__} from its configuration: {reason}")


def _first_sentence(error: Exception) -> str:
    """The first line of a message, and the lines after it as long as each ends with a colon."""
    text = str(error).strip() or type(error).__name__
    lines = [line.strip() for line in text.splitlines()]
    sentence = lines[0]
    for line in lines[1:]:
        if not sentence.endswith(":"):
            break
        if line:
            sentence = f"{sentence} {line}"
    return one_line(sentence)


def architecture(config: Mapping[str, Any]) -> tuple[str, type[PreTrainedModel]]:
    """The name and the class of the model that a configuration describes.

    Raises:
        [`IngredientError`]: if it names none, or one that is not part of transformers (remote code is never run).
    """
    import transformers

    names = config.get("architectures") or [None]
    name = names[0]
    if name is None:
        raise IngredientError(
            'the config names no architecture: set config.architectures = ["BertForSequenceClassification"], say.'
        )
    cls = getattr(transformers, name, None) or _registered(name)
    # Other names in transformers' module are functions, and classes that are not models.
    is_model = isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel)
    if not is_model or config.get("model_type") not in transformers.CONFIG_MAPPING:
        raise IngredientError(
            f"transformers {transformers.__version__} has no {one_line(name, 80)} of type "
            f"{one_line(config.get('model_type'), 80)!r}, and code from a repository is not run. A class of your own "
            "has to be registered: `AutoModel.register(MyConfig, MyModel)`, with the Auto class of your task."
        )
    return name, cast("type[PreTrainedModel]", cls)


def _registered(name: str) -> type | None:
    """The class of this name that the user has registered with one of transformers' Auto classes."""
    from transformers.models.auto import auto_factory, modeling_auto

    for mapping in vars(modeling_auto).values():
        if not isinstance(mapping, auto_factory._LazyAutoMapping):
            continue
        for registered in mapping._extra_content.values():
            classes = registered if isinstance(registered, tuple) else (registered,)
            for cls in classes:
                if getattr(cls, "__name__", None) == name:
                    return cls
    return None


def empty_model(config: Mapping[str, Any], modules: int = MOST_BUILT) -> PreTrainedModel:
    """The model that a configuration describes, on the meta device: names and shapes without weights.

    Args:
        config (`Mapping[str, Any]`):
            Content of `config.json`.
        modules (`int`, *optional*, defaults to 1,048,576):
            Largest number of modules that the model may have.

    Raises:
        [`IngredientError`]: if transformers has no such architecture, or cannot build it from this configuration.
        [`MissingExtraError`]: if the architecture needs a library that is not installed.
    """
    import torch
    from transformers import CONFIG_MAPPING

    _, cls = architecture(config)
    try:
        with quiet_transformers(), torch.device("meta"), at_most_modules(modules):
            return cls(CONFIG_MAPPING[config["model_type"]].from_dict(dict(config)))
    except Exception as error:  # transformers may raise anything for an invalid configuration
        raise _cannot_build(cls, error) from error


def on_disk(model: PreTrainedModel, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state of a model under its names on disk, with tied weights once.

    Args:
        model (`PreTrainedModel`):
            Model that the state belongs to.
        state (`dict[str, torch.Tensor]`):
            State dict by names in memory, which is changed in place.
    """
    from transformers.core_model_loading import revert_weight_conversion
    from transformers.modeling_utils import remove_tied_weights_from_state_dict

    return revert_weight_conversion(model, remove_tied_weights_from_state_dict(state, model))


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hide the loading bars and messages of transformers in the block, and restore them afterwards."""
    # ignored: huggingface_hub re-exports these without saying so to type checkers
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars  # type: ignore[attr-defined]
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    had_bars = logging.is_progress_bar_enabled()
    hub_had_bars = not are_progress_bars_disabled()  # transformers switches them together with its own
    logging.set_verbosity_error()
    _without_warnings(logging.disable_progress_bar)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bars:
            _without_warnings(logging.enable_progress_bar)
        if not hub_had_bars:
            _without_warnings(disable_progress_bars)


def _without_warnings(switch_bars: Callable[[], object]) -> None:
    """Switch progress bars without the warning that an environment variable controls those of the Hub's client."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        switch_bars()
