"""Class names as transformers reads them from a configuration, and the orders in which they occur.

`label_problems.py` reports differences between ingredients, and `modules.py` finds the tensors with a row per class.
Nothing is permuted here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .differences import most_frequent


if TYPE_CHECKING:
    from .checkpoint import Checkpoint

# Models whose heads have no classes; visual question answering is excluded, since its answers are classes.
NO_CLASSES = re.compile(
    r"""
    ( CausalLM | ConditionalGeneration | LMHead(Model)? | MaskedLM | MultipleChoice | PreTraining
    | NextSentencePrediction | CTC | Seq2Seq | Seq2SeqLM | SpeechToText | TextToSpeech | MaskedImageModeling
    | DepthEstimation | Model
    | (?<!^ViltFor)(?<!^VisualBertFor)(?<!Visual)QuestionAnswering )$
    """,
    re.VERBOSE,
)
DEFAULT_CLASSES = 2  # transformers' default where a configuration has no setting
SHOWN = 6  # names in one sentence
MANY = 100_000  # classes; above this id, gaps between ids are not filled
# timm's names of the last layer, used if `pretrained_cfg` does not name it.
TIMM_CLASSIFIERS = ("classif", "classifier", "fc", "head", "head_dist", "last_linear")
FIELDS = "id2label and label2id"


def class_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    """All class names in order, including generated ones.

    They are read as transformers reads them: `label_names` of a timm model, else `id2label` with strings or numbers as
    keys, else as many generated names as `num_labels` states. `label2id` alone names nothing. If only a nested
    configuration names classes, those are used.

    Args:
        config (`Mapping[str, Any]`):
            Content of `config.json`.
    """
    names = _own_names(config)
    if names is None or are_made_up(names):
        for _, inner in _inner_configs(config):
            if not inner.get("id2label"):
                continue
            inner_names = _own_names(inner)
            if inner_names and not are_made_up(inner_names):
                return inner_names
    if names is None:
        return _made_up(DEFAULT_CLASSES)
    return names


def label_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The class names in order; empty if transformers generated them."""
    return without_made_up(class_names(config))


def without_made_up(names: Sequence[str]) -> tuple[str, ...]:
    """The names, or an empty tuple if transformers generated them."""
    return () if are_made_up(names) else tuple(names)


def fields_of_names(config: Mapping[str, Any]) -> str:
    """The names of the fields in which a configuration stores its class names, in words."""
    return FIELDS if _timm_names(config) is None else "label_names"


