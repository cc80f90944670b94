"""The values that everything passes around: frozen, without tensors, equal when their fields are.

They do no work and touch no file; `hf_soup.formats` reads and writes them.
"""

from .recipe import UNIFORM, BatchNormRecord, Ingredient, Mixture, OutputRecord, Recipe, plain
from .scores import Rejected, Score, Threshold, best_of, gain, is_better_higher
from .selection import DataDescription, Folds, Holdout, Selection, Trial
from .trials import Choice, Gradient, Trials
from .weights import Weights, as_weights


__all__ = [
    "UNIFORM",
    "BatchNormRecord",
    "Choice",
    "DataDescription",
    "Folds",
    "Gradient",
    "Holdout",
    "Ingredient",
    "Mixture",
    "OutputRecord",
    "Recipe",
    "Rejected",
    "Score",
    "Selection",
    "Threshold",
    "Trial",
    "Trials",
    "Weights",
    "as_weights",
    "best_of",
    "gain",
    "is_better_higher",
    "plain",
]
