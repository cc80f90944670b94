"""How alike the weights of models are, and the ways that they went from their start: one pass over the files.

Everything here follows from inner products (`checkpoints/gram.py`), which are exact sums in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ..checkpoints.check import is_statistic
from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.gram import Signs, inner_products
from ..checkpoints.layout import names_in_depth
from ..checkpoints.modules import by_depth, group, head_names, own_prefix
from ..errors import IngredientError, RecipeError, did_you_mean
from ..merging.agreement import Agreement
from ..tables import align


if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure

Of = Literal["deltas", "weights"]


class TensorGram(NamedTuple):
    """Inner products of one tensor.

    Args:
        tensor (`str`):
            Its name on disk.
        module (`str`):
            The named module that it belongs to.
        part (`str`):
            `"body"` or `"head"`.
        elements (`int`):
            How many numbers it holds.
        inner (`np.ndarray` of shape `(models, models)`):
            Of the differences from the base model, and one more row and column for the base itself; without a base
            the first model stands for it, so that what is equal in all is exactly equal.
        signs ([`Signs`]):
            Of the deltas; without a base model of the differences from the mean.
        known (`bool`):
            Whether the base model has it.
    """

    tensor: str
    module: str
    part: str
    elements: int
    inner: np.ndarray
    signs: Signs
    known: bool


class PartSimilarity(NamedTuple):
    """How alike one tensor or module is, over all pairs of models.

    Args:
        name (`str`):
            Of the tensor or module.
        part (`str`):
            `"body"` or `"head"`.
        elements (`int`):
            How many numbers it holds.
        weights (`tuple[float, float, float]`):
            Cosine of the weights: mean, least and greatest over pairs.
        deltas (`tuple[float, float, float]`, *optional*):
            Cosine of what fine-tuning changed, likewise.
        distance (`float`):
            Mean L2 distance of two models.
        relative (`float`, *optional*):
            The same, relative to the mean length of the weights.
        angle_to_base (`float`, *optional*):
            Mean angle between a model and the base model, in degrees.
        angle_to_mean (`float`, *optional*):
            Mean angle between a model and the mean of all, in degrees.
        signs (`float`, *optional*):
            Mean share of elements whose deltas point the same way, of those that both changed.
    """

    name: str
    part: str
    elements: int
    weights: tuple[float, float, float] | None
    deltas: tuple[float, float, float] | None
    distance: float
    relative: float | None
    angle_to_base: float | None
    angle_to_mean: float | None
    signs: float | None


@dataclass(frozen=True)
class Similarity:
    """How alike the weights of models are.

    Args:
        names (`tuple[str, ...]`):
            The models.
        base (`str`, *optional*):
            What they were fine-tuned from; without it the mean of all stands for it in signs and deltas.
        grams (`tuple[TensorGram, ...]`):
            One for each floating-point tensor, from the bottom up.
    """

    names: tuple[str, ...]
    base: str | None
    grams: tuple[TensorGram, ...]

    @property
    def modules(self) -> tuple[str, ...]:
        """The named modules from the bottom up."""
        return tuple(dict.fromkeys(gram.module for gram in self.grams))

    def inner(self, where: str | None = None, *, of: Of = "deltas") -> np.ndarray:
        """Inner products of all models.

        Args:
            where (`str`, *optional*):
                A module, a tensor, `"body"` or `"head"`; the whole model by default.
            of (`str`, *optional*, defaults to `"deltas"`):
                Of what fine-tuning changed (without a base model: of the differences from the mean), or of the
                `"weights"`.

        Returns:
            `np.ndarray` of shape `(models, models)`, float64.
        """
        import numpy as np

        n = len(self.names)
        grams = [gram for gram in self._of(where) if of == "weights" or gram.known]
        if not grams:
            return np.full((n, n), np.nan)
        total = sum(gram.inner for gram in grams)
        if of == "deltas":
            return _centred(total[:n, :n]) if self.base is None else total[:n, :n]
        along = total[:n, n]  # (b + d_i)(b + d_j) = bb + b d_i + b d_j + d_i d_j
        return total[:n, :n] + along[:, None] + along[None, :] + total[n, n]

    def cosines(self, where: str | None = None, *, of: Of = "deltas") -> np.ndarray:
        """Cosines of all pairs, -1 to 1; 0 where one of the two is zero, which points nowhere. Arguments as of
        [`Similarity.inner`].
        """
        import numpy as np

        inner = self.inner(where, of=of)
        lengths = np.sqrt(np.maximum(np.diag(inner), 0))
        outer = np.outer(lengths, lengths)
        found = np.divide(inner, outer, out=np.zeros_like(inner), where=outer > 0).clip(-1, 1)
        np.fill_diagonal(found, 1.0)
        return np.where(np.isnan(inner), np.nan, found)

    def distances(self, where: str | None = None) -> np.ndarray:
        """L2 distances of all pairs."""
        import numpy as np

        lacking = any(not gram.known for gram in self._of(where))  # whose deltas are not known, but their weights
        inner = self.inner(where, of="weights" if lacking else "deltas")
        squares = np.diag(inner)[:, None] + np.diag(inner)[None, :] - 2 * inner
        return np.sqrt(np.maximum(squares, 0))

    def lengths(self, where: str | None = None, *, of: Of = "deltas") -> np.ndarray:
        """The L2 norm of each model's deltas or weights."""
        import numpy as np

        return np.sqrt(np.maximum(np.diag(self.inner(where, of=of)), 0))

    def angles(self, where: str | None = None) -> np.ndarray:
        """Angles between the deltas of all pairs in degrees: what Model Stock calls the angle between two fine-tunes.

        Source: Jang et al. 2024, [Model Stock](https://arxiv.org/abs/2403.19522), section 3.
        """
        import numpy as np

        return np.degrees(np.arccos(self.cosines(where)))

    def angles_to_mean(self, where: str | None = None) -> np.ndarray:
        """The angle between each model and the mean of all, in degrees."""
        import numpy as np

        inner = self.inner(where, of="weights")
        return _degrees(inner.mean(1), np.sqrt(np.diag(inner) * inner.mean()))

    def angles_to_base(self, where: str | None = None) -> np.ndarray:
        """The angle between each model and the base model, in degrees.

        Raises:
            [`RecipeError`]: without a base model.
        """
        import numpy as np

        if self.base is None:
            raise RecipeError("angles to the base model need one: base_model=...")
        n = len(self.names)
        grams = [gram.inner for gram in self._of(where) if gram.known]
        total = sum(grams, np.zeros((n + 1, n + 1)))
        base, along = total[n, n], total[:n, n]
        return _degrees(base + along, np.sqrt(base * (base + 2 * along + np.diag(total)[:n])))

    def signs(self, where: str | None = None) -> np.ndarray:
        """The share of elements in which the deltas of two models have the same sign, of those that both changed."""
        import numpy as np

        zero = np.zeros((len(self.names),) * 2)
        grams = [gram for gram in self._of(where) if gram.known]
        balance = sum((gram.signs.balance for gram in grams), zero)
        both = sum((gram.signs.both for gram in grams), zero)
        return np.divide(balance + both, 2 * both, out=np.full_like(both, np.nan), where=both > 0)

    def by_module(self) -> tuple[PartSimilarity, ...]:
        """A line for each named module, from the bottom up."""
        return tuple(self._part(name) for name in self.modules)

    def by_tensor(self) -> tuple[PartSimilarity, ...]:
        """A line for each tensor, from the bottom up."""
        return tuple(self._part(gram.tensor) for gram in self.grams)

    def table(self) -> str:
        """The whole, body and head, and each module: mean [least, greatest] over pairs."""
        change = "change" if self.base else "difference from the mean"
        head = ["module", "cosine of weights", f"cosine of {change}", "same sign", "distance", "angle to mean"]
        lines = [[*head, *(["angle to base"] if self.base else [])]]
        parts = [part for part in ("body", "head") if any(gram.part == part for gram in self.grams)]
        for found in [*(self._part(part) for part in parts), *self.by_module()]:
            lines.append([*_cells(found), *([_number(found.angle_to_base, ".2f")] if self.base else [])])
        return align(lines)

    def to_pandas(self, by: Literal["module", "tensor", "pair"] = "module") -> pd.DataFrame:
        """A data frame with a line for each module, tensor, or pair of models."""
        import pandas as pd

        if by == "pair":
            return pd.DataFrame(self._pairs())
        rows = self.by_module() if by == "module" else self.by_tensor()
        spread = ("mean", "min", "max")
        flat = [
            {
                **{key: value for key, value in row._asdict().items() if key not in ("weights", "deltas")},
                **{
                    f"{key}_{kind}": values and values[at]
                    for key, values in (("weights", row.weights), ("deltas", row.deltas))
                    for at, kind in enumerate(spread)
                },
            }
            for row in rows
        ]
        return pd.DataFrame(flat)

    def to_dict(self) -> dict[str, Any]:
        """Names, pairs and modules as plain values."""
        rows = [row._asdict() for row in self.by_module()]
        return {"names": list(self.names), "base": self.base, "pairs": self._pairs(), "modules": rows}

    def plot(self, kind: Literal["runs", "depth"] = "runs") -> Figure:
        """A picture: `"runs"` is a heat map of the cosines of all pairs, `"depth"` cosines from the bottom up.

        Raises:
            [`MissingExtraError`]: if matplotlib is not installed.
        """
        from .pictures import plot_depth, plot_heat

        if kind not in ("runs", "depth"):
            raise RecipeError(f'there is no picture "{kind}"{did_you_mean(kind, ("runs", "depth"))}')
        what = "what fine-tuning changed" if self.base else "differences from the mean"
        if kind == "runs":
            cosines = self.cosines()
            mean = _spread(cosines)
            title = f"Cosine of {what}, whole model: {mean[0]:.2f} on average" if mean else f"Cosine of {what}"
            return plot_heat(self.names, cosines, label="cosine", limits=(-1, 1), title=title)
        rows = self.by_module()
        lines = {f"of {what}": [row.deltas for row in rows], "of the weights": [row.weights for row in rows]}
        return plot_depth([row.name for row in rows], lines, title=_depth_title(rows))

    def _pairs(self) -> list[dict[str, Any]]:
        weights, deltas = self.cosines(of="weights"), self.cosines()
        distances, signs = self.distances(), self.signs()
        return [
            {
                "one": one,
                "other": other,
                "weights": float(weights[i, j]),
                "deltas": float(deltas[i, j]),
                "distance": float(distances[i, j]),
                "signs": float(signs[i, j]),
            }
            for i, one in enumerate(self.names)
            for j, other in enumerate(self.names)
            if i < j
        ]

    def _of(self, where: str | None) -> list[TensorGram]:
        found = [gram for gram in self.grams if where in (None, gram.module, gram.tensor, gram.part)]
        if not found:
            known = [*self.modules, *(gram.tensor for gram in self.grams), "body", "head"]
            raise RecipeError(f"there is no module or tensor {where!r}{did_you_mean(str(where), known)[:400]}")
        return found

    def _part(self, name: str) -> PartSimilarity:
        grams = self._of(name)
        known = [gram for gram in grams if gram.known]
        distances, lengths = self.distances(name), self.lengths(name, of="weights")
        distance = _spread(distances)
        far = distance[0] if distance else 0.0
        signs = _spread(self.signs(name))
        moved = bool(known) and self.lengths(name).any()
        return PartSimilarity(
            name,
            grams[0].part,
            sum(gram.elements for gram in grams),
            _spread(self.cosines(name, of="weights")),
            _spread(self.cosines(name)) if moved else None,
            far,
            far / float(lengths.mean()) if lengths.any() else None,
            float(self.angles_to_base(name).mean()) if self.base and known else None,
            float(self.angles_to_mean(name).mean()),
            signs[0] if signs and moved else None,
        )