def with_class_names(config: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """The configuration with new class names, in the fields where it stores them."""
    if _timm_names(config) is not None:
        return {**config, "label_names": list(labels)}
    names = {
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
    }
    if not _has_own_names(config):
        for field, inner in _inner_configs(config):
            if _has_own_names(inner):
                return {**config, field: {**inner, **names}}
    return {**config, **names}


def classifier_modules(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The classifier modules that a configuration names; only those of timm models do."""
    if config.get("model_type") != "timm_wrapper":
        return ()
    classifiers = _timm_settings(config).get("classifier") or TIMM_CLASSIFIERS
    if isinstance(classifiers, str):  # timm lists several, where a model has two heads
        classifiers = [classifiers]
    return tuple(f"timm_model.{name}" for name in classifiers)


def label_orders(checkpoints: Sequence[Checkpoint], usual_labels: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """For ingredients that have the usual labels in another order or letter case: the indices of the usual classes 0,
    1, ... among their own.

    Args:
        checkpoints (`Sequence[Checkpoint]`):
            Opened ingredients.
        usual_labels (`tuple[str, ...]`):
            The usual labels, as [`usual_names`] finds them.

    Returns:
        `dict[str, tuple[int, ...]]`: ingredient -> order; without those that have them already or have other labels.
    """
    orders = {}
    for item in checkpoints:
        names = class_names(item.config)
        if names == usual_labels:
            continue
        order = _order(names, usual_labels)
        if order is not None:
            orders[item.name] = order
    return orders


def usual_names(names: Sequence[tuple[str, ...]], settings: Checkpoint | None = None) -> tuple[str, ...]:
    """The labels of a soup: those of the ingredient that gives its settings, or else the most frequent ones.

    Explicit names take precedence over generated ones, however frequent these are.

    Args:
        names (`Sequence[tuple[str, ...]]`):
            Class names of each ingredient, as [`class_names`] reads them.
        settings (`Checkpoint`, *optional*):
            The ingredient that gives the soup its settings, if the user named one.
    """
    if settings is not None:
        return class_names(settings.config)
    # An ingredient without names does not vote.
    not_made_up = [labels for labels in names if not are_made_up(labels)]
    return most_frequent(not_made_up or names)


def permuted(labels: Sequence[str], order: Sequence[int] | None) -> tuple[str, ...]:
    """Labels in the order of an alignment; unchanged if it does not fit."""
    if order and len(order) == len(labels):
        return tuple(labels[index] for index in order)
    return tuple(labels)


def is_identity(order: Sequence[int]) -> bool:
    """Whether an order leaves everything in place."""
    return list(order) == sorted(order)


def in_another_order(labels: Sequence[str], other_labels: Sequence[str]) -> bool:
    """Whether two lists contain the same names, ignoring letter case, in different orders."""
    folded_labels, folded_others = folded(labels), folded(other_labels)
    return folded_labels != folded_others and sorted(folded_labels) == sorted(folded_others)


def base_order_problem(base: Checkpoint, labels: Sequence[str]) -> str | None:
    """The problem that a base model cannot be subtracted because its labels have another order.

    Args:
        base (`Checkpoint`):
            The base model.
        labels (`Sequence[str]`):
            Class names of the ingredients.
    """
    base_labels = label_names(base.config)
    if not in_another_order(base_labels, labels):
        return None
    return (
        f"{base.name} has the labels in another order than the ingredients: {listing(base_labels)}, not "
        f"{listing(labels)}. Give the base model whose label2id is in the order of the ingredients, or fine-tune with "
        f"the label2id of {base.name}"
    )


def _inner_configs(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The nested configurations, such as that of a text encoder, each with the field that contains it."""
    for field, value in config.items():
        if isinstance(value, Mapping):
            yield field, value


def _own_names(config: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The class names that a configuration itself gives; generated ones if it gives only their number."""
    timm_names = _timm_names(config)
    if timm_names is not None:
        return timm_names
    id2label = config.get("id2label")
    # JSON has strings as keys, a configuration in memory has numbers.
    if isinstance(id2label, Mapping) and id2label and all(str(key).isdecimal() for key in id2label):
        return _names_by_id({int(key): str(label) for key, label in id2label.items()})
    number = config.get("num_labels", config.get("num_classes"))
    if isinstance(number, int) and 0 < number < MANY:
        return _made_up(number)
    return None


def _has_own_names(config: Mapping[str, Any]) -> bool:
    """Whether a configuration itself gives names that were not generated."""
    names = _own_names(config)
    return names is not None and not are_made_up(names)


def _names_by_id(by_id: Mapping[int, str]) -> tuple[str, ...]:
    """Names in the order of their ids; missing ids get generated names if they are few."""
    highest = max(by_id)
    if highest < len(by_id) or highest >= MANY:
        return tuple(by_id[index] for index in sorted(by_id))
    return tuple(by_id.get(index, f"LABEL_{index}") for index in range(highest + 1))


def _timm_names(config: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The list of names that configurations of timm models contain, directly or in `pretrained_cfg`."""
    for holder in (config, _timm_settings(config)):
        names = holder.get("label_names")
        if isinstance(names, (list, tuple)) and names:
            return tuple(map(str, names))
    return None


def _timm_settings(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """timm's own settings in the configuration of a timm model; empty if there are none."""
    settings = config.get("pretrained_cfg")
    return settings if isinstance(settings, Mapping) else {}


def _made_up(number: int) -> tuple[str, ...]:
    """The names that transformers generates for classes without names."""
    return tuple(f"LABEL_{index}" for index in range(number))


def are_made_up(names: Sequence[str]) -> bool:
    """Whether names are those that transformers generates."""
    return tuple(names) == _made_up(len(names))


def folded(names: Sequence[str]) -> list[str]:
    """Names with upper and lower case folded together."""
    return [name.casefold() for name in names]


def _order(names: tuple[str, ...], usual_labels: tuple[str, ...]) -> tuple[int, ...] | None:
    """The index of each usual name: by exact spelling if possible, else ignoring case; never by guessing."""
    order = _places(names, usual_labels)
    if order is None:
        order = _places(folded(names), folded(usual_labels))
    return order


def _places(names: Sequence[str], usual_labels: Sequence[str]) -> tuple[int, ...] | None:
    """The index of each usual name; `None` unless both lists have the same names, each of them once."""
    are_distinct = len(set(usual_labels)) == len(usual_labels)
    if not are_distinct or sorted(names) != sorted(usual_labels):
        return None
    places = {name: place for place, name in enumerate(names)}
    return tuple(places[name] for name in usual_labels)


def listing(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    if len(names) <= SHOWN:
        return str(list(names))
    return f"{list(names[:SHOWN])} and {len(names) - SHOWN} more"
