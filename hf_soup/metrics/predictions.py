"""Predictions of models, in seven kinds, and values derived from them: probabilities, decisions, losses. Arrays only.

A task determines the kind of its models; metrics, ensembles and calibration depend on the kind only:
- `"classes"`: one of several classes, from logits;
- `"labels"`: each of several labels or not, from logits;
- `"values"`: a number;
- `"tokens"`: the next token, for which only the log-probability of the correct one is kept (vocabularies are large);
- `"ranking"`: the documents of a query, from a score of each;
- `"pixels"`: the class of each pixel of an image, of which counts are kept;
- `"boxes"`: the objects in an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..errors import EvaluationError


if TYPE_CHECKING:
    import numpy as np

ARRAYS = ("logits", "labels", "rows")
KINDS = ("classes", "labels", "values", "tokens", "ranking", "pixels", "boxes")
DISTANT = ("values", "tokens", "ranking", "pixels")  # kinds whose outputs differ by a distance, and not in decisions
WITHOUT_LOSS = ("ranking", "pixels", "boxes")
SCORED_BY = {  # kinds without decisions that are right or wrong -> what scores them
    "tokens": "a language model is scored by loss or perplexity, or by the texts that it generates.",
    "ranking": "a ranking is scored by ndcg@10, mrr@10, map and the like.",
    "pixels": "a segmentation is scored by mean_iou, mean_accuracy and overall_accuracy.",
    "boxes": "boxes are scored by coco_map, coco_map_50 and coco_map_75.",
}


class Predictions(NamedTuple):
    """Predictions of a model, item by item. An item is an example, or a word or token of one.

    Args:
        logits (`np.ndarray`, float32):
            `(items, classes)` before softmax; `(items, labels)` before sigmoid; `(items,)` values; `(items,)` natural
            logarithms of the probability of the right token; `(items,)` scores of documents; `(items, 2 * classes)`
            pixels that are right and that the model says have each class; `(items, 6)` boxes, those found and those
            there, as described in `hf_soup.tasks.object_detection`.
        labels (`np.ndarray`):
            `(items,)` right classes as the model counts them, int64; `(items, labels)` of 0 and 1; `(items,)` right
            values, float64; `(items,)` right tokens; `(items,)` 1 for relevant documents and 0 for others; `(items,
            classes)` pixels that have each class; `(items,)` classes of boxes that are there, and -1 for others.
        rows (`np.ndarray` of shape `(items,)`, int64):
            Row of the data set that each item belongs to, in the order of the data set: of a document, its query.
        kind (`str`, *optional*, defaults to `"classes"`):
            Kind of the predictions: one of those above.
        names (`tuple[str, ...]`, *optional*):
            Names of the classes.
        seconds (`float`, *optional*, defaults to 0.0):
            Time that the forward passes took.
        texts (`tuple[str, ...]`, *optional*):
            Text generated for each row, where the model was asked to generate.
        references (`tuple[str | tuple[str, ...], ...]`, *optional*):
            Reference text of each row, or several, each of which is right.
    """

    logits: np.ndarray
    labels: np.ndarray
    rows: np.ndarray
    kind: str = "classes"
    names: tuple[str, ...] = ()
    seconds: float = 0.0
    texts: tuple[str, ...] = ()
    references: tuple[str | tuple[str, ...], ...] = ()

    @property
    def examples(self) -> int:
        """How many rows of the data set these items belong to."""
        return len(set(self.rows.tolist()))

    @property
    def starts(self) -> np.ndarray:
        """Index of the first item of each row, whose items are adjacent."""
        import numpy as np

        return np.flatnonzero(np.diff(self.rows, prepend=-1))

    def take(self, rows: np.ndarray) -> Predictions:
        """The items of some rows, which may repeat: row `rows[i]` of these is row `i` of the result."""
        import numpy as np

        # Items are in the order of rows, so the items of a row are adjacent.
        starts, ends = np.searchsorted(self.rows, np.stack([rows, rows + 1]))
        sizes = ends - starts
        new_starts = np.cumsum(sizes) - sizes
        items = np.repeat(starts - new_starts, sizes) + np.arange(sizes.sum())
        new_rows = np.repeat(np.arange(len(rows)), sizes)
        result = self._replace(logits=self.logits[items], labels=self.labels[items], rows=new_rows)
        if not self.texts:
            return result
        texts = tuple(self.texts[row] for row in rows)
        references = tuple(self.references[row] for row in rows)
        return result._replace(texts=texts, references=references)


def probabilities(predictions: Predictions) -> np.ndarray:
    """Probabilities of classes or labels, in the shape of the logits, float64.

    Raises:
        [`EvaluationError`]: if the kind has none.
    """
    import numpy as np
    from scipy import special

    if predictions.kind not in ("classes", "labels"):
        raise EvaluationError(f"probabilities of classes were requested, but the model gives {predictions.kind}.")
    logits = predictions.logits.astype(np.float64)
    if predictions.kind == "classes":
        return special.softmax(logits, axis=-1)
    return special.expit(logits)  # sigmoid


def decisions(predictions: Predictions) -> np.ndarray:
    """The likeliest class, the labels with a probability above one half, or the value, in the shape of `labels`.

    Raises:
        [`EvaluationError`]: for kinds without decisions, such as tokens.
    """
    if predictions.kind in SCORED_BY:
        raise EvaluationError(SCORED_BY[predictions.kind])
    if predictions.kind == "classes":
        return predictions.logits.argmax(axis=-1)
    if predictions.kind == "labels":  # a probability above one half is a logit above 0
        return (predictions.logits > 0).astype(predictions.labels.dtype)
    return predictions.logits


def right(predictions: Predictions) -> np.ndarray:
    """Which items are correct, all labels of an example together; bool of shape `(items,)`."""
    agree = decisions(predictions) == predictions.labels
    if predictions.kind == "labels":
        return agree.all(axis=1)
    return agree


def check_has_loss(kind: str) -> None:
    """Raise an error for kinds of predictions that have no loss.

    Raises:
        [`EvaluationError`]: saying what works for them.
    """
    if kind in WITHOUT_LOSS:
        raise EvaluationError(
            f"models of {kind} are scored without a loss: strategies that need one (learned, ensemble_weights, "
            "bagged_greedy) do not work for them, and greedy, search and uniform soups do."
        )


def losses(predictions: Predictions) -> np.ndarray:
    """The loss of each item, float64 of shape `(items,)`, as defined by transformers' models.

    Cross-entropy, mean binary cross-entropy over the labels, squared error, or negative log-likelihood of the token.

    Raises:
        [`EvaluationError`]: for kinds without a loss, such as rankings.
    """
    import numpy as np
    from scipy import special

    check_has_loss(predictions.kind)
    logits, labels = predictions.logits.astype(np.float64), predictions.labels
    if predictions.kind == "classes":
        log_probabilities = special.log_softmax(logits, axis=-1)
        return -np.take_along_axis(log_probabilities, labels[:, None], axis=-1)[:, 0]
    if predictions.kind == "labels":  # log(1 - sigmoid(x)) = log(sigmoid(-x))
        return -np.mean(special.log_expit(np.where(labels > 0, logits, -logits)), axis=-1)
    if predictions.kind == "values":
        return np.square(logits - labels)
    return -logits


def disagreement(first: Predictions, second: Predictions) -> float:
    """How much the decisions of two models differ: the share of items with different decisions; for values and scores
    of documents the root mean square difference, for tokens that of the log-probabilities, and for pixels that of the
    counts.

    Raises:
        [`EvaluationError`]: if they did not see the same examples, or find boxes.
    """
    import numpy as np

    same_examples([first, second])
    if first.kind == "boxes":
        raise EvaluationError(
            "boxes of two models are not compared one by one: diverse, advise and measures of diversity do not work "
            "for object detection."
        )
    if first.kind in DISTANT:
        return float(np.sqrt(np.square(first.logits.astype(np.float64) - second.logits).mean()))
    differ = decisions(first) != decisions(second)
    if first.kind == "labels":
        differ = differ.any(axis=1)
    return float(differ.mean())


def joined(predictions: Sequence[Predictions]) -> Predictions:
    """Join predictions on different rows, in the order of the data set."""
    import numpy as np

    logits = np.concatenate([piece.logits for piece in predictions])
    labels = np.concatenate([piece.labels for piece in predictions])
    rows = np.concatenate([piece.rows for piece in predictions])
    order = np.argsort(rows, kind="stable")  # the words of a row keep their order
    seconds = sum(piece.seconds for piece in predictions)
    return predictions[0]._replace(logits=logits[order], labels=labels[order], rows=rows[order], seconds=seconds)


def same_examples(members: Sequence[Predictions]) -> None:
    """Refuse predictions on different examples.

    Raises:
        [`EvaluationError`]: if labels or rows differ.
    """
    import numpy as np

    first, *others = members
    for member in others:
        same_labels = np.array_equal(first.labels, member.labels)
        same_rows = np.array_equal(first.rows, member.rows)
        if not same_labels or not same_rows:
            raise EvaluationError("the predictions have to be for the same examples with the same classes.")
