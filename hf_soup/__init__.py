"""hf_soup: model soups for the Hugging Face ecosystem.

The public names are listed here and imported when first used: `import hf_soup` loads neither torch nor transformers.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .version import __version__


if TYPE_CHECKING:
    from .analysis.advice import Advice
    from .analyzing import Analysis, advise, analyze
    from .api import check, merge, modules
    from .comparing import compare
    from .cooking import Cooked, cook
    from .data.splits import load_training
    from .errors import (
        DataError,
        EvaluationError,
        IncompatibleError,
        IngredientError,
        MissingExtraError,
        OutputError,
        RecipeError,
        SoupError,
        SoupWarning,
        TrainingError,
    )
    from .evaluation.batchnorm import update_batchnorm
    from .evaluation.comparison import Comparison
    from .evaluation.evaluator import Evaluator
    from .hub.tree import Node, tree
    from .outputs import Predictions
    from .recipes import load_recipe
    from .single_analyses import contribution, diversity, landscape, module_effects, plane, similarity
    from .soup import Soup
    from .sweeping import sweep
    from .training.records import FailedRun, Run
    from .training.sweep import Sweep, load_sweep
    from .types import Choice, Ingredient, Mixture, Recipe, Score, Selection
    from .verifying import TensorDifference, Verification, verify

# public name -> the module that has it
_HOME = {
    "Advice": "analysis.advice",
    "Analysis": "analyzing",
    "advise": "analyzing",
    "analyze": "analyzing",
    "similarity": "single_analyses",
    "diversity": "single_analyses",
    "landscape": "single_analyses",
    "plane": "single_analyses",
    "contribution": "single_analyses",
    "module_effects": "single_analyses",
    "check": "api",
    "compare": "comparing",
    "merge": "api",
    "modules": "api",
    "sweep": "sweeping",
    "Cooked": "cooking",
    "cook": "cooking",
    "DataError": "errors",
    "EvaluationError": "errors",
    "IncompatibleError": "errors",
    "IngredientError": "errors",
    "MissingExtraError": "errors",
    "OutputError": "errors",
    "RecipeError": "errors",
    "SoupError": "errors",
    "SoupWarning": "errors",
    "TrainingError": "errors",
    "Node": "hub.tree",
    "tree": "hub.tree",
    "TensorDifference": "verifying",
    "Verification": "verifying",
    "verify": "verifying",
    "update_batchnorm": "evaluation.batchnorm",
    "Comparison": "evaluation.comparison",
    "Evaluator": "evaluation.evaluator",
    "Predictions": "outputs",
    "load_recipe": "recipes",
    "Selection": "types",
    "Soup": "soup",
    "load_training": "data.splits",
    "FailedRun": "training.records",
    "Run": "training.records",
    "Sweep": "training.sweep",
    "load_sweep": "training.sweep",
    "Choice": "types",
    "Ingredient": "types",
    "Mixture": "types",
    "Recipe": "types",
    "Score": "types",
}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value  # found at once the next time
    return value


def __dir__() -> list[str]:
    return __all__
