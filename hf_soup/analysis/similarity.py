"""How similar the weights of models are, and in which directions they changed, from one pass over the files.

Everything is derived from inner products (`gram.py`), which are summed in float64.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..checkpoints.check import is_statistic
from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.layout import names_in_depth
from ..checkpoints.modules import by_depth
from ..display.results import Result
from ..display.tables import align
from ..errors import RecipeError, did_you_mean
from ..merging.agreement import Agreement
from .gram import (
    Signs,
    TensorGram,
    cosines_of,
    inner_of_deltas,
    inner_of_weights,
    inner_with_reference,
    measure_grams,
    refuse_diverged,
)
from .relation import Relation, relation_of
from .similarity_values import (
    HEAD,
    OF_CHANGES,
    PairSimilarity,
    Spread,
    TensorSimilarity,
    cells_of,
    flat_row,
    spread_of_pairs,
)


if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure

Of = Literal["deltas", "weights"]
LONGEST_HINT = 400  # characters of a hint, which may list the names of tensors


@dataclass(frozen=True, repr=False)
class Similarity(Result):
    """How similar the weights of models are.

    Args:
        names (`tuple[str, ...]`):
            The models.
        base (`str`, *optional*):
            Name of the base model that the models were fine-tuned from. Without one, signs and deltas are relative to
            the mean of all models.
        grams (`tuple[TensorGram, ...]`):
            Inner products of each floating-point tensor, from the bottom of the model up.
        counts (`dict[str, Signs]`):
            Tensor -> in how many elements the deltas point the same way.
    """

    names: tuple[str, ...]
    base: str | None
    grams: tuple[TensorGram, ...]
    counts: dict[str, Signs]

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
                `"deltas"` for what fine-tuning changed (without a base model, the differences from the mean), or
                `"weights"` for the weights themselves.

        Returns:
            `np.ndarray` of shape `(models, models)`, float64.
        """
        import numpy as np

        grams = self._of(where)
        if of == "weights":
            return inner_of_weights(grams)
        with_deltas = [gram for gram in grams if gram.known]
        if not with_deltas:
            return np.full((len(self.names), len(self.names)), np.nan)
        inner = inner_of_deltas(with_deltas)
        # Without a base model, the first model is the reference, and deltas are taken from the mean of all.
        return inner if self.base is not None else _centred(inner)

    def cosines(self, where: str | None = None, *, of: Of = "deltas") -> np.ndarray:
        """Cosines of all pairs, -1 to 1; 0 if either vector is zero, which has no direction. Arguments as in
        [`Similarity.inner`].
        """
        import numpy as np

        inner = self.inner(where, of=of)
        cosines = cosines_of(inner, of_zero=0.0)
        np.fill_diagonal(cosines, 1.0)
        return np.where(np.isnan(inner), np.nan, cosines)

    def distances(self, where: str | None = None) -> np.ndarray:
        """L2 distances of all pairs."""
        import numpy as np

        # Distances of deltas are more accurate; where the base model lacks a tensor, only its weights are known.
        all_known = all(gram.known for gram in self._of(where))
        inner = self.inner(where, of="deltas" if all_known else "weights")
        squares = np.diag(inner)[:, None] + np.diag(inner)[None, :] - 2 * inner
        return np.sqrt(np.maximum(squares, 0))  # rounding may give less than 0

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

        # The mean of a row is the inner product with the mean of all, and the mean of the matrix its squared length.
        inner = self.inner(where, of="weights")
        return _degrees(inner.mean(1), np.diag(inner) * inner.mean())

    def angles_to_base(self, where: str | None = None) -> np.ndarray:
        """The angle between each model and the base model, in degrees.

        Raises:
            [`RecipeError`]: without a base model.
        """
        import numpy as np

        if self.base is None:
            raise RecipeError("angles to the base model need one: base_model=...")
        with_deltas = [gram for gram in self._of(where) if gram.known]
        if not with_deltas:
            return np.zeros(len(self.names))
        total = inner_with_reference(with_deltas)
        deltas, along, base = total[:-1, :-1], total[:-1, -1], total[-1, -1]
        # A model is b + d: its inner product with b is bb + bd, and its squared length is bb + 2 bd + dd.
        return _degrees(base + along, base * (base + 2 * along + np.diag(deltas)))

    def signs(self, where: str | None = None) -> np.ndarray:
        """The share of elements with the same sign in the deltas of two models, among those that both changed."""
        import numpy as np

        balance = np.zeros((len(self.names), len(self.names)))
        both = np.zeros_like(balance)
        for gram in self._of(where):
            if gram.known:
                balance += self.counts[gram.tensor].balance
                both += self.counts[gram.tensor].both
        # With balance = same - opposite and both = same + opposite this is same / both.
        return np.divide(balance + both, 2 * both, out=np.full_like(both, np.nan), where=both > 0)

    def relation(self) -> Relation:
        """The evidence in the weights for a common start."""
        return relation_of(self.names, self.grams, with_base=self.base is not None)

    def by_module(self) -> tuple[TensorSimilarity, ...]:
        """A row for each named module, from the bottom up."""
        return tuple(self._similarity(name) for name in self.modules)

    def by_tensor(self) -> tuple[TensorSimilarity, ...]:
        """A row for each tensor, from the bottom up."""
        return tuple(self._similarity(gram.tensor) for gram in self.grams)

    def pairs(self) -> tuple[PairSimilarity, ...]:
        """A row for each pair of models; NaN where their changes are unknown."""
        import numpy as np

        weights, deltas = self.cosines(of="weights"), self.cosines()
        distances, signs = self.distances(), self.signs()
        if not self._changes_tell:
            deltas, signs = np.full_like(deltas, np.nan), np.full_like(signs, np.nan)
        lines = []
        for i, j in itertools.combinations(range(len(self.names)), 2):
            pair = PairSimilarity(
                self.names[i],
                self.names[j],
                weights=float(weights[i, j]),
                deltas=float(deltas[i, j]),
                distance=float(distances[i, j]),
                signs=float(signs[i, j]),
            )
            lines.append(pair)
        return tuple(lines)

    @property
    def _changes_tell(self) -> bool:
        """Whether changes are informative: the differences of two models from their own mean are always opposite."""
        return self.base is not None or len(self.names) > 2

    def table(self) -> str:
        """Body, head and each module: mean [minimum, maximum] over pairs. Columns of changes need a base model."""
        lines = [list(HEAD)]
        regions = {gram.region for gram in self.grams}  # a model may have no head
        for region in ("body", "head"):
            if region in regions:
                lines.append(cells_of(self._similarity(region)))
        lines += map(cells_of, self.by_module())
        if self.base is None:
            # Differences from the mean would replace changes, but their cosines have the same sum for any models.
            kept = [name not in OF_CHANGES for name in HEAD]
            lines = [list(itertools.compress(line, kept)) for line in lines]
        return align(lines)

    def to_pandas(self, by: Literal["module", "tensor", "pair"] = "module") -> pd.DataFrame:
        """A data frame with a row for each module, tensor, or pair of models."""
        import pandas as pd

        if by == "pair":
            return pd.DataFrame([pair._asdict() for pair in self.pairs()])
        similarities = self.by_module() if by == "module" else self.by_tensor()
        return pd.DataFrame([flat_row(similarity) for similarity in similarities])

    def to_dict(self) -> dict[str, Any]:
        """Names, pairs and modules as plain values."""
        return {
            "names": list(self.names),
            "base": self.base,
            "pairs": [pair._asdict() for pair in self.pairs()],
            "modules": [similarity._asdict() for similarity in self.by_module()],
        }

    def plot(self, picture: Literal["runs", "depth"] = "runs") -> Figure:
        """Draw a figure: `"runs"` is a heat map of all pairs, `"depth"` shows cosines from the bottom up.

        Without a base model, the heat map shows distances, since the changes of the models are unknown.

        Raises:
            [`MissingExtraError`]: if matplotlib is not installed.
        """
        from .pictures import plot_depth, plot_heat

        if picture not in ("runs", "depth"):
            raise RecipeError(f'there is no picture "{picture}"{did_you_mean(picture, ("runs", "depth"))}')
        if picture == "runs":
            if self.base is None:
                distances = self.distances()
                return plot_heat(
                    self.names, distances, label="L2 distance", title=_heat_title("Distance of weights", distances)
                )
            cosines = self.cosines()
            title = _heat_title("Cosine of what fine-tuning changed", cosines)
            return plot_heat(self.names, cosines, label="cosine", limits=(-1, 1), title=title)
        modules = self.by_module()
        of_weights = {module.name: module.weights for module in modules}
        of_changes = {module.name: module.deltas for module in modules}
        lines = {"of the weights": list(of_weights.values())}
        if self.base is None:
            return plot_depth(list(of_weights), lines, title=_depth_title("Weights", of_weights))
        lines = {"of what fine-tuning changed": list(of_changes.values()), **lines}
        return plot_depth(list(of_changes), lines, title=_depth_title("Changes", of_changes))

    def _of(self, where: str | None) -> list[TensorGram]:
        """The tensors that a name refers to: a module, a tensor, `"body"` or `"head"`; all by default."""
        grams = [gram for gram in self.grams if where in (None, gram.module, gram.tensor, gram.region)]
        if not grams:
            names = [*self.modules, *(gram.tensor for gram in self.grams), "body", "head"]
            hint = did_you_mean(str(where), names)[:LONGEST_HINT]
            raise RecipeError(f"there is no module or tensor {where!r}{hint}")
        return grams

    def _similarity(self, name: str) -> TensorSimilarity:
        """All measures of a module, a tensor, the body or the head."""
        grams = self._of(name)
        has_deltas = self._changes_tell and any(gram.known for gram in grams)
        deltas, same_sign = None, None
        # Zero deltas have no direction: they have neither cosines nor signs.
        if has_deltas and self.lengths(name).any():
            deltas, signs = spread_of_pairs(self.cosines(name)), spread_of_pairs(self.signs(name))
            same_sign = signs.mean if signs is not None else None
        distances = spread_of_pairs(self.distances(name))
        distance = distances.mean if distances is not None else 0.0  # with a single model
        lengths = self.lengths(name, of="weights")
        relative = None
        if lengths.any():
            relative = distance / float(lengths.mean())
        angle_to_base = None
        if self.base and has_deltas:
            angle_to_base = float(self.angles_to_base(name).mean())
        return TensorSimilarity(
            name=name,
            region=grams[0].region,
            elements=sum(gram.elements for gram in grams),
            weights=spread_of_pairs(self.cosines(name, of="weights")),
            deltas=deltas,
            distance=distance,
            relative=relative,
            angle_to_base=angle_to_base,
            angle_to_mean=float(self.angles_to_mean(name).mean()),
            signs=same_sign,
        )


