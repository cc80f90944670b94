"""The uniform soup shrunk towards the base model by how well fine-tunes agree: a choice without validation data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..checkpoints.checkpoint import Checkpoint
from ..merging.agreement import Agreement
from ..types import Mixture
from .similarity import measure_similarity


if TYPE_CHECKING:
    import numpy as np


def shrunk_towards_base(
    checkpoints: Sequence[Checkpoint], base: Checkpoint, agreement: Agreement
) -> tuple[Mixture, Mapping[str, float]]:
    """Mix the mean of fine-tunes with their base model, module by module, by the cosines of their changes alone.

    If fine-tuning moves all models in the same direction, the changes are signal and the mean is kept; if it moves
    them at right angles, most of each change is noise, which the base model lacks. A module that the base model lacks,
    such as a new head, is the plain mean.

    Args:
        checkpoints (`Sequence[Checkpoint]`):
            Opened fine-tunes.
        base ([`Checkpoint`]):
            Their base model, as an ingredient.
        agreement ([`Agreement`]):
            How models that differ are taken for like ones.

    Returns:
        `tuple[Mixture, Mapping[str, float]]`: the mixture, and the share of the mean in each module.

    Source: Jang et al. 2024, [Model Stock](https://arxiv.org/abs/2403.19522), equation 7.
    """
    similarity = measure_similarity(checkpoints, base, agreement=agreement)
    shares = {module: _share_of_mean(similarity.cosines(module)) for module in similarity.modules}
    count = len(checkpoints)
    rows = {}
    for module, share in shares.items():
        rows[module] = (*[share / count] * count, 1 - share)
    rows[""] = (*[1 / count] * count, 0.0)  # such as buffers, which are no module of their own
    ingredients = (*(checkpoint.ingredient for checkpoint in checkpoints), base.ingredient)
    return Mixture(ingredients, rows), shares


def _share_of_mean(cosines: np.ndarray) -> float:
    """The share of the mean, `t = N cos / (1 + (N - 1) cos)` with the mean cosine of two changes."""
    import numpy as np

    count = len(cosines)
    pairs = cosines[np.triu_indices(count, k=1)]
    if count < 2 or np.isnan(pairs).any():  # a base model that lacks the module
        return 1.0
    cosine = max(float(pairs.mean()), 0.0)
    return count * cosine / (1 + (count - 1) * cosine)
