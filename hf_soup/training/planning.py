"""What a sweep will do, decided and checked before anything is written: runs, steps, disk. It trains nothing."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints import hub
from ..checkpoints.bounds import at_most_modules
from ..checkpoints.checkpoint import read_card
from ..checkpoints.files_beside import CARD
from ..checkpoints.named_code import forget_code
from ..checkpoints.targets import refuse_folder
from ..data.content import hash_rows
from ..errors import IngredientError, OutputError, RecipeError, TrainingError, did_you_mean
from ..hub.bases import START, bases_of_folder
from ..lookup import load_module
from ..metrics import Metric, load_metrics
from ..model_inputs import empty_model, inputs_of
from ..seeds import check_seed
from ..tables import align, cell, shared_line
from ..tokens import check_token, limit_length
from ..untrusted import as_error
from .class_weights import check_class_weights
from .context import SweepContext
from .examples import encode_examples, guess_task
from .manifest import SHARED, check_start, extend_manifest, find_manifest
from .records import load_failure, load_runs
from .settings import KEEP, canonical, check_settings, separate, training_arguments
from .space import different, expand_space
from .start import Origin, find_origin


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig


ON_ERROR = ("continue", "raise")
OPTIMIZER_STATES = 2  # of the size of the weights, as AdamW has them


@dataclass(frozen=True)
class SweepPlan:
    """A sweep before it runs.

    Args:
        context ([`SweepContext`]):
            What all runs share.
        origin ([`Origin`], *optional*):
            Where the start comes from; `None` if it is there.
        init (`Mapping[str, Any]`):
            How the start is made: `init_seed` and `probe_args`.
        runs (`Mapping[str, Mapping]`):
            Name -> settings of its own, in the order of the space.
        manifest (`Mapping[str, Any]`):
            What `sweep.json` will hold.
        steps (`Mapping[str, int]`):
            Optimizer steps of each run.
        done (`frozenset[str]`):
            Runs that are whole, or failed in a way that trying again would not change.
        disk (`int`):
            Bytes that the rest will take, at most, while it runs.
    """

    context: SweepContext
    origin: Origin | None
    init: Mapping[str, Any]
    runs: Mapping[str, Mapping[str, Any]]
    manifest: Mapping[str, Any]
    steps: Mapping[str, int]
    done: frozenset[str]
    disk: int

    @property
    def todo(self) -> list[str]:
        """The runs that are to be trained, those last that have failed before."""
        left = [name for name in self.runs if name not in self.done]
        return sorted(left, key=lambda name: load_failure(self.context.folder / name) is not None)

    def summary(self) -> str:
        """How much there is to do, in one line."""
        steps = sum(self.steps[name] for name in self.todo)
        there = f", {len(self.done)} are there" if self.done else ""
        size = f"{self.disk / 1e9:.1f} GB" if self.disk >= 1e9 else f"{self.disk / 1e6:.0f} MB"
        return f"{len(self.todo)} runs of {len(self.runs)} to train{there}: {steps:,} steps, at most {size} on disk"

    def table(self) -> str:
        """A row for each run: what it has of its own, its steps, and whether it is there; then what all share, and the
        summary.
        """
        keys = list(dict.fromkeys(key for setting in self.runs.values() for key in setting))
        lines = [["run", *keys, "steps", ""]]
        for name, setting in self.runs.items():
            values = [cell(setting.get(key)) for key in keys]
            lines.append([name, *values, f"{self.steps[name]:,}", "there" if name in self.done else ""])
        return "\n".join([align(lines), *shared_line(self.context.training_args, keys), "", self.summary()])


def plan_sweep(
    base_model: str | os.PathLike,
    train: Dataset,
    *,
    space: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    output_dir: str | os.PathLike,
    task: str = "auto",
    validation: Dataset | None = None,
    metric: str | None = None,
    n_runs: int | None = None,
    seed: int = 0,
    head: str = "auto",
    init_seed: int = 0,
    probe_args: Mapping[str, Any] | None = None,
    keep: str | None = None,
    training_args: Mapping[str, Any] | None = None,
    label_column: str | None = None,
    text_columns: Sequence[str] | None = None,
    callbacks: Sequence[Any] | None = None,
    path: str | None = None,
    workers: int = 1,
) -> SweepPlan:
    """Check everything that [`hf_soup.sweep`] is given, on loaded data sets; its arguments are described there.

    Args:
        path (`str`, *optional*):
            The Hub id of the data, for the cards of the runs.
        workers (`int`, *optional*, defaults to 1):
            How many runs are trained at once, for the disk that they need.

    Raises:
        [`SoupError`]: for what is wrong; nothing has been written then.
    """
    from .callbacks import fresh_callbacks, listed_callbacks, stop_early

    folder, init_seed = refuse_folder(output_dir).resolve(), check_seed(init_seed, "init_seed")
    callbacks = listed_callbacks(callbacks)
    stopped_by_callback = stop_early(fresh_callbacks(callbacks))
    keep = keep or ("last" if validation is None else "best")
    if keep not in KEEP:
        raise RecipeError(f"keep is one of {', '.join(KEEP)}{did_you_mean(keep, KEEP)}")
    if keep == "best" and validation is None:
        raise RecipeError('keep="best" needs validation data; without it, write keep="last".')
    module = load_module("task", task if task != "auto" else guess_task(train))
    (chosen,) = load_metrics(metric or module.METRIC)
    shared, probe_args = canonical(training_args or {}), canonical(probe_args or {})
    settings = different([canonical(setting) for setting in expand_space(space, n_runs=n_runs, seed=seed)])
    label = module.label_column(train, label_column)
    columns = module.columns(train, text_columns, label)
    fields = module.head(train, label)
    manifest = find_manifest(folder)
    source, revision = _pinned(base_model, manifest)
    base_card = _card(source, revision)
    start = folder / START
    if start.is_dir():
        source, revision, origin, config = str(start), None, None, _config(start)
    else:
        origin = find_origin(source, revision, module, fields, head)
        config = origin.config
    processing_class = module.load_processing_class(source, revision)
    forget_code(processing_class)
    own = [*settings, probe_args]
    _refuse_own_length(own)
    augments = _different_values("augment", shared, own)
    for setting in own:
        check_settings(
            {**shared, **setting},
            module,
            processing_class,
            evaluates=validation is not None,
            metric=chosen,
            stops_early=stopped_by_callback,
        )
    with as_error(TrainingError, f"no model can be built from the configuration of {base_model}"), at_most_modules():
        model = empty_model(module.AUTO_CLASS, config)
    inputs = inputs_of(model)
    if any("mask" in augment for augment in augments):
        check_token(processing_class.mask_token_id, "texts are masked with", processing_class, inputs)
    if hasattr(processing_class, "model_max_length") and inputs.positions is not None:
        processing_class.model_max_length = min(processing_class.model_max_length, inputs.positions)  # saved with runs
    fixed = {
        "base_model": _base_identity(base_model),
        "task": module.__name__.split(".")[-1].replace("_", "-"),
        "train": hash_rows(train).fingerprint,
        "validation": hash_rows(validation).fingerprint if validation is not None else None,
        "label_column": label,
        "classes": list(fields["label2id"]) if "label2id" in fields else None,
        "text_columns": text_columns,
        "columns": columns,
        "head": head,
        "init_seed": init_seed,
        "probe_args": probe_args,
        "keep": keep,
        "metric": chosen.name,
        SHARED: shared,
    }
    if manifest and start.is_dir():
        check_start(manifest, start)
    commit = manifest.get("base_commit") if manifest else revision
    manifest, runs = extend_manifest(manifest, folder, fixed, settings)
    still_shared = {name: value for name, value in shared.items() if name in manifest["fixed"][SHARED]}
    if shared.get("max_length") is not None:
        limit_length(processing_class, shared["max_length"], inputs.positions)
    encoded = {}
    for part, data in {"train": train, "validation": validation}.items():
        if data is not None:  # validation data is read from the columns of the training data, where it has them
            read = columns if set(columns) <= set(data.column_names) else text_columns
            encoded[part] = encode_examples(module, data, label, read, config, processing_class, inputs, part)
    for weights in _different_values("class_weights", shared, own):
        check_class_weights(weights, module, config, encoded["train"], fields.get("id2label"))
    about = {
        "base_model": str(base_model) if commit else Path(base_model).name,  # a path is nobody's business
        "base_commit": commit,
        "data": {
            "path": path if hub.is_hub_id(path) else None,
            "train": {"fingerprint": fixed["train"], "rows": len(train)},
            "validation": validation and {"fingerprint": fixed["validation"], "rows": len(validation)},
        },
    }
    context = SweepContext(
        folder=folder,
        task=fixed["task"],
        processing_class=processing_class,
        train=encoded["train"],
        validation=encoded.get("validation"),
        metric=metric or module.METRIC,
        training_args=still_shared,
        keep=keep,
        own_heads=head == "independent",
        about=about,
        base_card=base_card,
        callbacks=callbacks,
    )
    done = frozenset(name for name in runs if _is_done(folder / name))
    steps, evaluations = _lengths(context, runs, chosen)
    todo = [name for name in runs if name not in done]
    copies = sum(evaluations[name] if keep == "all" else 1 for name in todo) + (origin is not None)
    under_way = 3  # the best or the one before, the last, and the one that is being written
    nbytes = sum(tensor.nbytes for tensor in model.state_dict().values()) if todo or origin else 0
    more = min(workers, len(todo)) * under_way * (1 + OPTIMIZER_STATES)
    plan = SweepPlan(
        context,
        origin,
        {"init_seed": init_seed, "probe_args": probe_args},
        runs,
        {**manifest, "base_commit": commit},
        steps,
        done,
        nbytes * (copies + more),
    )
    _refuse_small_disk(plan)
    return plan


def _refuse_own_length(own: Sequence[Mapping[str, Any]]) -> None:
    """Texts are cut once, before the first run."""
    if any("max_length" in setting for setting in own):
        raise RecipeError(
            '"max_length" is the same for all runs, because the data is encoded once: give it one value, in '
            "training_args."
        )


def _different_values(name: str, shared: Mapping[str, Any], own: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The values that a setting has in some run, each once, where it has one."""
    values: list[Any] = []
    for setting in own:
        value = {**shared, **setting}.get(name)
        if value is not None and value not in values:
            values.append(value)
    return values