def measure_similarity(
    checkpoints: Sequence[Checkpoint], base: Checkpoint | None = None, *, agreement: Agreement | None = None
) -> Similarity:
    """Read all weights once and compare them.

    Args:
        checkpoints (`Sequence[Checkpoint]`):
            Opened models that can be averaged.
        base (`Checkpoint`, *optional*):
            Base model that the models were fine-tuned from.
        agreement ([`Agreement`], *optional*):
            How models that differ are taken for like ones.

    Returns:
        [`Similarity`]

    Raises:
        [`IngredientError`]: if weights cannot be read or fetched, or hold NaN or infinity.
    """
    agreement = agreement or Agreement()
    first = checkpoints[0]
    measured = []
    for spec in first.specs.values():
        # Running statistics are not weights: they depend on the data of a model, not on its optimisation.
        if spec.is_floating and spec.numel and not is_statistic(spec.name):
            measured.append(spec)
    grams = measure_grams(checkpoints, base, measured, count_signs=True, moved=agreement.moved(first))
    refuse_diverged(checkpoints, base, grams.tensors)
    from_the_bottom = by_depth(first.specs, names_in_depth(first.config))
    places = {module: place for place, module in enumerate(from_the_bottom)}
    return Similarity(
        names=tuple(item.name for item in checkpoints),
        base=None if base is None else base.name,
        grams=tuple(sorted(grams.tensors, key=lambda gram: places[gram.module])),
        counts=grams.signs,
    )


