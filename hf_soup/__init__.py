"""hf_soup: model soups for the Hugging Face ecosystem.

The public names are listed here and imported when first used: `import hf_soup` loads neither torch nor transformers.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .version import __version__


if TYPE_CHECKING:  # `as` re-exports a name: type checkers and editors resolve it, and report one that does not exist
    from . import callbacks as callbacks
    from . import data as data
    from . import errors as errors
    from . import metrics as metrics
    from . import testing as testing
    from . import transforms as transforms
    from . import types as types
    from .analysis.advice import Advice as Advice
    from .analysis.result import Analysis as Analysis
    from .api.analyze import advise as advise
    from .api.analyze import analyze as analyze
    from .api.check import check as check
    from .api.check import modules as modules
    from .api.compare import compare as compare
    from .api.cook import Cooked as Cooked
    from .api.cook import cook as cook
    from .api.importance import importance as importance
    from .api.ingredients import load_ingredient as load_ingredient
    from .api.load import load as load
    from .api.merge import merge as merge
    from .api.soup import Soup as Soup
    from .api.sweep import sweep as sweep
    from .api.verify import Verification as Verification
    from .api.verify import verify as verify
    from .checkpoints.check import CheckReport as CheckReport
    from .checkpoints.checkpoint import Checkpoint as Checkpoint
    from .checkpoints.modules import Module as Module
    from .comparison.comparison import Comparison as Comparison
    from .errors import SoupError as SoupError
    from .errors import SoupWarning as SoupWarning
    from .evaluation.batchnorm import update_batchnorm as update_batchnorm
    from .evaluation.evaluator import Evaluator as Evaluator
    from .formats.recipe_file import load_recipe as load_recipe
    from .metrics.predictions import Predictions as Predictions
    from .publishing.lineage import Lineage as Lineage
    from .publishing.lineage import lineage as lineage
    from .training.records import Run as Run
    from .training.sweep import Sweep as Sweep
    from .training.sweep import load_sweep as load_sweep
    from .types import Ingredient as Ingredient
    from .types import Recipe as Recipe
    from .types import Score as Score
    from .types import Selection as Selection

# public name -> the module that has it
_HOME = {
    "Advice": "analysis.advice",
    "Analysis": "analysis.result",
    "advise": "api.analyze",
    "analyze": "api.analyze",
    "check": "api.check",
    "compare": "api.compare",
    "load_ingredient": "api.ingredients",
    "load": "api.load",
    "merge": "api.merge",
    "modules": "api.check",
    "sweep": "api.sweep",
    "Cooked": "api.cook",
    "cook": "api.cook",
    "SoupError": "errors",
    "SoupWarning": "errors",
    "Lineage": "publishing.lineage",
    "lineage": "publishing.lineage",
    "Verification": "api.verify",
    "verify": "api.verify",
    "update_batchnorm": "evaluation.batchnorm",
    "CheckReport": "checkpoints.check",
    "Checkpoint": "checkpoints.checkpoint",
    "Module": "checkpoints.modules",
    "Comparison": "comparison.comparison",
    "Evaluator": "evaluation.evaluator",
    "importance": "api.importance",
    "Predictions": "metrics.predictions",
    "load_recipe": "formats.recipe_file",
    "Selection": "types",
    "Soup": "api.soup",
    "Run": "training.records",
    "Sweep": "training.sweep",
    "load_sweep": "training.sweep",
    "Ingredient": "types",
    "Recipe": "types",
    "Score": "types",
}

# public modules, imported when first used as well: `hf_soup.metrics.load_metric` needs no import of its own
_MODULES = ("callbacks", "data", "errors", "metrics", "testing", "transforms", "types")

__all__ = ["__version__", *sorted(_HOME)]


if not TYPE_CHECKING:  # type checkers would take this as a promise of every name

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            return importlib.import_module(f"{__name__}.{name}")
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
        globals()[name] = value  # found at once the next time
        return value


def __dir__() -> list[str]:
    return __all__
