"""Mixing weights by gradient descent on the validation loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from ..errors import RecipeError
from ..plugins import strategy
from ..progress import progress_bar
from ..types import Choice, Gradient, Ingredient, Mixture, Trial, Trials
from ._search import Search, mixture_by_module


if TYPE_CHECKING:
    import numpy as np


@strategy(linear_only=True)
def learned(
    ingredients: Sequence[Ingredient],
    trials: Trials,
    *,
    by: Literal["model", "module"] = "model",
    learning_rate: float = 0.1,
    epochs: int = 5,
    train_batch_size: int = 32,
    weight_decay: float = 0.0,
    held_back: float = 0.2,
    patience: int = 2,
    seed: int = 0,
) -> Choice:
    """Learn the weights: a softmax of free numbers, and a temperature, by AdamW on most of validation.

    One model and its gradient are in memory, however many ingredients there are: the derivative by an ingredient's
    weight is the dot product of the model's gradient with the ingredient, which streams past.

    Args:
        ingredients (`Sequence[Ingredient]`):
            The ingredients, in any order.
        trials ([`Trials`]):
            Gives the gradient, and scores mixtures on the part that is held back.
        by (`str`, *optional*, defaults to `"model"`):
            One weight for each ingredient, or for each named `"module"` of each.
        learning_rate (`float`, *optional*, defaults to 0.1):
            Of AdamW.
        epochs (`int`, *optional*, defaults to 5):
            Passes over the examples at most.
        train_batch_size (`int`, *optional*, defaults to 32):
            Examples for each step.
        weight_decay (`float`, *optional*, defaults to 0.0):
            Of AdamW: pulls the weights towards equal ones.
        held_back (`float`, *optional*, defaults to 0.2):
            Which part of validation decides when to stop, and which epoch's weights are taken.
        patience (`int`, *optional*, defaults to 2):
            Stop after as many epochs without a gain there.
        seed (`int`, *optional*, defaults to 0):
            Of the split and the order of the examples; that of the merge.

    Returns:
        [`Choice`]: best alone first, with the learned temperature, which the soup's weights do not hold.

    Raises:
        [`RecipeError`]: if a number is out of its range, or no example is left to learn or to stop by.

    Source: Wortsman et al. 2022, [Model soups](https://arxiv.org/abs/2203.05482).
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    order = rng.permutation(trials.examples)
    judging = round(held_back * len(order)) if 0 < held_back < 1 else 0
    if not 0 < judging < len(order):
        raise RecipeError(f"held_back is {held_back}: of {len(order)} examples some are to learn, some to stop by.")
    if min(epochs, train_batch_size, patience) < 1 or not 0 < learning_rate <= 1e6 or not 0 <= weight_decay <= 1e6:
        raise RecipeError(
            "epochs, train_batch_size and patience are 1 or more, learning_rate is more than 0 and weight_decay 0 or "
            "more, both up to 1e6."
        )
    search = Search(ingredients, trials)
    if len(search.ranked) == 1:
        return search.result()
    judge, examples = trials.subset(np.sort(order[:judging])), order[judging:]
    modules = trials.modules if by == "module" else ("",)
    # a row for each module; the first number of one more row is the log of what logits are multiplied with
    free = np.zeros((len(modules) + 1, len(search.ranked)))
    optimizer = AdamW(free.shape, learning_rate, weight_decay)

    def mixture_now() -> Mixture:
        return mixture_by_module(search.ranked, modules, _softmax(free[:-1]))

    best, best_scale, epochs_without_gain = mixture_now(), 1.0, 0
    best_score = judge.score(best)
    steps_per_epoch = -(-len(examples) // train_batch_size)
    with progress_bar(total=epochs * steps_per_epoch, desc="Learning weights", unit="step") as bar:
        for epoch in range(1, epochs + 1):
            for batch in np.array_split(rng.permutation(examples), steps_per_epoch):
                gradient = trials.gradient(mixture_now(), np.sort(batch), float(np.exp(free[-1, 0])))
                optimizer.step(free, _by_free_numbers(gradient, modules, free))
                bar.set_postfix_str(f"loss {gradient.loss:.4f}")
                bar.update()
            mixture = mixture_now()
            score = judge.score(mixture)
            epochs_without_gain = 0 if score.beats(best_score) else epochs_without_gain + 1
            kept = score.beats(best_score, ties=True)  # of equals the one with the lower loss
            why = f"{score} on the part held back, loss {gradient.loss:.4f}"
            search.tried.append(Trial(f"epoch {epoch}", kept, why))
            if kept:
                best, best_score, best_scale = mixture, score, float(np.exp(free[-1, 0]))
            if epochs_without_gain == patience:
                break
    score = trials.score(best)
    search.note(f"learned by {by}", best, score, True)
    search.take(best, score)
    return search.result(temperature=1 / best_scale)


class AdamW:
    """Adam with decoupled weight decay, in place, on an array.

    Args:
        shape (`tuple[int, ...]`):
            Of the array.
        learning_rate (`float`), weight_decay (`float`):
            As in torch.

    Source: Loshchilov and Hutter 2019, [Decoupled weight decay](https://arxiv.org/abs/1711.05101), algorithm 2.
    """

    def __init__(self, shape: tuple[int, ...], learning_rate: float, weight_decay: float):
        import numpy as np

        self._rate, self._decay, self._steps = learning_rate, weight_decay, 0
        self._mean, self._square = np.zeros(shape), np.zeros(shape)

    def step(self, values: np.ndarray, gradient: np.ndarray) -> None:
        """Change `values`."""
        import numpy as np

        self._steps += 1
        values *= 1 - self._rate * self._decay
        self._mean += 0.1 * (gradient - self._mean)
        self._square += 0.001 * (gradient**2 - self._square)
        mean, square = self._mean / (1 - 0.9**self._steps), self._square / (1 - 0.999**self._steps)
        values -= self._rate * mean / (np.sqrt(square) + 1e-8)


def _softmax(free: np.ndarray) -> np.ndarray:
    from scipy import special

    return special.softmax(free, axis=-1)


def _by_free_numbers(gradient: Gradient, modules: Sequence[str], free: np.ndarray) -> np.ndarray:
    """The derivative by the free numbers, through the softmax of each row."""
    import numpy as np

    weights = _softmax(free[:-1])
    if modules == ("",):  # one weight for the whole model: its derivative is the sum over the modules
        by_weight = np.sum(list(gradient.weights.values()), axis=0)[np.newaxis]
    else:
        by_weight = np.stack([np.asarray(gradient.weights[module]) for module in modules])
    result = np.zeros_like(free)
    result[:-1] = weights * (by_weight - (weights * by_weight).sum(axis=1, keepdims=True))
    result[-1, 0] = gradient.scale * np.exp(free[-1, 0])
    return result