def _centred(inner: np.ndarray) -> np.ndarray:
    """Inner products of the differences from the mean."""
    return inner - inner.mean(0)[None, :] - inner.mean(1)[:, None] + inner.mean()


def _degrees(inner: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Angles from inner products and the products of squared lengths; 0 if either vector is zero."""
    import numpy as np

    lengths = np.sqrt(np.maximum(squares, 0))  # cancelling sums may be rounded to less than zero
    cosines = np.divide(inner, lengths, out=np.ones_like(inner), where=lengths > 0)
    return np.degrees(np.arccos(cosines.clip(-1, 1)))


def _heat_title(what: str, matrix: np.ndarray) -> str:
    """The content of a heat map, with the mean of all pairs, if there are any."""
    spread = spread_of_pairs(matrix)
    return what if spread is None else f"{what}, whole model: {spread.mean:.3g} on average"


def _depth_title(what: str, spreads: Mapping[str, Spread | None]) -> str:
    """The modules in which models are most and least similar, as a title."""
    means = {}
    for name, spread in spreads.items():
        if spread is not None:
            means[name] = spread.mean
    if not means:
        return "Cosines from the bottom up"
    least, most = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
    return f"{what} are most alike in {most} ({means[most]:.2f}), least in {least} ({means[least]:.2f})"
