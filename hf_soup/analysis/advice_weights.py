"""Advice based on the weights alone: the number of models, their starting points, and their architecture."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from ..checkpoints.check import is_statistic
from ..checkpoints.checkpoint import Checkpoint
from ..errors import DataError, listed
from ..tasks import task_of
from .advice import Commands, Confidence, Given, Piece
from .advice_losses import Losses
from .relation import HEADS_APART, RELATED, HeadsApart
from .similarity import Similarity


FEW = 4  # models, below which a search has hardly anything to choose from
# Cosine of two fine-tunes' changes above which they are the same model trained twice. For fine-tunes of one sweep that
# differ in learning rate or seed, at most 0.89 was measured, see docs/advice.md.
SAME = 0.98


def number_pieces(models: int, commands: Commands) -> list[Piece]:
    """Advice on whether there are enough models to average and to choose from.

    Args:
        models (`int`):
            Number of models.
        commands ([`Commands`]):
            Commands for the same models.
    """
    if models == 1:
        piece = Piece(
            "number",
            advice="Fine-tune it again from the same start, or mix it with its base model (WiSE-FT).",
            evidence="1 model",
            confidence="high",
            command=commands.interpolate,
            stops=True,
        )
        return [piece]
    if models < FEW:
        piece = Piece(
            "number",
            advice="A search has few subsets to choose from.",
            evidence=f"{models} models, {2**models - 1} subsets",
            confidence="medium",
        )
        return [piece]
    return []


def start_pieces(
    similarity: Similarity | None, losses: Losses | None, commands: Commands, best: str | None = None
) -> list[Piece]:
    """Advice on whether bodies and heads look like fine-tunes of the same start.

    Args:
        similarity ([`Similarity`], *optional*):
            Similarity of the models; a single model has none.
        losses ([`Losses`], *optional*):
            Loss that an average of the models costs, where it was measured.
        commands ([`Commands`]):
            Commands for the same models.
        best (`str`, *optional*):
            Model with the best score, where the models were scored.
    """
    if similarity is None:
        return []
    relation = similarity.relation()
    body, apart = relation.body, relation.heads_apart
    # Unrelated bodies are a sufficient reason: heads are mentioned only if the bodies are similar.
    if body is not None and body < RELATED:
        return [_other_bodies(body, losses, commands)]
    if apart is None:
        return []
    if best is not None:
        apart = apart.with_head_of(similarity.names.index(best))
    return [_other_heads(similarity.names, apart, 1.0 if body is None else body, losses, commands)]


def _other_bodies(cosine: float, losses: Losses | None, commands: Commands) -> Piece:
    """Advice on bodies with different starts, which are a reason against a soup even if its loss is not higher."""
    confidence: Confidence = "high"
    if losses is not None and not losses.soup_is_worse:
        confidence = "medium"
    return Piece(
        "start",
        advice="Their bodies do not look like fine-tunes of one model. Take the best one, or an ensemble.",
        evidence=f"lowest cosine of two bodies {cosine:.2f}{_appended(losses)}",
        confidence=confidence,
        command=f"{commands.check} --deep",
        stops=True,
        general=f"bodies of fine-tunes of one model have cosines above {RELATED}; the average of models that started "
        "apart is noise.",
    )


def _other_heads(
    names: Sequence[str], apart: HeadsApart, body: float, losses: Losses | None, commands: Commands
) -> Piece:
    """Advice on heads with different starts; the losses show whether they do harm."""
    takers = [name for name, weight in zip(names, apart.weights, strict=True) if weight]
    remedy = f"average the bodies and take the head of {listed(takers)} alone"
    piece = Piece(
        "heads",
        advice=f"{remedy[0].upper()}{remedy[1:]}: the {HEADS_APART}.",
        evidence=f"lowest cosine of two heads {apart.cosine:.2f}, of two bodies {body:.2f}{_appended(losses)}",
        confidence="medium",
        command=commands.weighted(apart.options),
        stops=True,
        general=f"heads of fine-tunes of one head have cosines above {RELATED}, as those of `hf-soup sweep` do; "
        "averages of heads that started apart cost between nothing and 19 points where hf_soup was measured.",
    )
    if losses is None:
        return piece
    if losses.soup_is_worse:
        above = f"The soup's loss is {losses.soup - losses.single:.3f} above its models'"
        return piece._replace(advice=f"{above}, whose {HEADS_APART}: {remedy}.", confidence="high")
    if losses.has_barriers:
        between = "The loss rises half-way between models"
        return piece._replace(advice=f"{between} whose {HEADS_APART}: {remedy}.", confidence="high")
    flat = f"Their {HEADS_APART}, and yet the soup's loss is not clearly above theirs. One head is safer."
    return piece._replace(advice=flat, stops=False)


def _appended(losses: Losses | None) -> str:
    """The losses as the end of a piece of evidence; empty if none were measured."""
    return "" if losses is None else f"; {losses.sentence}"


def change_pieces(similarity: Similarity | None, commands: Commands) -> list[Piece]:
    """Advice on whether fine-tuning has changed the models in different ways, if their base model is known.

    Args:
        similarity ([`Similarity`], *optional*):
            Similarity of the models.
        commands ([`Commands`]):
            Commands for the same models.
    """
    if similarity is None or similarity.base is None:
        return []
    cosines = similarity.cosines("body")
    pairs = list(itertools.combinations(range(len(cosines)), 2))
    mean = sum(cosines[pair] for pair in pairs) / len(pairs)
    if mean <= SAME:
        return []
    piece = Piece(
        "diversity",
        advice="They changed in nearly the same way: vary data order, learning rate or augmentation more.",
        evidence=f"mean cosine of their changes {mean:.3f}",
        confidence="medium",
        command=commands.vary,
        general="an average of models that are nearly the same is nearly the same model.",
    )
    return [piece]


def architecture_pieces(checkpoint: Checkpoint, commands: Commands) -> list[Piece]:
    """Advice that depends on the architecture of the models.

    Args:
        checkpoint (`Checkpoint`):
            One of the models.
        commands ([`Commands`]):
            Commands for the same models.
    """
    pieces = []
    statistics = sum(map(is_statistic, checkpoint.specs))
    if statistics:
        advice = "Give training data, on which the running statistics of the soup are estimated again."
        if commands.given.batchnorm_data != Given().batchnorm_data:
            advice = "The running statistics of the soup are estimated again on the training data that was given."
        piece = Piece(
            "BatchNorm",
            advice=advice,
            evidence=f"{statistics} running statistics of BatchNorm",
            confidence="high",
            command=commands.uniform,
            general="averaged running statistics do not match averaged weights.",
        )
        pieces.append(piece)
    try:
        task = task_of(checkpoint.config)
    except DataError:  # a bare body has no task
        return pieces
    if task in ("text-generation", "text2text-generation"):
        piece = Piece(
            "generation",
            advice="Select by the generated texts, not by the loss alone.",
            evidence=f"the models do {task}",
            confidence="medium",
            command="hf_soup.Evaluator(data, metric=..., generate={'max_new_tokens': 64})",
            general="a soup with a lower loss may write worse texts.",
        )
        pieces.append(piece)
    return pieces
