"""Values that all parts of the package use: frozen, without tensors, equal if their fields are.

They access no files; `hf_soup.formats` reads and writes them.
"""

from .recipe import UNIFORM, AdapterRecord, Ingredient, Mixture, OutputRecord, Recipe, StatisticsRecord, plain
from .scores import Rejected, Score, Threshold, best_of, gain, is_better_higher
from .selection import SINGLE, DataDescription, Folds, Holdout, Selection, Trial
from .trials import Choice, Gradient, Trials
from .weights import Weights, as_weights


__all__ = [
    "SINGLE",
    "UNIFORM",
    "AdapterRecord",
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
    "StatisticsRecord",
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
