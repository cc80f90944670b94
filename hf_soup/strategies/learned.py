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
    """Learn the weights by gradient descent on the validation loss, and a temperature with them.

    AdamW minimizes the mean over examples of `loss(beta * f(x; sum_i alpha_i theta_i), y)`, where the mixing weights
    `alpha` are a softmax of free numbers and `beta` scales the logits. It learns from most of the validation examples;
    the others decide when to stop.

    Memory holds one model and its gradient, however many ingredients there are: the derivative with respect to the
    weight of an ingredient is the dot product of the model's gradient with that ingredient, which is read in a stream.

    Args:
        ingredients (`Sequence[Ingredient]`):
            The ingredients, in any order.
        trials ([`Trials`]):
            Source of the gradient, and scorer of mixtures on the examples held back.
        by (`str`, *optional*, defaults to `"model"`):
            Granularity of the weights: one for each ingredient (`"model"`), or one for each module of each ingredient
            (`"module"`).
        learning_rate (`float`, *optional*, defaults to 0.1):
            Learning rate of AdamW.
        epochs (`int`, *optional*, defaults to 5):
            Largest number of passes over the examples.
        train_batch_size (`int`, *optional*, defaults to 32):
            Number of examples in each optimization step.
        weight_decay (`float`, *optional*, defaults to 0.0):
            Weight decay of AdamW, which pulls the mixing weights towards equal ones.
        held_back (`float`, *optional*, defaults to 0.2):
            Fraction of the validation examples that is not learned from, but decides when to stop and which epoch's
            weights are kept.
        patience (`int`, *optional*, defaults to 2):
            Number of epochs without an improvement on the examples held back after which learning stops.
        seed (`int`, *optional*, defaults to 0):
            Seed of the split and of the order of the examples. The merge passes its own.

    Returns:
        [`Choice`]: the ingredients, highest single score first, and the learned temperature, which is not part of the
        soup's weights.

    Raises:
        [`RecipeError`]: if a number is out of its range, or no example is left to learn from or to hold back.

    Source: Wortsman et al. 2022, [Model soups](https://arxiv.org/abs/2203.05482).
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    order = rng.permutation(trials.examples)
    n_held_back = round(held_back * len(order)) if 0 < held_back < 1 else 0
    if not 0 < n_held_back < len(order):
        raise RecipeError(
            f"held_back is {held_back}: of {len(order)} examples it must hold some back and leave some to learn from."
        )
    _check_numbers(epochs, train_batch_size, patience, learning_rate, weight_decay)
    search = Search(ingredients, trials)
    if len(search.ranked) == 1:
        return search.result()
    # 1. Hold back some examples, since the loss on those that are learned from falls in any case.
    trials_held_back = trials.subset(np.sort(order[:n_held_back]))
    examples = order[n_held_back:]
    # 2. Begin with equal weights and beta = 1. The weights alpha are a softmax over each row, with one row per module.
    # The first number of an additional row is log(beta), so that beta stays positive.
    modules = trials.modules if by == "module" else ("",)
    free_numbers = np.zeros((len(modules) + 1, len(search.ranked)))

    def mixture_now() -> Mixture:
        return mixture_by_module(search.ranked, modules, _softmax(free_numbers[:-1]))

    def scale_now() -> float:
        return float(np.exp(free_numbers[-1, 0]))

    best, best_scale = mixture_now(), 1.0
    best_score = trials_held_back.score(best)
    epochs_without_gain = 0
    optimizer = AdamW(free_numbers.shape, learning_rate, weight_decay)
    steps_per_epoch = -(-len(examples) // train_batch_size)  # rounded up
    with progress_bar(total=epochs * steps_per_epoch, desc="Learning weights", unit="step") as bar:
        for epoch in range(1, epochs + 1):
            # 3. Descend the gradient of the loss, batch by batch, in a new order in each epoch.
            for batch in np.array_split(rng.permutation(examples), steps_per_epoch):
                gradient = trials.gradient(mixture_now(), np.sort(batch), scale_now())
                optimizer.step(free_numbers, _by_free_numbers(gradient, modules, free_numbers))
                bar.set_postfix_str(f"loss {gradient.loss:.4f}")
                bar.update()
            # 4. Score the mixture on the examples held back, and stop when it has not improved for `patience` epochs.
            mixture = mixture_now()
            score = trials_held_back.score(mixture)
            if score.beats(best_score):
                epochs_without_gain = 0
            else:
                epochs_without_gain += 1
            kept = score.beats(best_score, ties=True)  # the later epoch, with the lower loss, wins a tie
            why = f"{score} on the examples held back, loss {gradient.loss:.4f}"
            search.tried.append(Trial(f"epoch {epoch}", kept, why))
            if kept:
                best, best_score, best_scale = mixture, score, scale_now()
            if epochs_without_gain == patience:
                break
    # 5. The soup of the best epoch is scored on all of validation.
    score = trials.score(best)
    search.note(f"learned by {by}", best, score, True)
    search.take(best, score)
    return search.result(temperature=1 / best_scale)


def _check_numbers(
    epochs: int, train_batch_size: int, patience: int, learning_rate: float, weight_decay: float
) -> None:
    """Refuse settings with which nothing can be learned."""
    too_few = min(epochs, train_batch_size, patience) < 1
    if too_few or not 0 < learning_rate <= 1e6 or not 0 <= weight_decay <= 1e6:
        raise RecipeError(
            "epochs, train_batch_size and patience are 1 or more, learning_rate is more than 0 and weight_decay 0 or "
            "more, both up to 1e6."
        )


class AdamW:
    """Adam with decoupled weight decay, which updates an array in place.

    Args:
        shape (`tuple[int, ...]`):
            Shape of the array.
        learning_rate (`float`), weight_decay (`float`):
            The arguments `lr` and `weight_decay` of `torch.optim.AdamW`.

    Source: Loshchilov and Hutter 2019, [Decoupled weight decay](https://arxiv.org/abs/1711.05101), algorithm 2.
    """

    def __init__(self, shape: tuple[int, ...], learning_rate: float, weight_decay: float):
        import numpy as np

        self._rate = learning_rate  # alpha and eta_t of the paper, which are one number in torch
        self._decay = weight_decay  # lambda
        self._steps = 0  # t
        self._mean = np.zeros(shape)  # m, the moving average of the gradient g
        self._square = np.zeros(shape)  # v, that of its square

    def step(self, values: np.ndarray, gradient: np.ndarray) -> None:
        """Update `values` in place by one step against the gradient."""
        import numpy as np

        self._steps += 1
        values *= 1 - self._rate * self._decay  # as in torch, of the values before the step
        # m = beta_1 m + (1 - beta_1) g and v = beta_2 v + (1 - beta_2) g^2, with beta_1 = 0.9 and beta_2 = 0.999
        self._mean += 0.1 * (gradient - self._mean)
        self._square += 0.001 * (gradient**2 - self._square)
        # these divisions correct the bias towards zero, where both begin
        mean = self._mean / (1 - 0.9**self._steps)
        square = self._square / (1 - 0.999**self._steps)
        values -= self._rate * mean / (np.sqrt(square) + 1e-8)


def _softmax(rows: np.ndarray) -> np.ndarray:
    from scipy import special

    return special.softmax(rows, axis=-1)


def _by_free_numbers(gradient: Gradient, modules: Sequence[str], free_numbers: np.ndarray) -> np.ndarray:
    """The derivative with respect to the free numbers, through the softmax of each row."""
    import numpy as np

    weights = _softmax(free_numbers[:-1])
    if modules == ("",):  # one weight for the whole model: its derivative is the sum over the modules
        by_weight = np.sum(list(gradient.weights.values()), axis=0)[np.newaxis]
    else:
        by_weight = np.stack([np.asarray(gradient.weights[module]) for module in modules])
    result = np.zeros_like(free_numbers)
    # with alpha = softmax(z): dL/dz_j = alpha_j (dL/dalpha_j - sum_i alpha_i dL/dalpha_i)
    result[:-1] = weights * (by_weight - (weights * by_weight).sum(axis=1, keepdims=True))
    # with beta = exp(z): dL/dz = beta dL/dbeta
    result[-1, 0] = gradient.scale * np.exp(free_numbers[-1, 0])
    return result
