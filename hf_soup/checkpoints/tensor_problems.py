"""Tensors that ingredients lack, have in addition, or have in another shape.

They are compared with the model that `config.json` names, if it is known, or else with what most ingredients have. No
weights are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import listed
from .checkpoint import Checkpoint
from .config_settings import read_settings
from .subfolders import subfolder_prefix


SHOWN = 3  # names in one line
# The weight is tied in one model; loading it as an untied model would initialise it randomly.
UNTIE = (
    "Untie every tied one and save it again: `model.config.tie_word_embeddings = False`, "
    "`model.get_output_embeddings().weight = torch.nn.Parameter(model.get_input_embeddings().weight.clone())`, "
    "`model.save_pretrained(...)`"
)
Shapes = Mapping[str, tuple[int, ...]]  # of tensors, by name


def tensor_problems(item: Checkpoint, usual_shapes: Shapes, *, may_lack: bool = False) -> list[str]:
    """The problems with the names and shapes of one ingredient's tensors.

    Args:
        item (`Checkpoint`):
            An opened ingredient.
        usual_shapes (`Mapping[str, tuple[int, ...]]`):
            Names and shapes that most ingredients have.
        may_lack (`bool`, *optional*, defaults to `False`):
            Whether the checkpoint is a base model, which may have no head.

    Returns:
        `list[str]`: a line for each type of problem.
    """
    if item.fitted is not None and item.fitted.problem:
        return [*item.problems, f"{item.name}: {item.fitted.problem}"]
    needed = _needed(item, usual_shapes)
    problems = list(item.problems)
    if not may_lack:
        problems += _absent(item, needed, usual_shapes)
    problems += _additional(item, needed, usual_shapes)
    if not problems and not may_lack:  # absent and additional tensors have been reported already
        problems += _other_layout(item, usual_shapes)
    return problems + shape_problems(item, needed, usual_shapes)


def _absent(item: Checkpoint, needed: Shapes, usual_shapes: Shapes) -> list[str]:
    """Tensors that an ingredient's model reads and its files lack."""
    optional = frozenset[str]() if item.fitted is None else item.fitted.optional
    absent = [name for name in needed if name not in item.specs and name not in optional]
    in_others, in_none = _split(absent, usual_shapes)
    return [
        *_line(item, "lacks", in_others),
        *_line(item, "lacks", in_none, f", which {item.architecture} would draw anew"),
    ]


def _additional(item: Checkpoint, needed: Shapes, usual_shapes: Shapes) -> list[str]:
    """Tensors that an ingredient's files have and its model does not read."""
    additional = [name for name in item.specs if name not in needed]
    in_others, in_none = _split(additional, usual_shapes)
    return [
        *_line(item, "has in addition", in_none),
        *_line(item, "has in addition", in_others, f", which {item.architecture} does not have"),
    ]


def _split(names: Sequence[str], usual_shapes: Shapes) -> tuple[list[str], list[str]]:
    """Split names into those that most ingredients have and those that they lack."""
    in_others = [name for name in names if name in usual_shapes]
    in_none = [name for name in names if name not in usual_shapes]
    return in_others, in_none


def _other_layout(item: Checkpoint, usual_shapes: Shapes) -> list[str]:
    """Differences from the other ingredients, although each model could be loaded by itself."""
    absent = [name for name in usual_shapes if name not in item.specs]
    additional = [name for name in item.specs if name not in usual_shapes]
    if not absent and not additional:
        return []
    advice = _advice_on_layouts(item, absent, additional)
    return [*_line(item, "lacks", absent, advice), *_line(item, "has in addition", additional, advice)]


def _advice_on_layouts(item: Checkpoint, absent: Sequence[str], additional: Sequence[str]) -> str:
    """Advice about tensors that only one ingredient lacks or has."""
    is_tied = _ties_embeddings(item)
    if absent and not additional and is_tied:
        return f", its tied embeddings: those of the others are untied. {UNTIE}"
    if additional and not absent and not is_tied and _could_be_tied(item, additional):
        return f", its untied embeddings: those of the others are tied. {UNTIE}"
    return ": transformers loads both layouts; load one of them and save it again with `save_pretrained`"


def _ties_embeddings(item: Checkpoint) -> bool:
    """Whether a model ties its output embeddings to its input embeddings, according to its configuration."""
    settings = read_settings({item.name: item.config})[item.name].values
    return bool(settings.get("tie_word_embeddings"))


def _could_be_tied(item: Checkpoint, names: Sequence[str]) -> bool:
    """Whether each of these tensors has the shape of another one, as tied weights have."""
    for name in names:
        shape = item.specs[name].shape
        others = [other for other, spec in item.specs.items() if other not in names and spec.shape == shape]
        if len(shape) != 2 or not others:
            return False
    return True


def _needed(item: Checkpoint, usual_shapes: Shapes) -> Shapes:
    """The expected names and shapes of an ingredient: its model's, or the usual ones in subfolders without a model."""
    fitted = item.fitted
    if fitted is None or fitted.expected is None:
        return usual_shapes
    without_model = [subfolder for subfolder in item.subfolders if subfolder not in fitted.subfolders]
    prefixes = tuple(map(subfolder_prefix, without_model))
    needed = dict(fitted.expected)
    for name, shape in usual_shapes.items():
        spec = item.specs.get(name)
        is_without_model = spec is not None and spec.subfolder not in fitted.subfolders
        if is_without_model or name.startswith(prefixes):  # the latter finds what the ingredient lacks
            needed[name] = shape
    return needed


def _line(item: Checkpoint, verb: str, names: Sequence[str], advice: str = "") -> list[str]:
    """A line about some tensors; none where there are none."""
    if not names:
        return []
    return [f"{item.name} {verb} {listed(sorted(names), SHOWN)}{advice}"]


def shape_problems(item: Checkpoint, needed: Shapes, usual_shapes: Shapes) -> list[str]:
    """Tensors whose shape differs from the expected one.

    Args:
        item (`Checkpoint`):
            An opened ingredient.
        needed (`Mapping[str, tuple[int, ...]]`):
            Names and shapes that its model reads.
        usual_shapes (`Mapping[str, tuple[int, ...]]`):
            Shapes that most ingredients have.
    """
    problems = []
    for name, shape in needed.items():
        spec = item.specs.get(name)
        if spec is None:  # absent tensors are a separate problem
            continue
        if spec.shape == shape == usual_shapes.get(name, shape):
            continue
        if 0 in spec.shape and 0 not in shape:
            problems.append(
                f"{item.name}: {name} is empty. DeepSpeed (ZeRO 3) leaves such files; its zero_to_fp32.py makes whole "
                "weights of its state"
            )
        elif name in usual_shapes and spec.shape != usual_shapes[name]:
            problems.append(
                f"{item.name}: {name} has the shape {list(spec.shape)}, the others {list(usual_shapes[name])}"
            )
        elif spec.shape != shape:
            problems.append(
                f"{item.name}: {name} has the shape {list(spec.shape)}, and its config.json makes it {list(shape)}"
            )
    return problems
