"""Do checkpoints look like fine-tunes of one model? Told from the angles between their weights.

Only matrices and kernels count: norms and biases point in similar directions in any two models. It reads the weights
once, piece by piece; what it keeps is a matrix of inner products for each module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ..errors import IngredientError
from ..tables import align
from .checkpoint import Checkpoint
from .gram import inner_products
from .labels import is_identity
from .modules import class_tensors, group, head_names, own_prefix


if TYPE_CHECKING:
    import numpy as np

# Cosine below which two bodies, or two heads, do not look like fine-tunes of one; measured, see docs/shared_start.md.
RELATED = 0.5
HEAD_ELEMENTS = 2**22  # heads that are larger are those of language models, which are pre-trained like the body


class ModuleAngles(NamedTuple):
    """How alike one named module is among the ingredients.

    Args:
        name (`str`):
            The module.
        part (`str`):
            `"body"` or `"head"`.
        lowest (`float`):
            Cosine of the two that differ most, -1 to 1.
        mean (`float`):
            Mean cosine of all pairs.
        distance (`float`, *optional*):
            Largest distance of an ingredient from the base model, relative to the length of the base model; none where
            the base model lacks the module or there is no base model.
    """

    name: str
    part: str
    lowest: float | None
    mean: float | None
    distance: float | None


@dataclass(frozen=True)
class Relation:
    """What the weights of the ingredients say about a common start.

    Args:
        modules (`tuple[ModuleAngles, ...]`):
            One for each named module.
        body (`float`, *optional*):
            Lowest cosine between the bodies of two ingredients.
        head (`float`, *optional*):
            Lowest cosine between the heads of two ingredients, if they have heads.
        distances (`dict[str, float]`):
            Ingredient -> distance of its body from the base model, relative to the length of the base model; empty
            without one.
        notes (`tuple[str, ...]`):
            What to look out for.
    """

    modules: tuple[ModuleAngles, ...]
    body: float | None
    head: float | None
    distances: dict[str, float]
    notes: tuple[str, ...]

    def table(self) -> str:
        """Cosines by module, and distances from the base model; `-` where it lacks the module."""
        with_base = any(module.distance is not None for module in self.modules)
        lines = [["module", "part", "lowest cosine", "mean cosine", *(["distance"] if with_base else [])]]
        for module in self.modules:
            numbers = [module.lowest, module.mean, *([module.distance] if with_base else [])]
            lines.append([module.name, module.part, *("-" if value is None else f"{value:.4f}" for value in numbers)])
        return align(lines)


def relate(
    checkpoints: Sequence[Checkpoint],
    base: Checkpoint | None = None,
    *,
    moved: Mapping[tuple[str, str], Sequence[int]] | None = None,
) -> Relation:
    """Read all weights and compare them, two by two.

    Args:
        checkpoints (`Sequence[Checkpoint]`):
            Opened ingredients with the same tensors.
        base (`Checkpoint`, *optional*):
            What they were fine-tuned from.
        moved (`Mapping[tuple[str, str], Sequence[int]]`, *optional*):
            Ingredient and tensor -> the order in which its rows are taken.

    Returns:
        [`Relation`]

    Raises:
        [`IngredientError`]: if weights cannot be read or fetched, or hold NaN or infinity.
    """
    import numpy as np

    names, specs = [item.name for item in checkpoints], checkpoints[0].specs
    prefix, heads = own_prefix(specs), head_names(specs)
    matrices = [spec for spec in specs.values() if spec.is_floating and len(spec.shape) > 1]
    items = [*checkpoints, *([base] if base is not None else [])]
    grams: dict[str, dict[str, np.ndarray]] = {"body": {}, "head": {}}
    for spec in matrices:
        grams["head" if spec.name in heads else "body"][group(spec.name, prefix)] = np.zeros((len(items),) * 2)
    wanted = {key: order for key, order in (moved or {}).items() if key[1] in {spec.name for spec in matrices}}
    inner_products(
        items,
        matrices,
        lambda name: grams["head" if name in heads else "body"][group(name, prefix)],
        moved=wanted,
    )
    for item, length in zip(items, sum(gram for of in grams.values() for gram in of.values()).diagonal(), strict=True):
        if not np.isfinite(length):
            raise IngredientError(f"{item.name!r} holds NaN or infinity: that run diverged or was saved badly.")
    whole = {part: sum(of.values()) for part, of in grams.items() if of}
    modules = tuple(_angles(name, part, gram, len(names)) for part, of in grams.items() for name, gram in of.items())
    cosines = {part: _cosines(gram)[: len(names), : len(names)] for part, gram in whole.items()}
    notes = _body_notes(names, cosines.get("body"))
    if sum(specs[name].numel for name in heads) <= HEAD_ELEMENTS:
        notes += _head_notes(names, cosines.get("head"))
    far = _distances(whole["body"]) if base is not None and "body" in whole else None
    lowest = {part: _lowest(matrix) for part, matrix in cosines.items()}
    distances = dict(zip(names, far, strict=True)) if far else {}
    return Relation(modules, lowest.get("body"), lowest.get("head"), distances, tuple(notes))


def unrelated_heads(checkpoints: Sequence[Checkpoint], alignments: Mapping[str, Sequence[int]]) -> tuple[str, ...]:
    """The part of [`relate`] that looks at the heads, which are small and lie in memory after a merge.

    Args:
        checkpoints (`Sequence[Checkpoint]`):
            Opened ingredients with the same tensors.
        alignments (`Mapping[str, Sequence[int]]`):
            For ingredients whose classes are in another order, that order.
    """
    import torch

    if len(checkpoints) < 2:
        return ()
    specs = checkpoints[0].specs
    names = [name for name in head_names(specs) if specs[name].is_floating and len(specs[name].shape) > 1]
    if not names or sum(specs[name].numel for name in names) > HEAD_ELEMENTS:
        return ()
    rows = []
    for item in checkpoints:
        order = alignments.get(item.name)
        moved = order is not None and not is_identity(order)
        permuted = class_tensors(specs, len(order)) if moved else ()
        read = {name: item.read(name).double() for name in names}
        rows.append(torch.cat([(t[list(order)] if n in permuted else t).flatten() for n, t in read.items()]))
    matrix = torch.stack(rows)
    return tuple(_head_notes([item.name for item in checkpoints], _cosines((matrix @ matrix.T).numpy())))


def _angles(name: str, part: str, gram: np.ndarray, count: int) -> ModuleAngles:
    cosines = _cosines(gram)[:count, :count]
    far = _distances(gram) if len(gram) > count else None
    mean = float((cosines.sum() - count) / (count * (count - 1))) if count > 1 else None
    return ModuleAngles(name, part, _lowest(cosines), mean, max(far) if far else None)


def _cosines(gram: np.ndarray) -> np.ndarray:
    """Cosines from inner products; 1 between vectors of which one is zero, which say nothing."""
    import numpy as np

    lengths = np.sqrt(np.diag(gram))
    outer = np.outer(lengths, lengths)
    return np.divide(gram, outer, out=np.ones_like(gram), where=outer > 0)


def _distances(gram: np.ndarray) -> list[float] | None:
    """Of all but the last from the last, relative to its length; none if it has no length."""
    import numpy as np

    own, start = np.diag(gram)[:-1], gram[-1, -1]
    return np.sqrt(np.maximum(own - 2 * gram[:-1, -1] + start, 0) / start).tolist() if start else None


def _lowest(cosines: np.ndarray) -> float | None:
    """Of all pairs; nothing of one alone."""
    return float(cosines.min()) if len(cosines) > 1 else None


def _body_notes(names: Sequence[str], cosines: np.ndarray | None) -> list[str]:
    return _notes(
        names,
        cosines,
        "bodies do not look like fine-tunes of one model",
        "The average is most likely useless. Average only runs that started from the same pre-trained weights",
    )


def _head_notes(names: Sequence[str], cosines: np.ndarray | None) -> list[str]:
    return _notes(
        names,
        cosines,
        "heads do not look like fine-tunes of one initial head",
        "The average may be worse than each of them. Start all runs from one head, as `hf_soup.sweep` does, or take "
        "the head of one of them by a row of weights for it",
    )


def _notes(names: Sequence[str], cosines: np.ndarray | None, what: str, advice: str) -> list[str]:
    """A note if the lowest cosine is too low: about those that are far from most others, or about all."""
    import numpy as np

    if cosines is None or len(names) < 2 or not cosines.min() < RELATED:
        return []
    odd = [name for name, row in zip(names, cosines, strict=True) if np.median(row) < RELATED]
    who = ", ".join(odd if 0 < len(odd) < len(names) else names)
    return [f"{who}: the {what} (cosine down to {cosines.min():.2f}; fine-tunes stay above {RELATED}). {advice}"]
