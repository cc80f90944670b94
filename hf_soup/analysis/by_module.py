"""Measurement of which modules benefit from averaging."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.layout import names_in_depth
from ..checkpoints.modules import by_depth
from ..display.results import Result
from ..display.tables import align
from ..errors import RecipeError
from ..metrics.statistics import formatted, signed
from ..types import best_of, gain
from .points import Scorer, Weights, score_places, uniform


if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


class ModuleEffect(NamedTuple):
    """The effect of averaging one module, in the metric's unit; positive is better.

    Args:
        module (`str`):
            The module.
        only (`float`):
            Score when it alone is averaged, the rest being the best ingredient's, less that of the best ingredient.
        without (`float`):
            Score when all but it is averaged, less that of the uniform soup.
    """

    module: str
    only: float
    without: float


@dataclass(frozen=True, repr=False)
class ModuleEffects(Result):
    """Which modules benefit from averaging.

    Args:
        metric (`str`), split (`str`), examples (`int`):
            Metric, split and number of examples of the scores.
        best (`str`):
            The ingredient whose modules stand where nothing is averaged: the best alone.
        single_score (`float`), soup (`float`):
            Scores of that ingredient and of the uniform soup.
        effects (`tuple[ModuleEffect, ...]`):
            Effect of each module, from the bottom of the model up.
        complete (`bool`, *optional*, defaults to `True`):
            Whether every module was scored.
    """

    metric: str
    split: str
    examples: int
    best: str
    single_score: float
    soup: float
    effects: tuple[ModuleEffect, ...]
    complete: bool = True

    @property
    def finding(self) -> str:
        """How many modules benefit, in a sentence without its full stop."""
        helped = sum(effect.only > 0 for effect in self.effects)
        return f"Averaging alone helps in {helped} of {len(self.effects)} modules"

    def table(self) -> str:
        """A row for each module, from the bottom up."""
        lines = [["module", "averaged alone", "left as it is"]]
        for effect in self.effects:
            lines.append([effect.module, signed(self.metric, effect.only), signed(self.metric, effect.without)])
        best = f"{self.best} alone has {self.metric} {formatted(self.metric, self.single_score)}"
        return f"{align(lines)}\n\n{best}, the uniform soup {formatted(self.metric, self.soup)} on {self.split}."

    def to_pandas(self) -> pd.DataFrame:
        """A data frame with a row for each module."""
        import pandas as pd

        return pd.DataFrame(self.effects, columns=ModuleEffect._fields)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {**asdict(self), "effects": [effect._asdict() for effect in self.effects]}

    def plot(self) -> Figure:
        """Bars from the bottom up.

        Raises:
            [`MissingExtraError`]: if matplotlib is not installed.
            [`RecipeError`]: if no module was scored.
        """
        from .pictures import plot_bars

        if not self.effects:
            raise RecipeError("no module was scored, so there is nothing to draw.")
        best = max(self.effects, key=lambda effect: effect.only)
        values = {
            f"averaged alone, against {self.best}": [effect.only for effect in self.effects],
            "left out of the average, against the soup": [effect.without for effect in self.effects],
        }
        title = f"Averaging {best.module} alone gains most: {signed(self.metric, best.only)}"
        unit = f"change of {self.metric} on {self.split}"
        return plot_bars([effect.module for effect in self.effects], values, unit=unit, title=title)


def measure_modules(scorer: Scorer, like: Checkpoint) -> ModuleEffects:
    """Average one module at a time, and all modules except one: two models for each module.

    Ctrl-C ends the measurement; the same call resumes it with the models that were scored.

    Args:
        scorer ([`Scorer`]):
            The ingredients and the examples.
        like (`Checkpoint`):
            One of the ingredients, which determines the modules.

    Returns:
        [`ModuleEffects`]
    """
    names, higher_is_better = scorer.names, scorer.higher_is_better
    single_scores = {name: scorer.point({name: 1.0}).score for name in names}
    best = best_of(single_scores, higher_is_better)
    all_averaged, best_alone = uniform(names), {best: 1.0}
    soup = scorer.point(all_averaged).score
    modules = by_depth(like.specs, names_in_depth(like.config))
    places: list[Weights] = []
    for module in modules:
        # The prefix "" stands for all modules that are not named.
        places.append({"": best_alone, module: all_averaged})
        places.append({"": all_averaged, module: best_alone})
    points = score_places(scorer, places, "Module by module")
    effects = []
    # Ctrl-C leaves fewer points: the effect of a module is unknown unless both of its models were scored.
    for module, only, without in zip(modules, points[::2], points[1::2], strict=False):
        only_gain = gain(only.score, single_scores[best], higher_is_better)
        without_gain = gain(without.score, soup, higher_is_better)
        effects.append(ModuleEffect(module, only_gain, without_gain))
    return ModuleEffects(
        metric=scorer.metric,
        split=scorer.evaluator.split,
        examples=scorer.examples,
        best=best,
        single_score=single_scores[best],
        soup=soup,
        effects=tuple(effects),
        complete=len(points) == len(places),
    )