def measure_similarity(
    checkpoints: Sequence[Checkpoint], base: Checkpoint | None = None, *, agreement: Agreement | None = None
) -> Similarity:
    """Read all weights once and compare them.

    Args:
        checkpoints (`Sequence[Checkpoint]`):
            Opened models that can be averaged.
        base (`Checkpoint`, *optional*):
            What they were fine-tuned from.
        agreement ([`Agreement`], *optional*):
            How models that differ are taken for like ones.

    Returns:
        [`Similarity`]

    Raises:
        [`IncompatibleError`]: if they do not have the same tensors.
        [`IngredientError`]: if weights cannot be read or fetched, or hold NaN or infinity.
    """
    import numpy as np

    agreement = agreement or Agreement()
    agreement.check(checkpoints).raise_for_problems()
    specs = checkpoints[0].specs
    prefix, heads, names = own_prefix(specs), set(head_names(specs)), tuple(item.name for item in checkpoints)
    measured = [spec for spec in specs.values() if spec.is_floating and not is_statistic(spec.name) and spec.numel]
    items = [*checkpoints, checkpoints[0] if base is None else base]
    shape = (len(names), len(names))
    grams = {
        spec.name: TensorGram(
            spec.name,
            group(spec.name, prefix),
            "head" if spec.name in heads else "body",
            spec.numel,
            np.zeros((len(items), len(items))),
            Signs(np.zeros(shape), np.zeros(shape)),
            base is None or (spec.name in base.specs and base.specs[spec.name].shape == spec.shape),
        )
        for spec in measured
    }
    inner_products(
        items,
        measured,
        lambda name: grams[name].inner,
        deltas=True,
        signs_of=lambda name: grams[name].signs,
        from_mean=base is None,
        moved=agreement.moved(checkpoints[0]),
    )
    for at, item in reversed(list(enumerate(items))):  # the base first, which the others are measured from
        if not all(np.isfinite(gram.inner[at, at]) for gram in grams.values()):
            raise IngredientError(f"{item.name!r} holds NaN or infinity: that run diverged or was saved badly.")
    order = {name: at for at, name in enumerate(by_depth(specs, names_in_depth(checkpoints[0].config)))}
    in_turn = sorted(grams.values(), key=lambda gram: order.get(gram.module, len(order)))
    return Similarity(names, base.name if base is not None else None, tuple(in_turn))