def _pinned(base_model: str | os.PathLike, manifest: Mapping[str, Any] | None) -> tuple[str, str | None]:
    """A folder as it is; a Hub id with its commit, which is the one that the sweep began with."""
    if os.path.isdir(base_model):
        return str(base_model), None
    source, revision = hub.split_revision(base_model)
    if manifest and manifest.get("base_commit"):
        return source, manifest["base_commit"]
    if os.path.isabs(source) or hub.split_source(source) is None:
        raise TrainingError(f"{source} does not exist, and it is no Hub id (owner/name, owner/name@revision) either.")
    return source, hub.resolve(source, revision)


def _card(source: str, commit: str | None) -> dict[str, Any]:
    """What the card of the base model says; nothing where it has none, or cannot be asked. Of a folder, what else says
    what it was fine-tuned from counts as its `base_model`.
    """
    if not commit:
        bases = bases_of_folder(Path(source).resolve())
        return {**read_card(Path(source)), "base_model": list(bases)}
    try:
        return read_card(hub.fetch(source, commit, [CARD]))
    except IngredientError:
        return {}


def _config(folder: Path) -> PretrainedConfig:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def _base_identity(base_model: str | os.PathLike) -> str:
    """A Hub id as it is; a folder by the content of its weights, wherever it lies."""
    import xxhash

    if not os.path.isdir(base_model):
        return str(base_model)
    digest = xxhash.xxh3_128()
    for path in sorted(Path(base_model).glob("*")):
        if path.suffix in (".safetensors", ".bin"):
            digest.update(path.name.encode())
            with path.open("rb") as file:
                while block := file.read(1 << 24):
                    digest.update(block)
    return "xxh3-128:" + digest.hexdigest()


