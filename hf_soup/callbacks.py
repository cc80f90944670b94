"""Averages of the weights that one training run passes through, for any Trainer and for training loops of your own.

The average is updated while the run trains, in float32, and needs the memory of one more model; `"bema"` needs two,
and `"last"` as many as it averages. While the model has the average, its own weights are kept beside it. Nothing here
averages several runs: that is what [`hf_soup.merge`] is for.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from transformers import TrainerCallback

from .errors import RecipeError, TrainingError, did_you_mean
from .evaluation.batchnorm import batchnorm_modules, update_batchnorm


if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainerControl, TrainerState, TrainingArguments

KINDS = ("last", "ema", "bema", "swa")
STATE = "average_state.safetensors"  # file of a checkpoint that holds what the average needs to go on
BESIDE = "average"  # subfolder of a checkpoint for the averaged model, with `save="beside"`
WARM_UP_POWER = 2 / 3  # of timm's warm-up
BATCHNORM_BATCHES = 100  # batches on which BatchNorm statistics are estimated again


class AverageWeights(TrainerCallback):
    """Average the weights of a run while it trains, and evaluate and save the average.

    It can be passed to any `transformers.Trainer` (`callbacks=[AverageWeights("ema")]`). At every evaluation and
    checkpoint, and at the end, the model has the averaged weights; training goes on with its own. A checkpoint also
    holds the weights of training, so that a resumed run is the same to the bit. BatchNorm statistics are estimated
    again on training data, because averaged ones match no model. Only weights that are trained are averaged. A run
    resumes from a checkpoint in its own `output_dir`.

    Args:
        kind (`str`, *optional*, defaults to `"ema"`):
            `"ema"`, an exponential moving average; `"bema"`, one that is corrected for its bias; `"swa"`, the mean of
            all weights from `start` on; or `"last"`, the mean of the last `k` snapshots.
        decay (`float`, *optional*, defaults to 0.999):
            Decay of `"ema"` in one update.
        half_life (`float`, *optional*):
            Number of updates after which a weight counts half in `"ema"`, instead of `decay`.
        warmup (`bool`, *optional*, defaults to `True`):
            Whether the decay of `"ema"` grows from 0 to its value, so that the first weights do not stay in it.
        k (`int`, *optional*, defaults to 3):
            Number of snapshots of `"last"`.
        start (`float`, *optional*, defaults to 0.75):
            Fraction of the training steps after which `"swa"` begins in a Trainer.
        every (`int`, *optional*):
            Number of steps between two updates; by default 1, and for `"last"` an epoch.
        save (`str`, *optional*, defaults to `"instead"`):
            Whether the average is evaluated and saved `"instead"` of the weights of training, or saved `"beside"` them
            in the subfolder `average` of each checkpoint.

    Raises:
        [`RecipeError`]: if an argument is invalid.

    Source: Izmailov et al. 2018, [SWA](https://arxiv.org/abs/1803.05407); Block and Zhang 2025,
    [BEMA](https://arxiv.org/abs/2508.00180), algorithm 1; Kaddour 2022, [LAWA](https://arxiv.org/abs/2209.14981), for
    `"last"`; the warm-up is that of timm.
    """

    def __init__(
        self,
        kind: str = "ema",
        *,
        decay: float = 0.999,
        half_life: float | None = None,
        warmup: bool = True,
        k: int = 3,
        start: float = 0.75,
        every: int | None = None,
        save: Literal["instead", "beside"] = "instead",
    ):
        if kind not in KINDS:
            raise RecipeError(
                f'there is no average "{kind}"{did_you_mean(str(kind), KINDS)} Known: {", ".join(KINDS)}.'
            )
        if half_life is not None and not half_life > 0:
            raise RecipeError(f"half_life is a number of updates above 0, not {half_life}.")
        if not 0 <= decay < 1 or not 0 <= start < 1:
            raise RecipeError(f"decay and start are from 0 to below 1, not {decay} and {start}.")
        if not _is_count(k) or not (every is None or _is_count(every)):
            raise RecipeError(f"k and every are whole numbers from 1, not {k!r} and {every!r}.")
        if save not in ("instead", "beside"):
            raise RecipeError(f'save is "instead" or "beside", not {save!r}.')
        self.kind, self.warmup, self.k, self.start, self.every, self.save = kind, warmup, k, start, every, save
        self.decay = decay if half_life is None else 0.5 ** (1 / half_life)
        self.updates = 0
        self.average: dict[str, torch.Tensor] = {}  # float32, by the names of the model's parameters
        self.first: dict[str, torch.Tensor] = {}  # weights before training, for "bema"
        self.snapshots: list[dict[str, torch.Tensor]] = []  # the oldest first, for "last"
        self._raw: dict[str, torch.Tensor] | None = None  # weights of training while the model has the average
        self._last_step: int | None = None  # step of the last snapshot of "last"

    # For any training loop

    @torch.no_grad()
    def update(self, model: torch.nn.Module) -> None:
        """Take the present weights of a model into the average.

        Args:
            model (`torch.nn.Module`):
                Model in training.
        """
        self.updates += 1
        if self.kind == "last":
            self.snapshots = [*self.snapshots, _copied(model)][-self.k :]
        elif not self.average:
            self.average = _copied(model)
            if self.kind == "bema":
                self.first = _copied(model)
        else:
            share = self._share_of_new()
            for name, parameter in _trained(model):
                average = self.average[name]
                average.lerp_(parameter.detach().to(average), share)

    def _share_of_new(self) -> float:
        """The share of the new weights in the average."""
        if self.kind == "swa":  # the mean of n weights from that of n - 1
            return 1 / self.updates
        if self.kind == "bema":  # beta_t = (rho + gamma t)^-kappa with the defaults rho = 10, gamma = 1, kappa = 0.5
            return float((10 + self.updates) ** -0.5)
        decay = self.decay
        if self.warmup:  # of timm, with gamma = 1, whose steps count from 0
            decay = min(decay, 1 - self.updates**-WARM_UP_POWER)
        return 1 - decay

    @torch.no_grad()
    def averaged(self, model: torch.nn.Module) -> dict[str, torch.Tensor]:
        """The averaged weights, float32, by the names of the parameters.

        Args:
            model (`torch.nn.Module`):
                Model in training, whose present weights `"bema"` needs.

        Raises:
            [`TrainingError`]: if nothing was averaged yet.
        """
        if self.kind == "last" and self.snapshots:
            names = self.snapshots[0]
            return {name: torch.stack([state[name] for state in self.snapshots]).mean(0) for name in names}
        if not self.average:
            raise TrainingError("no weights were averaged yet: call update(model) after steps of the optimizer.")
        if self.kind != "bema":
            return self.average
        # theta'_t = alpha_t (theta_t - theta_0) + EMA_t with alpha_t = (rho + gamma t)^-eta and eta = 0.2
        alpha = (10 + self.updates) ** -0.2
        corrected = {}
        for name, parameter in _trained(model):
            now = parameter.detach().to(self.average[name])
            corrected[name] = alpha * (now - self.first[name]) + self.average[name]
        return corrected

    @contextlib.contextmanager
    def applied(self, model: torch.nn.Module, batches: Any = None) -> Iterator[torch.nn.Module]:
        """Give a model the averaged weights within a `with` block, such as for an evaluation.

        Args:
            model (`torch.nn.Module`):
                Model in training.
            batches (`Iterable`, *optional*):
                Batches of training data, on which BatchNorm statistics are estimated again if the model has any.
        """
        try:
            self._swap_in(model, batches)
            yield model
        finally:
            self._swap_out(model)

    @torch.no_grad()
    def _swap_in(self, model: torch.nn.Module, batches: Any = None) -> None:
        """Give the model the averaged weights, and keep its own."""
        if self._raw is not None:
            return
        averaged = self.averaged(model)
        self._raw = {name: parameter.detach().clone() for name, parameter in _trained(model)}
        for name, parameter in _trained(model):
            parameter.copy_(averaged[name])
        if batchnorm_modules(model):
            self._raw.update({name: buffer.detach().clone() for name, buffer in model.named_buffers()})
            if batches is not None:
                with _same_random_numbers():
                    update_batchnorm(model, batches)  # type: ignore[arg-type]  # any module with BatchNorm will do

    @torch.no_grad()
    def _swap_out(self, model: torch.nn.Module) -> None:
        """Give the model its own weights back."""
        if self._raw is None:
            return
        present = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        for name, tensor in self._raw.items():
            present[name].copy_(tensor)
        self._raw = None

    # For Trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin, or go on where a checkpoint was left.

        Raises:
            [`RecipeError`]: with FSDP or DeepSpeed, where no process has all weights.
        """
        for name in ("fsdp", "deepspeed"):
            is_launched_with = os.environ.get(f"ACCELERATE_USE_{name.upper()}", "").lower() in ("1", "true")
            if getattr(args, name, None) or is_launched_with:
                raise RecipeError(f"AverageWeights does not work with {name} yet: no process has all of the weights.")
        # nothing of an earlier training with this callback
        self.updates, self.average, self.first, self.snapshots = 0, {}, {}, []
        self._raw, self._last_step = None, None
        model = kwargs["model"]
        if state.global_step > 0:
            self._restore(model, Path(str(args.output_dir)) / f"checkpoint-{state.global_step}")
        elif self.kind == "bema":
            self.update(model)  # theta_0, with which the average begins

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Go on with the weights of training."""
        self._swap_out(kwargs["model"])

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Go on with the weights of training."""
        self._swap_out(kwargs["model"])

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Update the average, and apply it if an evaluation or a checkpoint follows."""
        if self._is_due(state) and self._has_begun(state):
            self._last_step = state.global_step
            self.update(kwargs["model"])
        self._apply_if_due(control, kwargs)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """As after a step."""
        if self.kind == "last" and self.every is None and self._last_step != state.global_step:
            self._swap_out(kwargs["model"])
            self.update(kwargs["model"])
        self._apply_if_due(control, kwargs)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save what the average needs to go on, and with `save="beside"` the averaged model."""
        if not state.is_world_process_zero:
            return
        checkpoint = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        if not checkpoint.is_dir():  # such as a trial of a hyperparameter search, which nothing resumes
            return
        self._save_state(checkpoint / STATE)
        if self.save == "beside" and self._is_there():
            with self.applied(kwargs["model"], _batches(kwargs.get("train_dataloader"))):
                kwargs["model"].save_pretrained(checkpoint / BESIDE)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the average in the model, unless Trainer has loaded the best checkpoint, which has its own."""
        if self.save == "beside":
            return
        if args.load_best_model_at_end and state.best_model_checkpoint:
            self._raw = None
        elif self._is_there():
            self._swap_in(kwargs["model"], _batches(kwargs.get("train_dataloader")))
            self._raw = None  # for good

    def _is_due(self, state: TrainerState) -> bool:
        """Whether the average is updated after the present step; by default `"last"` is at the end of an epoch."""
        if self.every is not None:
            return state.global_step % self.every == 0
        return self.kind != "last" or abs(state.epoch - round(state.epoch)) < 1e-6

    def _has_begun(self, state: TrainerState) -> bool:
        """Whether the present step takes part in the average."""
        return self.kind != "swa" or state.global_step > self.start * state.max_steps

    def _is_there(self) -> bool:
        """Whether anything was averaged."""
        return bool(self.average or self.snapshots)

    def _apply_if_due(self, control: TrainerControl, kwargs: Mapping[str, Any]) -> None:
        """Apply the average if an evaluation or a checkpoint follows."""
        due = control.should_evaluate or control.should_save
        if self.save == "instead" and due and self._is_there():
            self._swap_in(kwargs["model"], _batches(kwargs.get("train_dataloader")))

    def _save_state(self, path: Path) -> None:
        """Write the averages, and the weights of training if the checkpoint has the averaged ones."""
        from safetensors.torch import save_file

        parts: dict[str, Mapping[str, torch.Tensor]] = {"average": self.average, "first": self.first}
        parts["raw"] = self._raw or {}
        for number, snapshot in enumerate(self.snapshots):
            parts[f"snapshot-{number}"] = snapshot
        tensors = {}
        for part, state in parts.items():
            for name, tensor in state.items():
                tensors[f"{part}/{name}"] = tensor.detach().cpu().contiguous()
        aside = path.with_name(f"{path.name}.part")
        save_file(tensors, aside, metadata={"average": json.dumps({"kind": self.kind, "updates": self.updates})})
        os.replace(aside, path)

    def _restore(self, model: PreTrainedModel, checkpoint: Path) -> None:
        """Read what a checkpoint holds, and give the model the weights of training.

        Raises:
            [`TrainingError`]: if the checkpoint was written without this average.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(checkpoint / STATE, "pt") as file:
                about = json.loads((file.metadata() or {}).get("average", "{}"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
        except (OSError, SafetensorError, ValueError):
            about, tensors = {}, {}
        if about.get("kind") != self.kind:
            raise TrainingError(
                f"{checkpoint} holds no state of an average of the kind {self.kind!r}, without which it cannot go on: "
                "resume from a checkpoint in output_dir with the arguments of the first call, or begin again."
            )
        self.updates = int(about["updates"])
        states: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            part, _, parameter = name.partition("/")
            states.setdefault(part, {})[parameter] = tensor.to(model.device)
        self.average, self.first = states.get("average", {}), states.get("first", {})
        self.snapshots = [states[part] for part in _numbered(states)]
        if "raw" in states:
            self._raw = states["raw"]
            self._swap_out(model)


def _is_count(value: object) -> bool:
    """Whether a value is a whole number from 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _trained(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """The parameters that are trained; those of a frozen base stay as they are."""
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def _copied(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The trained weights in float32."""
    return {name: parameter.detach().float().clone() for name, parameter in _trained(model)}


def _numbered(states: Mapping[str, Any]) -> list[str]:
    """The names of the snapshots, the oldest first."""
    names = [name for name in states if name.startswith("snapshot-")]
    return sorted(names, key=lambda name: int(name.removeprefix("snapshot-")))


def _batches(loader: Any) -> Iterator[Any] | None:
    """Some batches of the training data, without touching the loader that trains."""
    return None if loader is None else _shuffled(loader)


def _shuffled(loader: Any) -> Iterator[Any]:
    """A generator, so that nothing draws random numbers before a batch is asked for."""
    size = loader.batch_size or getattr(loader.batch_sampler, "batch_size", None) or 1
    examples = loader.dataset
    if hasattr(examples, "__len__"):  # in one random order, because data may be sorted by class
        order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(0)).tolist()
        examples = torch.utils.data.Subset(examples, order)
    plain = torch.utils.data.DataLoader(examples, batch_size=size, collate_fn=loader.collate_fn)
    for batch, _ in zip(plain, range(BATCHNORM_BATCHES), strict=False):
        yield batch


@contextlib.contextmanager
def _same_random_numbers() -> Iterator[None]:
    """Leave the random numbers that training draws as they were, whatever data loading draws."""
    import random

    import numpy as np

    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
