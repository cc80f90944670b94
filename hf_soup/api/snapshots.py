"""The runs that a user passes, each with its snapshots: the checkpoints of a Trainer, or of a sweep that keeps all."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..checkpoints.folder import checkpoints_by_step
from ..errors import RecipeError, did_you_mean
from ..options import WITHIN
from ..publishing.bases import RUN_FILE
from ..selection.groups import Group, group_snapshots, join_groups, values_of
from ..training.records import load_runs
from ..training.sweep import Sweep
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
            A [`Sweep`], or sources.

    Returns:
        `list[RunSources]`, in the order of the ingredients.
    """
    if isinstance(ingredients, Sweep):
        return _runs_of_sweep(ingredients)
    return [_run_of(item) for item in ingredients]


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
        return join_groups(groups, values_of(self.group_by, names, [run.settings for run in self.runs]))


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
    if within is not None and within not in WITHIN:
        raise RecipeError(f'within="{one_line(within, 40)}"{did_you_mean(within, WITHIN)} Known: {", ".join(WITHIN)}.')
    if k is not None and (within not in ("last", "minus_sqrt") or k < 1):
        raise RecipeError(f'k={k} is a number of snapshots, 1 or more, for within="last" or "minus_sqrt".')
    if within is None and group_by is None:
        return None
    if method != "linear":
        raise RecipeError(f'within and group_by average linearly first: they go with method="linear", not "{method}".')
    runs = find_snapshots(ingredients)
    if within is not None and all(len(run.sources) == 1 for run in runs):
        raise RecipeError(
            f'within="{within}" averages the snapshots of each run, and none of these runs has more than one: train '
            'them with keep="all", or pass folders that hold the checkpoint-* folders of a Trainer.'
        )
    return Grouping(runs, within, k, group_by)


def _runs_of_sweep(sweep: Sweep) -> list[RunSources]:
    """The runs of a sweep; with `keep="all"` each follows its intermediate checkpoints."""
    sources: dict[str, list[Any]] = {}
    settings: dict[str, Mapping[str, Any]] = {}
    for run in sweep:
        name = str(run.state["run"])
        sources.setdefault(name, []).append(run)
        settings[name] = run.params
    return [RunSources(name, sources[name], settings[name]) for name in sources]


def _run_of(source: Any) -> RunSources:
    """One source as a run."""
    if not isinstance(source, (str, os.PathLike)) or not Path(source).expanduser().is_dir():
        return RunSources(_name_of(source), [source], {})
    folder = Path(source).expanduser()
    runs = load_runs(folder) if (folder / RUN_FILE).is_file() else ()
    if runs:
        return RunSources(folder.name, list(runs), runs[-1].params)
    checkpoints = [str(folder / name) for name in checkpoints_by_step(os.listdir(folder))]
    return RunSources(folder.name, checkpoints or [source], {})


def _name_of(source: Any) -> str:
    """Name of a source that is no folder."""
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else one_line(str(source), 60)
