"""What models say, in four kinds, and what follows from it: probabilities, decisions, losses. Arrays only.

Which kind a model's output is its task says; metrics, ensembles and calibration know the kinds and no task:
- `"classes"`: one of several classes, from logits;
- `"labels"`: each of several labels or not, from logits;
- `"values"`: a number;
- `"tokens"`: the next token, of which only the log-probability of the right one is kept (a vocabulary is large).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from .errors import EvaluationError


if TYPE_CHECKING:
    import numpy as np

ARRAYS = ("logits", "labels", "rows")
KINDS = ("classes", "labels", "values", "tokens")


class Predictions(NamedTuple):
    """What a model said, item by item. An item is an example, or a word or token of one.

    Args:
        logits (`np.ndarray`, float32):
            `(items, classes)` before softmax; `(items, labels)` before sigmoid; `(items,)` values; `(items,)` natural
            logarithms of the probability of the right token.
        labels (`np.ndarray`):
            `(items,)` right classes as the model counts them, int64; `(items, labels)` of 0 and 1; `(items,)` right
            values, float64; `(items,)` right tokens.
        rows (`np.ndarray` of shape `(items,)`, int64):
            Which row of the data set each item is of; in the order of the data set.
        kind (`str`, *optional*, defaults to `"classes"`):
            One of the four kinds above.
        names (`tuple[str, ...]`, *optional*):
            Of the classes.
        seconds (`float`, *optional*, defaults to 0.0):
            What the forward passes took.
        texts (`tuple[str, ...]`, *optional*):
            What the model wrote for each row, where it was asked to generate.
        references (`tuple[str, ...]`, *optional*):
            What it should have written.
    """

    logits: np.ndarray
    labels: np.ndarray
    rows: np.ndarray
    kind: str = "classes"
    names: tuple[str, ...] = ()
    seconds: float = 0.0
    texts: tuple[str, ...] = ()
    references: tuple[str, ...] = ()

    @property
    def examples(self) -> int:
        """How many rows of the data set these items are of."""
        return len(set(self.rows.tolist()))

    def take(self, rows: np.ndarray) -> Predictions:
        """The items of some rows, which may repeat: row `rows[i]` of these is row `i` of the result."""
        import numpy as np

        bounds = np.searchsorted(self.rows, np.stack([rows, rows + 1]))
        sizes = bounds[1] - bounds[0]
        items = np.repeat(bounds[0] - np.concatenate([[0], np.cumsum(sizes)[:-1]]), sizes) + np.arange(sizes.sum())
        new_rows = np.repeat(np.arange(len(rows)), sizes)
        result = self._replace(logits=self.logits[items], labels=self.labels[items], rows=new_rows)
        if not self.texts:
            return result
        texts, references = (tuple(of[row] for row in rows) for of in (self.texts, self.references))
        return result._replace(texts=texts, references=references)


def probabilities(said: Predictions) -> np.ndarray:
    """Probabilities of classes or labels, in the shape of the logits, float64.

    Raises:
        [`EvaluationError`]: if the kind has none.
    """
    import numpy as np
    from scipy import special

    if said.kind not in ("classes", "labels"):
        raise EvaluationError(f"probabilities of classes are asked for, and the model gives {said.kind}.")
    logits = said.logits.astype(np.float64)
    return special.softmax(logits, axis=-1) if said.kind == "classes" else special.expit(logits)


def decisions(said: Predictions) -> np.ndarray:
    """The likeliest class, each label that is likelier than not, or the value, in the shape of `labels`.

    Raises:
        [`EvaluationError`]: for tokens.
    """
    if said.kind == "tokens":
        raise EvaluationError("a language model is scored by loss or perplexity, or by the texts that it generates.")
    if said.kind == "classes":
        return said.logits.argmax(axis=-1)
    return (said.logits > 0).astype(said.labels.dtype) if said.kind == "labels" else said.logits


def right(said: Predictions) -> np.ndarray:
    """Which items are right, all labels of an example together; bool of shape `(items,)`."""
    agree = decisions(said) == said.labels
    return agree.all(axis=1) if said.kind == "labels" else agree


def losses(said: Predictions) -> np.ndarray:
    """The loss of each item, float64 of shape `(items,)`, as transformers' models define it.

    Cross-entropy, mean binary cross-entropy over the labels, squared error, or negative log-likelihood of the token.
    """
    import numpy as np
    from scipy import special

    logits = said.logits.astype(np.float64)
    if said.kind == "classes":
        return -np.take_along_axis(special.log_softmax(logits, axis=-1), said.labels[:, None], axis=-1)[:, 0]
    if said.kind == "labels":
        return -np.mean(special.log_expit(np.where(said.labels > 0, logits, -logits)), axis=-1)
    return np.square(logits - said.labels) if said.kind == "values" else -logits


def disagreement(a: Predictions, b: Predictions) -> float:
    """How differently two models decide: the share of items with another decision, of values the root mean square
    difference, of tokens that of the log-probabilities.

    Raises:
        [`EvaluationError`]: if they did not see the same examples.
    """
    import numpy as np

    same_examples([a, b])
    if a.kind in ("values", "tokens"):
        return float(np.sqrt(np.square(a.logits.astype(np.float64) - b.logits).mean()))
    differ = decisions(a) != decisions(b)
    return float((differ.any(axis=1) if a.kind == "labels" else differ).mean())


def joined(parts: Sequence[Predictions]) -> Predictions:
    """Predictions on different rows as one, in the order of the data set."""
    import numpy as np

    logits, labels, rows = (np.concatenate([getattr(part, key) for part in parts]) for key in ARRAYS)
    order = np.argsort(rows, kind="stable")
    seconds = sum(part.seconds for part in parts)
    return parts[0]._replace(logits=logits[order], labels=labels[order], rows=rows[order], seconds=seconds)


def same_examples(members: Sequence[Predictions]) -> None:
    """Refuse predictions on different examples.

    Raises:
        [`EvaluationError`]: if labels or rows differ.
    """
    import numpy as np

    first = members[0]
    if any(not np.array_equal(getattr(first, key), getattr(m, key)) for m in members for key in ("labels", "rows")):
        raise EvaluationError("these predictions have to be of the same examples with the same classes.")
