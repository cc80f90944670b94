"""Checkpoints of Trainer in the folder of a run, and which of them are complete. Trainer writes them in place."""

from __future__ import annotations

import json
import os
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints.other_contents import ADAPTER, ADAPTER_WEIGHTS
from ..checkpoints.reader import read_header
from ..checkpoints.shards import read_headers
from ..checkpoints.staging import clear_files_aside, write_json
from ..errors import IngredientError, SoupError
from ..untrusted import read_json
from .history import without_timings
from .processes import is_main


if TYPE_CHECKING:
    from transformers import TrainerState

STATE = "trainer_state.json"
AVERAGE = "average_state.safetensors"  # of `hf_soup.callbacks.AverageWeights`
# Files of a checkpoint that only serve to resume: states of the optimizer and others, and pickled arguments.
TRAINING_FILES = ("optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state*.pth", "training_args.bin", AVERAGE)


def newest_whole_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint whose files are all complete; newer, incomplete ones are deleted.

    Args:
        folder (`Path`):
            Folder of a run, which may have been moved.

    Returns:
        `Path` or `None`: the checkpoint that Trainer can resume from.
    """
    clear_files_aside(folder.rglob("*"))
    for checkpoint in reversed(list(checkpoints_in(folder))):
        state = _state_of_whole(checkpoint)
        if state is not None and _has_its_best(checkpoint, state, folder):
            return checkpoint
        shutil.rmtree(checkpoint, ignore_errors=True)
    return None


def _has_its_best(checkpoint: Path, state: Mapping[str, Any], folder: Path) -> bool:
    """Whether the best checkpoint so far is complete; without it the best weights would be lost.

    Trainer records it by its absolute path, which is corrected if the run was moved.
    """
    named = state.get("best_model_checkpoint")
    if not named:
        return True
    best = folder / f"checkpoint-{state['best_global_step']}"
    if not _readable(best):
        return False
    if str(best) != named:
        write_json(checkpoint / STATE, {**state, "best_model_checkpoint": str(best)})
    return True


def has_ended(state: TrainerState) -> bool:
    """Whether training was finished when a checkpoint was written, by its last step or by a callback."""
    # a mapping, although it is annotated as a list
    callbacks: Any = state.stateful_callbacks
    control = callbacks.get("TrainerControl", {}).get("args", {})
    return state.global_step >= state.max_steps or bool(control.get("should_training_stop", False))


def add_callback_states(checkpoint: Path, states: Mapping[str, Any]) -> None:
    """Add the states of callbacks that were not used when a checkpoint was written, because Trainer expects the states
    of all callbacks.

    Args:
        checkpoint (`Path`):
            Checkpoint to resume from.
        states (`Mapping[str, Any]`):
            States by class name of the callback.
    """
    if not is_main():
        return
    state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    saved = state["stateful_callbacks"]
    if not states.keys() <= saved.keys():
        write_json(checkpoint / STATE, {**state, "stateful_callbacks": {**states, **saved}})


def checkpoints_in(folder: Path) -> Iterator[Path]:
    """The folders `checkpoint-N`, in order of N."""
    checkpoints = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    yield from sorted(checkpoints, key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step N of `checkpoint-N`."""
    return int(checkpoint.name.rpartition("-")[2])


def forget_training(checkpoint: Path) -> None:
    """Delete the files that only serve to resume: a checkpoint becomes a plain model, the same whether training was
    interrupted or not.
    """
    for pattern in TRAINING_FILES:
        for path in checkpoint.glob(pattern):
            path.unlink()
    # timings depend on interruptions
    state = read_json(checkpoint / STATE)
    lasting = {**state, "log_history": without_timings(state["log_history"])}
    if state["best_model_checkpoint"]:  # paths of this machine must not be published with the model
        lasting["best_model_checkpoint"] = Path(state["best_model_checkpoint"]).name
    if lasting != state:
        write_json(checkpoint / STATE, lasting)


def adopt(checkpoint: Path, folder: Path) -> None:
    """Link the files of a checkpoint into its parent folder; they are copied if the file system has no links."""
    for path in checkpoint.iterdir():
        if any(path.match(pattern) for pattern in (STATE, *TRAINING_FILES)):
            continue
        target = folder / path.name
        if path.is_dir():  # such as additional chat templates
            shutil.copytree(path, target, dirs_exist_ok=True)
            continue
        target.unlink(missing_ok=True)  # os.link fails if the target exists
        try:
            os.link(path, target)
        except OSError:  # no links on this file system
            shutil.copy2(path, target)


def _state_of_whole(checkpoint: Path) -> dict[str, Any] | None:
    """The state of Trainer in a checkpoint whose files are all complete; `None` for other checkpoints."""
    try:
        state = read_json(checkpoint / STATE)
    except (OSError, SoupError):
        return None
    if not isinstance(state, dict) or state.get("global_step") != step_of(checkpoint):
        return None
    if state.get("best_model_checkpoint") and "best_global_step" not in state:
        return None
    random_states = _random_states()
    # Trainer resumes without a missing one, but the run would not be the same
    if {path.name for path in checkpoint.glob("rng_state*.pth")} != random_states:
        return None
    pickles = ("optimizer.pt", "scheduler.pt", *sorted(random_states))
    if all(_sound(checkpoint / name) for name in pickles) and _readable(checkpoint):
        return state
    return None


def _random_states() -> set[str]:
    """The files with the random state of each process; training can only be resumed with the same number."""
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if processes == 1:
        return {"rng_state.pth"}
    return {f"rng_state_{rank}.pth" for rank in range(processes)}


def _readable(checkpoint: Path) -> bool:
    """Whether weight files are as long as their headers say."""
    try:
        if (checkpoint / ADAPTER_WEIGHTS).is_file():
            return bool(read_header(checkpoint / ADAPTER_WEIGHTS)) and (checkpoint / ADAPTER).is_file()
        return bool(read_headers(checkpoint).specs)
    except (IngredientError, OSError):
        return False


def _sound(path: Path) -> bool:
    """Whether a file of `torch.save`, a zip archive, is complete and has the right checksums."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False
