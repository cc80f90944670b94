"""hf_soup: model soups for the Hugging Face ecosystem.

The public names are listed here and imported when first used: `import hf_soup` loads neither torch nor transformers.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .version import __version__


if TYPE_CHECKING:  # `as` re-exports a name: type checkers and editors resolve it, and flag one that is not here
    from .analysis.advice import Advice as Advice
    from .analyzing import Analysis as Analysis
    from .analyzing import advise as advise
    from .analyzing import analyze as analyze
    from .api import check as check
    from .api import merge as merge
    from .api import modules as modules
    from .comparing import compare as compare
    from .cooking import Cooked as Cooked
    from .cooking import cook as cook
    from .data.splits import load_training as load_training
    from .errors import DataError as DataError
    from .errors import EvaluationError as EvaluationError
    from .errors import IncompatibleError as IncompatibleError
    from .errors import IngredientError as IngredientError
    from .errors import MissingExtraError as MissingExtraError
    from .errors import OutputError as OutputError
    from .errors import RecipeError as RecipeError
    from .errors import SoupError as SoupError
    from .errors import SoupWarning as SoupWarning
    from .errors import TrainingError as TrainingError
    from .evaluation.batchnorm import update_batchnorm as update_batchnorm
    from .evaluation.comparison import Comparison as Comparison
    from .evaluation.evaluator import Evaluator as Evaluator
    from .hub.tree import Node as Node
    from .hub.tree import tree as tree
    from .outputs import Predictions as Predictions
    from .recipes import load_recipe as load_recipe
    from .single_analyses import contribution as contribution
    from .single_analyses import diversity as diversity
    from .single_analyses import landscape as landscape
    from .single_analyses import module_effects as module_effects
    from .single_analyses import plane as plane
    from .single_analyses import similarity as similarity
    from .soup import Soup as Soup
    from .sweeping import sweep as sweep
    from .training.records import FailedRun as FailedRun
    from .training.records import Run as Run
    from .training.sweep import Sweep as Sweep
    from .training.sweep import load_sweep as load_sweep
    from .types import Choice as Choice
    from .types import Ingredient as Ingredient
    from .types import Mixture as Mixture
    from .types import Recipe as Recipe
    from .types import Score as Score
    from .types import Selection as Selection
    from .verifying import TensorDifference as TensorDifference
    from .verifying import Verification as Verification
    from .verifying import verify as verify

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


if not TYPE_CHECKING:  # to a type checker this would promise every name

    def __getattr__(name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
        globals()[name] = value  # found at once the next time
        return value


def __dir__() -> list[str]:
    return __all__