def _centred(inner: np.ndarray) -> np.ndarray:
    """Inner products of the differences from the mean."""
    return inner - inner.mean(0)[None, :] - inner.mean(1)[:, None] + inner.mean()


def _degrees(inner: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.degrees(np.arccos(np.divide(inner, lengths, out=np.ones_like(inner), where=lengths > 0).clip(-1, 1)))


def _spread(matrix: np.ndarray) -> tuple[float, float, float] | None:
    """Mean, least and greatest of all pairs; nothing of one alone."""
    import numpy as np

    pairs = matrix[np.triu_indices(len(matrix), 1)]
    pairs = pairs[np.isfinite(pairs)]
    return (float(pairs.mean()), float(pairs.min()), float(pairs.max())) if len(pairs) else None


def _cells(found: PartSimilarity) -> list[str]:
    return [
        found.name,
        *(f"{v[0]:.3f} [{v[1]:.3f}, {v[2]:.3f}]" if v else "-" for v in (found.weights, found.deltas)),
        _number(found.signs, ".1%"),
        _number(found.distance, ".4g"),
        _number(found.angle_to_mean, ".2f"),
    ]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _depth_title(rows: Sequence[PartSimilarity]) -> str:
    known = [row for row in rows if row.deltas]
    if not known:
        return "Cosines from the bottom up"
    least, most = (end(known, key=lambda row: row.deltas[0]) for end in (min, max))
    return f"Most alike: {most.name} ({most.deltas[0]:.2f}); least: {least.name} ({least.deltas[0]:.2f})"
