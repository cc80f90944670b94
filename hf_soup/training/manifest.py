"""`sweep.json`: values that all runs of a folder share, and the settings of each run. Nothing is trained."""

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
SHARED = "training_args"  # key of the settings that all runs share
ADDED = ("columns", "higher_is_better")  # keys that files of older versions lack


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read `sweep.json`.

    Raises:
        [`TrainingError`]: if the folder is not that of a sweep.
    """
    manifest = find_manifest(folder)
    if manifest is None:
        raise TrainingError(f"{folder} is not the folder of a sweep: it has no {SWEEP_FILE}.")
    return manifest


def find_manifest(folder: Path) -> dict[str, Any] | None:
    """Read `sweep.json`; `None` if there is none.

    Raises:
        [`TrainingError`]: if the file cannot be read.
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
    """Whether the content is well-formed, with names of runs that are subfolders of its folder."""
    if not isinstance(content, dict) or not isinstance(content.get("base_commit"), (str, type(None))):
        return False
    fixed, runs = content.get("fixed"), content.get("runs")
    if not isinstance(fixed, dict) or not isinstance(fixed.get(SHARED, {}), dict) or not isinstance(runs, dict):
        return False
    # files are deleted in the folders of runs, so no name may point outside of the sweep's folder
    has_names_of_runs = all(re.fullmatch(r"run-[0-9]+", name) for name in runs)
    return has_names_of_runs and all(isinstance(own, dict) for own in runs.values())


def start_digests(start: Path) -> dict[str, str]:
    """Digests of the weight files of the start, by name."""
    files = sorted(start.glob("*.safetensors"))
    names = [path.name for path in files]
    return dict(zip(names, content_digests(files).values(), strict=True))


def check_start(manifest: Mapping[str, Any], start: Path) -> None:
    """Raise an error if the weights of the start have changed since the first runs.

    Args:
        manifest (`Mapping[str, Any]`):
            Content of `sweep.json`; without the key `start`, nothing is checked.
        start (`Path`):
            Folder of the start.

    Raises:
        [`TrainingError`]: if the weights have changed.
    """
    if manifest.get("start", {}) not in ({}, start_digests(start)):
        raise TrainingError(
            f"the weights in {start} have changed since the first runs began with them, and averages need one start. "
            "Put them back, or use another output_dir."
        )


def whole_runs(manifest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """All settings of each run: the shared ones and its own, which take precedence."""
    shared = manifest["fixed"].get(SHARED, {})
    return {name: {**shared, **own} for name, own in manifest["runs"].items()}


def extend_manifest(
    manifest: Mapping[str, Any] | None,
    folder: Path,
    fixed: Mapping[str, Any],
    settings: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The next content of `sweep.json`, and the name of each run: that of the same settings, or the next number.

    Runs are the same if all their settings, shared and own, are the same. A setting may have moved between the two
    since the last call; from then on it belongs to each run.

    Args:
        manifest (`Mapping[str, Any]`, *optional*):
            Current content of `sweep.json`.
        folder (`Path`):
            Folder of the sweep.
        fixed (`Mapping[str, Any]`):
            Values that all runs share: data, base model, head; `training_args` are the shared settings.
        settings (`Sequence[Mapping[str, Any]]`):
            Settings of each run.

    Returns:
        `tuple[dict[str, Any], dict[str, dict[str, Any]]]`: the manifest, and the settings of the requested runs by
        name, in order.

    Raises:
        [`TrainingError`]: if the existing runs have other shared values.
    """
    # JSON types: a tuple of this call is a list in the file
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
    """Raise an error for a folder that looks like that of a sweep but has no `sweep.json`."""
    strangers = [path.name for path in (*folder.glob(START), *folder.glob("run-*"))]
    if strangers:
        raise TrainingError(
            f"{folder} holds {strangers[0]} but no {SWEEP_FILE}: no sweep made it. Use another folder."
        )


def _refuse_other_sweep(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise an error if the existing runs have other data, another base model or another head."""
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
    """The settings that have moved from the shared ones to the space, or from the space to the shared ones.

    If a setting was shared, the space has to include its value. If it was in the space, it may have any value now,
    because a space may always be extended.
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
    """The name of the run with these settings, or the next number."""
    whole = {**shared, **own}
    for name, own_of_run in runs.items():
        # all settings are compared, because a run's own settings may repeat shared ones
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
    """Raise an error that the existing runs have another value of something shared."""
    raise TrainingError(
        f"{folder} holds runs with another {what} ({name} was {before.get(name)!r} and is {now.get(name)!r} now). Use "
        "another output_dir, or delete that one."
    )
