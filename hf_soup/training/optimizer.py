"""Optimizers without a name in `TrainingArguments.optim`, and learning rates that decrease from layer to layer."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from ..checkpoints.modules import by_depth, group, own_prefix


if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, Trainer

# name -> its name in `TrainingArguments.optim`; None: an optimizer of torch that `optim` lacks, or has no momentum for
OPTIMIZERS = {"adafactor": "adafactor", "adam": None, "adamw": "adamw_torch", "sgd": None}


def optimizer_of(
    trainer: Trainer,
    model: PreTrainedModel,
    *,
    name: str | None,
    momentum: float | None,
    layer_decay: float | None,
) -> tuple[type[torch.optim.Optimizer], dict[str, Any]] | None:
    """The value of Trainer's `optimizer_cls_and_kwargs`; `None` if Trainer has the optimizer itself.

    Args:
        trainer (`transformers.Trainer`):
            The Trainer, with its arguments.
        model (`transformers.PreTrainedModel`):
            Model that is trained.
        name (`str`, *optional*):
            Name of the optimizer, a key of `OPTIMIZERS`.
        momentum (`float`, *optional*):
            Momentum of `sgd`.
        layer_decay (`float`, *optional*):
            Factor between the learning rates of layers, as for [`layer_groups`].
    """
    import torch

    args = trainer.args
    optimizer: type[torch.optim.Optimizer]
    arguments: dict[str, Any]
    if name == "sgd":
        optimizer = torch.optim.SGD
        arguments = {"lr": args.learning_rate, "momentum": momentum or 0.0}
    elif name == "adam":
        betas = (args.adam_beta1, args.adam_beta2)
        optimizer = torch.optim.Adam
        arguments = {"lr": args.learning_rate, "betas": betas, "eps": args.adam_epsilon}
    elif layer_decay is None:
        return None
    else:
        optimizer, arguments = trainer.get_optimizer_cls_and_kwargs(args, model)
    if layer_decay is not None:
        # Trainer uses these groups instead of making its own
        arguments["params"] = layer_groups(
            model,
            trainer.get_decay_parameter_names(model),
            learning_rate=args.learning_rate,
            weight_decay=args.weight_decay,
            layer_decay=layer_decay,
        )
    return optimizer, arguments


def layer_groups(
    model: PreTrainedModel,
    decayed: Collection[str],
    *,
    learning_rate: float,
    weight_decay: float,
    layer_decay: float,
) -> list[dict[str, Any]]:
    """Groups of parameters whose learning rate is multiplied by `layer_decay` from each layer to the one below it.

    The head and everything else after the last numbered layer has the full rate, the last layer `layer_decay` times
    that, and the embeddings the lowest (Howard and Ruder 2018, arXiv 1801.06146, section 3.2; as in ELECTRA).

    Args:
        model (`transformers.PreTrainedModel`):
            Model whose trainable parameters are grouped.
        decayed (`Collection[str]`):
            Names of parameters with weight decay.
        learning_rate (`float`), weight_decay (`float`), layer_decay (`float`):
            Learning rate of the head, weight decay, and factor between layers.

    Returns:
        `list[dict[str, Any]]`: parameter groups for torch's optimizers.
    """
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    heights = module_heights(trained)
    prefix = own_prefix(trained)
    # one group for each rate and decay: (height, whether there is weight decay) -> parameters
    parameters_by_group: dict[tuple[int, bool], list[Any]] = {}
    for name, parameter in trained.items():
        height = heights[group(name, prefix)]
        parameters_by_group.setdefault((height, name in decayed), []).append(parameter)
    top = max(heights.values())
    groups: list[dict[str, Any]] = []
    for (height, decays), parameters in parameters_by_group.items():
        rate = learning_rate * layer_decay ** (top - height)
        groups.append({"params": parameters, "lr": rate, "weight_decay": weight_decay if decays else 0.0})
    return groups


def module_heights(names: Collection[str]) -> dict[str, int]:
    """The height of each named module: 0 below the first numbered layer, one more for each of these, and another one
    for everything after the last.

    Args:
        names (`Collection[str]`):
            Names of parameters, from the inputs to the outputs.
    """
    modules = by_depth(names, names)
    numbered = [module for module in modules if module.rsplit(".", 1)[-1].isdecimal()]
    heights = {}
    height = 0  # number of numbered layers so far
    for module in modules:
        if module in numbered:
            height += 1
            heights[module] = height
        elif numbered and height == len(numbered):  # above all of them
            heights[module] = height + 1
        else:
            heights[module] = height
    return heights
