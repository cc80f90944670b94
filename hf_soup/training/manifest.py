"""`sweep.json`: what all runs of a folder share, and the settings that each has of its own. It trains nothing."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..checkpoints.content import content_digests
from ..errors import TrainingError
from ..publishing.bases import START
from ..untrusted import read_json
from .records import plain_settings


SWEEP_FILE = "sweep.json"
SHARED = "training_args"  # the settings that all runs share
ADDED = ("columns",)  # what files of older versions do not say


def read_manifest(folder: Path) -> dict[str, Any]:
    """What `sweep.json` holds.

    Raises:
        [`TrainingError`]: if the folder is none of a sweep.
    """
    manifest = find_manifest(folder)
    if manifest is None:
        raise TrainingError(f"{folder} is no folder of a sweep: it has no {SWEEP_FILE}.")
    return manifest


def find_manifest(folder: Path) -> dict[str, Any] | None:
    """What `sweep.json` holds, or `None` where there is none.

    Raises:
        [`TrainingError`]: if it cannot be read.
    """
    path = folder / SWEEP_FILE
    try:
        manifest = read_json(path, error_class=TrainingError)
    except FileNotFoundError:
        return None
    if not _is_manifest(manifest):
        raise TrainingError(
            f"{path} is not what a sweep writes: it may be damaged. Put back a copy of it, or use another output_dir."
        )
    return manifest


def _is_manifest(content: Any) -> bool:
    """Whether it is of the form that is written, with names of runs that are folders beside it."""
    if not isinstance(content, dict) or not isinstance(content.get("base_commit"), (str, type(None))):
        return False
    fixed, runs = content.get("fixed"), content.get("runs")
    if not isinstance(fixed, dict) or not isinstance(fixed.get(SHARED, {}), dict) or not isinstance(runs, dict):
        return False
    # files are deleted in the folders of runs, so that no name may lead out of that of the sweep
    has_names_of_runs = all(re.fullmatch(r"run-[0-9]+", name) for name in runs)
    return has_names_of_runs and all(isinstance(own, dict) for own in runs.values())


def start_digests(start: Path) -> dict[str, str]:
    """The weight files of what all runs start from, each with the digest of its content."""
    files = sorted(start.glob("*.safetensors"))
    names = [path.name for path in files]
    return dict(zip(names, content_digests(files).values(), strict=True))


def check_start(manifest: Mapping[str, Any], start: Path) -> None:
    """Refuse a start whose weights are others than when the first runs began with it.

    Args:
        manifest (`Mapping[str, Any]`):
            What `sweep.json` holds; one from before it had `start` is believed.
        start (`Path`):
            The folder.

    Raises:
        [`TrainingError`]: if they are.
    """
    if manifest.get("start", {}) not in ({}, start_digests(start)):
        raise TrainingError(
            f"the weights in {start} have changed since the first runs began with them, and averages need one start. "
            "Put them back, or use another output_dir."
        )


def whole_runs(manifest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """All settings of each run: those that the runs share and its own, which win."""
    shared = manifest["fixed"].get(SHARED, {})
    return {name: {**shared, **own} for name, own in manifest["runs"].items()}


def extend_manifest(
    manifest: Mapping[str, Any] | None,
    folder: Path,
    fixed: Mapping[str, Any],
    settings: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """What `sweep.json` will hold, and each run's name: the one that its settings have already, or the next number.

    Runs are the same if all their settings are the same, shared and own together. A setting may have moved between
    the two since the last call; from then on it is each run's own.

    Args:
        manifest (`Mapping[str, Any]`, *optional*):
            What it holds now.
        folder (`Path`):
            Of the sweep.
        fixed (`Mapping[str, Any]`):
            What all runs share: data, base model, head; `training_args` are the shared settings.
        settings (`Sequence[Mapping[str, Any]]`):
            Each run's own.

    Returns:
        `tuple[dict[str, Any], dict[str, dict[str, Any]]]`: the manifest, and name -> own settings of the runs that
        were asked for, in their order.

    Raises:
        [`TrainingError`]: if the runs that are there share something else.
    """
    # as JSON has them: a tuple of this call is a list in the file
    fixed = plain_settings(fixed)
    settings = [plain_settings(setting) for setting in settings]
    if manifest is None:
        _refuse_strange_folder(folder)
        manifest = {"fixed": fixed, "runs": {}}
    _refuse_other_sweep(folder, manifest["fixed"], fixed)
    before, now = manifest["fixed"].get(SHARED, {}), fixed[SHARED]
    moved = _moved(before, now, manifest["runs"], settings)
    for name in {**before, **now}:
        is_same = name in before and name in now and before[name] == now[name]
        if not is_same and name not in moved:
            _refuse(folder, SHARED, name, before, now)
    shared = _without(now, moved)
    moved_before, moved_now = _only(before, moved), _only(now, moved)
    runs = {}
    for name, own in manifest["runs"].items():
        runs[name] = {**moved_before, **own}
    wanted = {}
    for setting in settings:
        own = {**moved_now, **setting}
        name = _name_of(own, shared, runs)
        wanted[name] = runs.setdefault(name, own)
    return {**manifest, "fixed": {**fixed, SHARED: shared}, "runs": runs}, wanted


def _refuse_strange_folder(folder: Path) -> None:
    """Refuse a folder that looks like that of a sweep and has no `sweep.json`."""
    strangers = [path.name for path in (*folder.glob(START), *folder.glob("run-*"))]
    if strangers:
        raise TrainingError(
            f"{folder} holds {strangers[0]} but no {SWEEP_FILE}: no sweep made it. Use another folder."
        )


def _refuse_other_sweep(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse a sweep with other data, base model or head than the one whose runs are there."""
    changed = []
    for key, value in now.items():
        is_unknown = key in ADDED and key not in before
        if key != SHARED and not is_unknown and before.get(key) != value:
            changed.append(key)
    if changed:
        _refuse(folder, ", ".join(changed), changed[0], before, now)


def _moved(
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    runs: Mapping[str, Mapping[str, Any]],
    settings: Sequence[Mapping[str, Any]],
) -> set[str]:
    """The settings that all runs shared and that are of the space now, or the other way around.

    A setting that was shared has to come in the space with the value that it had. One that was of the space may have
    any value now: a space may always be given further ones.
    """
    moved = set()
    for name in before:
        if name not in now and any(name in own and own[name] == before[name] for own in settings):
            moved.add(name)
    for name in now:
        if name not in before and any(name in own for own in runs.values()):
            moved.add(name)
    return moved


def _name_of(own: Mapping[str, Any], shared: Mapping[str, Any], runs: Mapping[str, Mapping[str, Any]]) -> str:
    """The run that has these settings, or the next number."""
    whole = {**shared, **own}
    for name, own_of_run in runs.items():
        # compared whole: a run may have of its own what all share anyway
        if {**shared, **own_of_run} == whole:
            return name
    return f"run-{len(runs)}"


def _only(settings: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """The settings with these names."""
    return {name: value for name, value in settings.items() if name in names}


def _without(settings: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """The settings with other names."""
    return {name: value for name, value in settings.items() if name not in names}


def _refuse(folder: Path, what: str, name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> NoReturn:
    """Refuse to put runs beside others that share something else."""
    raise TrainingError(
        f"{folder} holds runs with another {what} ({name} was {before.get(name)!r} and is {now.get(name)!r} now). Use "
        "another output_dir, or delete that one."
    )
