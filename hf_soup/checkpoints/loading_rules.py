"""How transformers names the tensors that it finds when it loads a model, and those that it writes when it saves one.

The model is built on the meta device, and transformers' own rules are applied; no files are read.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from .bounds import MOST_BUILT
from .memory import empty_model, on_disk


if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Buffers of older files that transformers ignores on load and no longer writes: they do not make two files different.
IGNORED = re.compile(r"(^|\.)position_ids$|(^|\.)rotary_emb\.inv_freq$")
# Fields of a configuration that do not change which tensors a model has.
WITHOUT_EFFECT = ("_name_or_path", "dtype", "torch_dtype", "transformers_version", "id2label", "label2id")


class Family(NamedTuple):
    """Tensors that belong together when transformers loads them: each may be one tensor on disk, or several.

    Args:
        disk (`tuple[str, ...]`):
            Names of the tensors in files.
        memory (`tuple[str, ...]`):
            Names of the tensors in a loaded model; a file may have them in this form as well.
    """

    disk: tuple[str, ...]
    memory: tuple[str, ...]


class Layout(NamedTuple):
    """What transformers knows about a model's tensors.

    Args:
        model (`PreTrainedModel`):
            On the meta device.
        shapes (`dict[str, tuple[int, ...]]`):
            Name on disk -> shape, from the bottom up.
        families (`dict[str, Family]`):
            Each name on disk and in memory -> those that it belongs with.
        tied (`dict[str, str]`):
            Name in memory of a weight that is another one -> that one.
        unsaved (`frozenset[str]`):
            Names in memory that `save_pretrained` leaves out.
        computed (`frozenset[str]`):
            Buffers that the model computes and that older versions saved, without the prefix of the body.
        ignored (`re.Pattern`), optional (`re.Pattern`, *optional*):
            Patterns of the tensors that transformers ignores in a file, and of those that a file may lack.
    """

    model: PreTrainedModel
    shapes: dict[str, tuple[int, ...]]
    families: dict[str, Family]
    tied: dict[str, str]
    unsaved: frozenset[str]
    computed: frozenset[str]
    ignored: re.Pattern[str]
    optional: re.Pattern[str] | None

    def loader(self) -> Loader:
        """A loader for the names of one file; some of transformers' rules keep state between names."""
        return Loader(self.model)


class Loader:
    """The names that transformers gives to the tensors of a file when it loads them.

    Args:
        model (`PreTrainedModel`):
            On the meta device.
    """

    def __init__(self, model: PreTrainedModel):
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming

        mapping = get_model_conversion_mapping(model)
        self._renamings = [rule for rule in mapping if isinstance(rule, WeightRenaming)]
        self._converters = [rule for rule in mapping if isinstance(rule, WeightConverter)]
        self._state = model.state_dict()
        self._prefix = model.base_model_prefix

    def in_memory(self, name: str) -> str | None:
        """The name in memory of a tensor of a file (the first, if it is split into several); `None` if it has none."""
        from transformers.core_model_loading import rename_source_key

        renamed, _ = rename_source_key(name, self._renamings, self._converters, self._prefix, self._state)
        # Renamings use patterns, and a pattern for old names can match a current one.
        if renamed not in self._state and name in self._state:
            renamed, _ = rename_source_key(name, [], [], self._prefix, self._state)
        return renamed if renamed in self._state else None

    def current_name(self, name: str) -> str:
        """A name in its current spelling, without the prefix of the body."""
        for rule in self._renamings:
            name, _ = rule.rename_source_key(name)
        while self._prefix and name.startswith(f"{self._prefix}."):
            name = name.removeprefix(f"{self._prefix}.")
        return name


def layout_key(config: Mapping[str, Any]) -> str:
    """Everything in a configuration that determines which tensors its model has, as JSON."""
    fields = {key: value for key, value in config.items() if key not in WITHOUT_EFFECT}
    if config.get("id2label"):
        fields["num_labels"] = len(config["id2label"])
    return json.dumps(fields, sort_keys=True, default=str)


@functools.lru_cache(maxsize=16)
def layout_of(key: str, modules: int = MOST_BUILT) -> Layout:
    """What transformers knows about the tensors of a model.

    Args:
        key (`str`):
            Configuration of the model, as [`layout_key`] writes it.
        modules (`int`, *optional*, defaults to 1,048,576):
            Largest number of modules that the model may have.
    """
    model = empty_model(json.loads(key), modules)
    unsaved = frozenset(model._keys_to_ignore_on_save or ())
    state = {name: tensor for name, tensor in model.state_dict().items() if name not in unsaved}
    on_file = on_disk(model, dict(state))
    # Tensors that are stored as in memory keep their order; those that transformers converts come last.
    places = {id(tensor): place for place, tensor in enumerate(state.values())}
    names = sorted(on_file, key=lambda name: places.get(id(on_file[name]), len(places)))
    shapes = {name: tuple(on_file[name].shape) for name in names}
    tied = dict(getattr(model, "all_tied_weights_keys", {}))
    untied_names = [name for name in state if name not in tied]
    prefix = f"{model.base_model_prefix}."
    computed = {name.removeprefix(prefix) for name, _ in model.named_non_persistent_buffers()}
    ignored = (*(model._keys_to_ignore_on_load_unexpected or ()), IGNORED.pattern)
    optional = model._keys_to_ignore_on_load_missing
    return Layout(
        model=model,
        shapes=shapes,
        families=_families(model, untied_names, names),
        tied=tied,
        unsaved=unsaved,
        computed=frozenset(computed),
        ignored=_pattern(ignored),
        # Joining no patterns would give the empty pattern, which matches every name.
        optional=_pattern(optional) if optional else None,
    )


def _families(model: PreTrainedModel, memory: Sequence[str], disk: Sequence[str]) -> dict[str, Family]:
    """Each name of a model's tensors, in memory and on disk -> the family that it belongs to."""
    loader = Loader(model)
    rules = _backward_rules(model)
    # A family is identified by the name that transformers writes, shared by all tensors converted to or from one.
    in_memory: dict[str, list[str]] = {}
    written_as = {}  # name in memory -> name of its family
    for name in memory:
        target = _converted_name(name, rules)
        written_as[name] = target
        in_memory.setdefault(target, []).append(name)
    on_file: dict[str, list[str]] = {}
    for name in disk:
        loaded_as = loader.in_memory(name)
        target = f"{name} alone"  # not loaded as any written tensor
        if loaded_as is not None:
            target = written_as.get(loaded_as, target)
        on_file.setdefault(target, []).append(name)
    families = {}
    for target in dict.fromkeys([*in_memory, *on_file]):
        family = Family(tuple(on_file.get(target, ())), tuple(in_memory.get(target, ())))
        for name in (*family.memory, *family.disk):
            families[name] = family
    return families


def _backward_rules(model: PreTrainedModel) -> list[Any]:
    """The conversions by which transformers makes tensors on disk from those in memory."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter

    rules = reversed(get_model_conversion_mapping(model, add_legacy=False))
    return [rule.reverse_transform() for rule in rules if isinstance(rule, WeightConverter)]


def _converted_name(name: str, rules: Iterable[Any]) -> str:
    """The result of the first rule that applies to a name; the name itself if none does."""
    for rule in rules:
        renamed, pattern = rule.rename_source_key(name)
        if pattern is not None:
            return renamed
    return name


def _pattern(patterns: Iterable[str]) -> re.Pattern[str]:
    """One pattern that matches whatever any of the given patterns matches."""
    return re.compile("|".join(f"({pattern})" for pattern in patterns))
