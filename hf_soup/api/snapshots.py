"""The runs that a user passes, each with its snapshots: the checkpoints of a Trainer, or of a sweep that keeps all."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..checkpoints.folder import checkpoints_by_step
from ..checkpoints.source import distinct_names
from ..errors import RecipeError, did_you_mean
from ..evaluation.evaluator import Evaluator
from ..options import WITHIN
from ..publishing.bases import RUN_FILE
from ..selection.groups import Group, group_snapshots, join_groups, values_of
from ..training.records import Run, load_runs
from ..training.settings import SHORT
from ..types import Ingredient, Trials
from ..untrusted import one_line


class RunSources(NamedTuple):
    """One run.

    Args:
        name (`str`):
            Name of the run.
        sources (`Sequence[Any]`):
            Its snapshots, in the order of their steps, as `open_checkpoint` takes them.
        settings (`Mapping[str, Any]`):
            Its settings, if they are known.
    """

    name: str
    sources: Sequence[Any]
    settings: Mapping[str, Any]


def find_snapshots(ingredients: Sequence[Any]) -> list[RunSources]:
    """The runs among the ingredients, each with its snapshots.

    The folder of a Trainer has the snapshots `checkpoint-*`; its own weights count as the last one only if there are
    no checkpoints or the run is one of a sweep, because Trainer saves a checkpoint again at the end.

    Args:
        ingredients (`Sequence[Any]`):
            A [`Sweep`] or other runs of sweeps, or sources.

    Returns:
        `list[RunSources]`, in the order of the ingredients.
    """
    runs = _runs_of(ingredients)
    names = distinct_names([Ingredient(run.name, _folder_of(run)) for run in runs])
    return [run._replace(name=name) for run, name in zip(runs, names, strict=True)]


class Grouping(NamedTuple):
    """How the ingredients of a merge are grouped before a strategy chooses.

    Args:
        runs (`Sequence[RunSources]`):
            The runs, each with its snapshots.
        within (`str`, *optional*), k (`int`, *optional*):
            Average of the snapshots of each run, as for [`merge`].
        group_by (`str` or `Mapping[str, str]`, *optional*):
            Setting or mapping by which runs are averaged.
    """

    runs: Sequence[RunSources]
    within: str | None
    k: int | None
    group_by: str | Mapping[str, str] | None

    @property
    def sources(self) -> list[Any]:
        """All snapshots, run by run."""
        return [source for run in self.runs for source in run.sources]

    def groups(self, ingredients: Sequence[Ingredient], trials: Trials | None = None) -> list[Group]:
        """The groups of the opened snapshots.

        Args:
            ingredients (`Sequence[Ingredient]`):
                The snapshots in the order of `sources`.
            trials ([`Trials`], *optional*):
                Scorer of mixtures, which `within="greedy"` needs.
        """
        groups = []
        start = 0
        for run in self.runs:
            snapshots = ingredients[start : start + len(run.sources)]
            groups.append(group_snapshots(run.name, snapshots, self.within, self.k, trials))
            start += len(run.sources)
        if self.group_by is None:
            return groups
        names = [run.name for run in self.runs]
        by = SHORT.get(self.group_by, self.group_by) if isinstance(self.group_by, str) else self.group_by
        return join_groups(groups, values_of(by, names, [run.settings for run in self.runs]))


def check_grouping(within: str | None, k: int | None, group_by: object, method: str) -> None:
    """Refuse arguments that exclude each other; they are those of [`merge`].

    Raises:
        [`RecipeError`]: naming the argument.
    """
    if within is not None and within not in WITHIN:
        name = one_line(within, 40)
        raise RecipeError(f'there is no average within runs called "{name}"{did_you_mean(within, WITHIN)}')
    if k is not None:
        is_count = isinstance(k, int) and not isinstance(k, bool) and k >= 1
        if not is_count or within not in ("last", "minus_sqrt"):
            raise RecipeError(f'k={k} is a number of snapshots, 1 or more, for within="last" or "minus_sqrt".')
    if (within is not None or group_by is not None) and method != "linear":
        raise RecipeError(f'within and group_by average linearly first: they go with method="linear", not "{method}".')


def find_grouping(
    ingredients: Sequence[Any],
    *,
    within: str | None,
    k: int | None,
    group_by: str | Mapping[str, str] | None,
    method: str,
) -> Grouping | None:
    """How the ingredients of a merge are grouped; `None` if each is by itself. The arguments are those of [`merge`].

    Raises:
        [`RecipeError`]: if the arguments exclude each other, or there is nothing to average within runs.
    """
    check_grouping(within, k, group_by, method)
    if within is None and group_by is None:
        return None
    runs = find_snapshots(ingredients)
    if within is not None and all(len(run.sources) == 1 for run in runs):
        raise RecipeError(
            f'within="{within}" averages the snapshots of each run, and none of these runs has more than one: train '
            'them with keep="all", or pass folders that hold the checkpoint-* folders of a Trainer.'
        )
    return Grouping(runs, within, k, group_by)


def refuse_trained_on(ingredients: Sequence[Any], evaluator: Evaluator) -> None:
    """Refuse to choose among the runs of folds by the validation examples that they were trained on.

    Args:
        ingredients (`Sequence[Any]`):
            A [`Sweep`] or other runs of sweeps, or sources.
        evaluator ([`Evaluator`]):
            Examples to choose by.

    Raises:
        [`RecipeError`]: naming the first such run.
    """
    for run in _runs_of(ingredients):
        if "fold" not in run.settings:
            continue
        trained_on = run.sources[-1].state["data"]["validation"]["fingerprint"]
        if trained_on == evaluator.content_hashes.fingerprint:
            raise RecipeError(
                f"{run.name} was trained on these validation examples, as one of several folds. Merge the runs of the "
                "best settings without an evaluator (merge(sweep.best_settings())), or choose by other examples."
            )


def _runs_of(ingredients: Sequence[Any]) -> list[RunSources]:
    """The runs in their order; snapshots of a run of a sweep may be listed one by one, intermediate ones first."""
    runs: dict[Any, RunSources] = {}
    for position, item in enumerate(ingredients):
        if isinstance(item, Run):
            key: Any = item.folder.parent if item.is_intermediate else item.folder
            before = runs.get(key, RunSources(str(item.state["run"]), [], item.params))
            runs[key] = before._replace(sources=[*before.sources, item])
        else:
            runs[position] = _run_of(item)
    return list(runs.values())


def _folder_of(run: RunSources) -> str:
    """The folder that names a run further where several have one name."""
    source = run.sources[-1]
    return str(source.folder if isinstance(source, Run) else source)


def _run_of(source: Any) -> RunSources:
    """One source as a run."""
    if not isinstance(source, (str, os.PathLike)) or not Path(source).expanduser().is_dir():
        return RunSources(_name_of(source), [source], {})
    folder = Path(source).expanduser().resolve()
    runs = load_runs(folder) if (folder / RUN_FILE).is_file() else ()
    if runs:
        return RunSources(folder.name, list(runs), runs[-1].params)
    checkpoints = [str(folder / name) for name in checkpoints_by_step(os.listdir(folder))]
    return RunSources(folder.name, checkpoints or [source], {})


def _name_of(source: Any) -> str:
    """Name of a source that is no folder."""
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else one_line(str(source), 60)