def _is_done(folder: Path) -> bool:
    """Whole, or diverged: the same would come out again."""
    failure = load_failure(folder)
    return bool(load_runs(folder)) or (failure is not None and failure.kind == "diverged")


def _lengths(
    context: SweepContext, runs: Mapping[str, Mapping[str, Any]], metric: Metric
) -> tuple[dict[str, int], dict[str, int]]:
    """Steps and evaluations of each run, as Trainer counts them."""
    steps, evaluations = {}, {}
    for name, setting in runs.items():
        fields, extra = separate({**context.training_args, **setting})
        rules = {"keep": context.keep, "evaluates": context.validation is not None, "metric": metric}
        args = training_arguments(context.folder / name, fields, **rules)
        rows = max(round(len(context.train) * extra.bagging_fraction), 1)
        batches = -(-rows // (args.train_batch_size * args.world_size))
        if args.dataloader_drop_last:
            batches = max(rows // (args.train_batch_size * args.world_size), 1)
        epoch = max(-(-batches // args.gradient_accumulation_steps), 1)
        steps[name] = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * epoch)
        every = args.save_steps if args.save_strategy == "steps" else epoch
        every = every * steps[name] if 0 < every < 1 else every
        evaluations[name] = math.ceil(steps[name] / every)
    return steps, evaluations


def _refuse_small_disk(plan: SweepPlan) -> None:
    folder = plan.context.folder
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if plan.disk > free:
        raise OutputError(
            f"{folder}: {plan.summary()}, and {free / 1e9:.1f} GB are free. Make room, or train fewer runs at once."
        )
