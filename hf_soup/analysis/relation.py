"""Whether checkpoints look like fine-tunes of one model, judged by the angles between their weights.

Only matrices and kernels are used: norms and biases point in similar directions in any two models. Everything follows
from inner products, which `gram.py` computes in one pass over the weights.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.labels import is_identity
from ..checkpoints.modules import class_tensors, head_names
from ..checkpoints.reader import TensorSpec
from ..display.tables import align
from .gram import (
    TensorGram,
    cosines_of,
    inner_of_deltas,
    inner_of_weights,
    measure_grams,
    measure_small_grams,
    refuse_diverged,
)


if TYPE_CHECKING:
    import numpy as np

# Cosine below which two bodies, or two heads, do not look like fine-tunes of one; measured, see docs/shared_start.md.
RELATED = 0.5
HEADS_APART = "heads do not look like fine-tunes of one initial head"
HEAD_ELEMENTS = 2**22  # larger heads are those of language models, which are pre-trained like the body


class ModuleAngles(NamedTuple):
    """How similar one named module is in the ingredients.

    Args:
        name (`str`):
            The module.
        region (`str`):
            `"body"` or `"head"`.
        lowest (`float`, *optional*):
            Cosine of the two that differ most, -1 to 1; none of one ingredient alone.
        mean (`float`, *optional*):
            Mean cosine of all pairs; none of one ingredient alone.
        distance (`float`, *optional*):
            Largest distance of an ingredient from the base model, relative to the length of the base model; none where
            the base model lacks the module or there is no base model.
    """

    name: str
    region: str
    lowest: float | None
    mean: float | None
    distance: float | None


class HeadsApart(NamedTuple):
    """Heads that do not look like fine-tunes of one initial head.

    Args:
        names (`tuple[str, ...]`):
            The ingredients whose heads are far from most others; all of them where no head is like another.
        cosine (`float`):
            Lowest cosine of two heads.
        modules (`tuple[str, ...]`):
            The modules that are heads, as weights by module call them.
        weights (`tuple[int, ...]`):
            For each ingredient, 1 where its head can go into the soup and 0 where it is left out: the heads that are
            like one another, or that of the first ingredient alone.
    """

    names: tuple[str, ...]
    cosine: float
    modules: tuple[str, ...]
    weights: tuple[int, ...]

    @property
    def finding(self) -> str:
        """The measurement, in a sentence without its full stop."""
        return (
            f"{', '.join(self.names)}: the {HEADS_APART} (cosine down to {self.cosine:.2f}; fine-tunes stay above "
            f"{RELATED})"
        )

    @property
    def options(self) -> str:
        """The options of `hf-soup merge` that exclude these heads and average everything else."""
        row = ",".join(map(str, self.weights))
        rows = [f"--weights {shlex.quote(f'{module}={row}')}" for module in self.modules]
        everything = ",".join("1" for _ in self.weights)
        return " ".join([*rows, f"--weights {everything}"])

    @property
    def note(self) -> str:
        """The finding, and the remedy."""
        return (
            f"{self.finding}. An average of these heads may be worse than each of them. Where the bodies share a "
            f"start, average the bodies and take one head: {self.options} (in Python weights={self._in_python}). Or "
            "fine-tune again from one head, as `hf_soup.sweep` does"
        )

    @property
    def _in_python(self) -> str:
        rows = {module: list(self.weights) for module in self.modules}
        return str({**rows, "": [1] * len(self.weights)}).replace("'", '"')

    def with_head_of(self, place: int) -> HeadsApart:
        """The same with the head of one ingredient only, unless most heads are similar."""
        if sum(self.weights) > 1:
            return self
        return self._replace(weights=tuple(int(index == place) for index in range(len(self.weights))))


@dataclass(frozen=True)
class Relation:
    """Evidence in the weights of the ingredients for a common start.

    Args:
        modules (`tuple[ModuleAngles, ...]`):
            Angles of each named module.
        body (`float`, *optional*):
            Lowest cosine between the bodies of two ingredients.
        head (`float`, *optional*):
            Lowest cosine between the heads of two ingredients, if they have heads.
        distances (`dict[str, float]`):
            Ingredient -> distance of its body from the base model, relative to the length of the base model; empty
            without one.
        notes (`tuple[str, ...]`):
            Findings that deserve attention.
        heads_apart ([`HeadsApart`], *optional*):
            Heads that do not look like fine-tunes of one head, if there are any.
    """

    modules: tuple[ModuleAngles, ...]
    body: float | None
    head: float | None
    distances: dict[str, float]
    notes: tuple[str, ...]
    heads_apart: HeadsApart | None = None

    def table(self) -> str:
        """Cosines by module, and distances from the base model; `-` if it lacks the module."""
        columns = ["module", "part", "lowest cosine", "mean cosine", "distance"]
        lines = [columns]
        for module in self.modules:
            numbers = map(_cell, [module.lowest, module.mean, module.distance])
            lines.append([module.name, module.region, *numbers])
        if all(module.distance is None for module in self.modules):  # no base model
            lines = [line[:-1] for line in lines]
        return align(lines)


def relate(
    checkpoints: Sequence[Checkpoint],
    base: Checkpoint | None = None,
    *,
    moved: Mapping[tuple[str, str], Sequence[int]] | None = None,
) -> Relation:
    """Read the matrices of all ingredients and compare them pairwise.

    Args:
        checkpoints (`Sequence[Checkpoint]`):
            Opened ingredients with the same tensors.
        base (`Checkpoint`, *optional*):
            Base model that the ingredients were fine-tuned from.
        moved (`Mapping[tuple[str, str], Sequence[int]]`, *optional*):
            Ingredient and tensor -> the order in which its rows are taken.

    Returns:
        [`Relation`]

    Raises:
        [`IngredientError`]: if weights cannot be read or fetched, or hold NaN or infinity.
    """
    matrices = [spec for spec in checkpoints[0].specs.values() if _is_matrix(spec)]
    grams = measure_grams(checkpoints, base, matrices, moved=moved).tensors
    refuse_diverged(checkpoints, base, grams)
    return relation_of([item.name for item in checkpoints], grams, with_base=base is not None)


def relation_of(names: Sequence[str], grams: Sequence[TensorGram], *, with_base: bool) -> Relation:
    """The relation of ingredients from inner products of their weights.

    Args:
        names (`Sequence[str]`):
            The ingredients.
        grams (`Sequence[TensorGram]`):
            Inner products of the tensors of the ingredients. Tensors that are not matrices are ignored.
        with_base (`bool`):
            Whether the reference of the inner products is a base model.
    """
    body, head = _matrices_of(grams, "body"), _matrices_of(grams, "head")
    distances = {}
    body_distances = _distances(body) if with_base else []
    if body_distances:
        distances = dict(zip(names, body_distances, strict=True))
    notes = _body_notes(names, body)
    apart = _heads_apart(names, head)
    if apart is not None:  # if the bodies have no common start, a single head would not help
        notes.append(apart.finding if notes else apart.note)
    return Relation(
        modules=(*_angles_of_modules(body, with_base), *_angles_of_modules(head, with_base)),
        body=_lowest(_cosines(body)),
        head=_lowest(_cosines(head)),
        distances=distances,
        notes=tuple(notes),
        heads_apart=apart,
    )


def unrelated_heads(checkpoints: Sequence[Checkpoint], alignments: Mapping[str, Sequence[int]]) -> tuple[str, ...]:
    """The notes of [`relate`] on the heads only, which are small and quick to read.

    Args:
        checkpoints (`Sequence[Checkpoint]`):
            Opened ingredients with the same tensors.
        alignments (`Mapping[str, Sequence[int]]`):
            Order of the classes of each ingredient that has them in another order.
    """
    if len(checkpoints) < 2:
        return ()
    specs = checkpoints[0].specs
    matrices = [specs[name] for name in head_names(specs) if _is_matrix(specs[name])]
    if not matrices or sum(spec.numel for spec in matrices) > HEAD_ELEMENTS:
        return ()
    names = [item.name for item in checkpoints]
    moved = _moved_heads(names, specs, alignments)
    apart = _heads_apart(names, measure_small_grams(checkpoints, matrices, moved))
    return () if apart is None else (apart.note,)


def _moved_heads(
    names: Sequence[str], specs: Mapping[str, TensorSpec], alignments: Mapping[str, Sequence[int]]
) -> dict[tuple[str, str], Sequence[int]]:
    """Ingredient and tensor of its head -> the order of its rows, if its classes have another order."""
    moved = {}
    for name, order in alignments.items():
        if name not in names or is_identity(order):
            continue
        for tensor in class_tensors(specs, len(order)):
            moved[name, tensor] = order
    return moved


def _matrices_of(grams: Sequence[TensorGram], region: str) -> list[TensorGram]:
    """The matrices and kernels of the body or the head."""
    return [gram for gram in grams if gram.region == region and gram.dimensions > 1]


def _is_matrix(spec: TensorSpec) -> bool:
    """Whether a tensor is a floating-point matrix or kernel, whose direction is informative."""
    return spec.is_floating and len(spec.shape) > 1


def _angles_of_modules(grams: Sequence[TensorGram], with_base: bool) -> list[ModuleAngles]:
    """The angles for each module of the body or the head, in the order of the tensors."""
    by_module: dict[str, list[TensorGram]] = {}
    for gram in grams:
        by_module.setdefault(gram.module, []).append(gram)
    angles = []
    for name, members in by_module.items():
        cosines = _cosines(members)
        distances = _distances(members) if with_base else []
        farthest = max(distances) if distances else None
        angles.append(ModuleAngles(name, members[0].region, _lowest(cosines), _mean(cosines), farthest))
    return angles


def _cosines(grams: Sequence[TensorGram]) -> np.ndarray:
    """Cosines of all pairs; 1 if either vector is zero, which is no evidence. Without tensors, an empty matrix."""
    import numpy as np

    if not grams:
        return np.empty((0, 0))
    return cosines_of(inner_of_weights(grams), of_zero=1.0)


def _distances(grams: Sequence[TensorGram]) -> list[float]:
    """Distances from the base model, relative to its norm; empty if the norm is zero or there are no tensors."""
    import numpy as np

    length = sum(float(gram.inner[-1, -1]) for gram in grams)
    if not length:
        return []
    squares = np.diag(inner_of_deltas(grams))
    return [float(distance) for distance in np.sqrt(squares / length)]


def _lowest(cosines: np.ndarray) -> float | None:
    """The lowest cosine of all pairs; `None` for a single model."""
    if len(cosines) < 2:
        return None
    return float(cosines.min())  # the diagonal is 1, the maximum


def _mean(cosines: np.ndarray) -> float | None:
    """The mean cosine of all pairs; `None` for a single model."""
    count = len(cosines)
    if count < 2:
        return None
    # Without the diagonal, which is 1 for each model.
    return float((cosines.sum() - count) / (count * (count - 1)))


def _cell(number: float | None) -> str:
    """A cosine or a distance in the table."""
    return "-" if number is None else f"{number:.4f}"


def _body_notes(names: Sequence[str], grams: Sequence[TensorGram]) -> list[str]:
    """A note if two bodies do not look like fine-tunes of one model."""
    cosines = _cosines(grams)
    lowest = _lowest(cosines)
    if lowest is None or not lowest < RELATED:  # a comparison with NaN is false, and the merge refuses such models
        return []
    apart = ", ".join(_far_from_others(names, cosines))
    return [
        f"{apart}: the bodies do not look like fine-tunes of one model (cosine down to {lowest:.2f}; fine-tunes stay "
        f"above {RELATED}). The average is most likely useless. Average only runs that started from the same "
        "pre-trained weights"
    ]


def _heads_apart(names: Sequence[str], grams: Sequence[TensorGram]) -> HeadsApart | None:
    """The heads that do not look like fine-tunes of one; `None` if all do, or for heads of language models."""
    if sum(gram.elements for gram in grams) > HEAD_ELEMENTS:
        return None
    cosines = _cosines(grams)
    lowest = _lowest(cosines)
    if lowest is None or not lowest < RELATED:
        return None
    apart = _far_from_others(names, cosines)
    alike = tuple(int(name not in apart) for name in names)
    first_alone = (1, *(0 for _ in names[1:]))
    modules = tuple(dict.fromkeys(gram.module for gram in grams))
    return HeadsApart(apart, lowest, modules, alike if any(alike) else first_alone)


def _far_from_others(names: Sequence[str], cosines: np.ndarray) -> tuple[str, ...]:
    """The models that are far from most others; all of them if that applies to every model or to none."""
    import numpy as np

    odd = []
    for name, with_others in zip(names, cosines, strict=True):
        if np.median(with_others) < RELATED:
            odd.append(name)
    return tuple(odd if 0 < len(odd) < len(names) else names)
