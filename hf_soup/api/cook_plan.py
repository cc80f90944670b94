"""What `cook` would do with a cook file: its stages, their inputs and what exists already. Nothing is trained."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..comparison.comparison import TEST, VALIDATION
from ..data.splits import TrainingData
from ..display.results import Result
from ..display.tables import align
from ..formats.cook_file import CookFile, load_cook_file
from ..formats.shipped_recipes import resolve_shipped
from ..jobs.settings import job_costs
from ..options import SweepOptions, answers_keywords, keywords
from ..training.refinement import read_refinement
from ..training.space import expand_space
from .cook_checks import check_cook_file
from .cook_data import TRAIN, Examples, load_examples
from .sweep import plan_runs


class Stage(NamedTuple):
    """One stage of a cook file.

    Args:
        name (`str`):
            Name of its section in the file.
        work (`str`):
            Description of the stage.
        folder (`str`):
            Folder of the result; empty if the result goes into the soup's folder or to the Hub.
    """

    name: str
    work: str
    folder: str = ""


@dataclass(frozen=True, repr=False)
class CookPlan(Result):
    """The stages and data sets of a cook file, checked as far as possible without training.

    Args:
        stages (`tuple[Stage, ...]`):
            Stages in the order in which they run.
        sets (`dict[str, int]`):
            Number of examples in each data set.
    """

    stages: tuple[Stage, ...]
    sets: dict[str, int]

    def table(self) -> str:
        """The stages, and below them the number of examples in each data set."""
        lines = [["stage", "what it does", "where"], *(list(stage) for stage in self.stages)]
        paragraphs = [align(lines)]
        if self.sets:
            paragraphs.append("Examples: " + ", ".join(f"{size:,} {name}" for name, size in self.sets.items()) + ".")
        return "\n\n".join(paragraphs)


@answers_keywords
def plan_cook(
    path: str | os.PathLike[str],
    *,
    output_dir: str | os.PathLike[str] | None = None,
    overrides: Sequence[str] = (),
    allow_code: bool = False,
) -> CookPlan:
    """Show what [`cook`] would do with a cook file: everything is checked, data is loaded, and nothing is written.

    Args:
        path (`str` or `os.PathLike`), output_dir (`str` or `os.PathLike`, *optional*), overrides (`Sequence[str]`,
            *optional*), allow_code (`bool`, *optional*, defaults to `False`):
            Arguments of [`cook`].

    Returns:
        [`CookPlan`]

    Raises:
        [`SoupError`]: for the same reasons as [`cook`].
    """
    plan = load_cook_file(resolve_shipped(path), overrides, allow_code=allow_code)
    folder = check_cook_file(plan, output_dir)
    examples = load_examples(plan)
    stages = []
    if plan.pretrain is not None:
        model_type = plan.pretrain.config.get("model_type", "model")
        stages.append(Stage("pretrain", f"a {model_type} from random weights", str(folder / "pretrained")))
    if plan.sweep is not None:
        stages.append(Stage("sweep", _runs(plan.sweep, examples, folder), str(folder / "runs")))
    stages += _stages_of_soup(plan, folder)
    return CookPlan(tuple(stages), {name: len(data) for name, data in examples.sets.items()})


def _runs(options: SweepOptions, examples: Examples, folder: Path) -> str:
    """The number of runs; their steps and size as well, unless the file itself makes their base model."""
    plan, section = examples.plan, examples.plan.examples
    if plan.base_model is None:
        runs = f"{len(expand_space(options.space_or_default, n_runs=options.n_runs, seed=options.seed))} runs"
        refinement = read_refinement(options.refine_or_default)
        return runs if refinement is None else f"{runs}, then {refinement.runs} around the best"
    sweep_plan = plan_runs(
        plan.base_model,
        TrainingData(examples.sets[TRAIN], examples.sets[VALIDATION], section.path),
        output_dir=folder / "runs",
        task=plan.task,
        metric=plan.merge.metric if plan.merge is not None else None,
        label_column=section.label_column,
        text_columns=section.text_columns,
        **keywords(options),
    )
    if sweep_plan.costs is None:
        return sweep_plan.summary()
    return f"{sweep_plan.summary()}; {sweep_plan.costs.summary()}"


def _stages_of_soup(plan: CookFile, folder: Path) -> list[Stage]:
    """The stages after training."""
    stages = []
    if plan.merge is not None:
        how = plan.merge.strategy or ("given weights" if plan.merge.weights is not None else "uniform")
        count = f"{len(plan.ingredients)} ingredients" if plan.ingredients else "the runs"
        what = f"{how} soup of {count}, {plan.merge.method}"
        if plan.merge.executor == "jobs":
            what = f"{what}; {job_costs(plan.merge.resources).summary()}"
        stages.append(Stage("merge", what, str(folder / "soup")))
    if plan.compare is not None and plan.data is not None:
        stages.append(Stage("compare", f"on {', '.join([TEST, *plan.data.shifted])}", str(folder / "soup")))
    if plan.push is not None:
        stages.append(Stage("push", f"to {plan.push.repo_id}"))
    return stages
