"""The cook file: what `hf-soup cook` does, stage by stage. It reads and checks the file; `cooking.py` does it."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .data.functions import BUNDLED, is_function
from .errors import RecipeError, did_you_mean
from .lookup import chooses, is_code, refuse_code
from .metrics import BUILT_IN
from .untrusted import is_printable, one_line
from .yaml_files import build, override, read_yaml


SENDING = re.compile(r"(hub|trackio)_\w+|use_liger_kernel|liger_kernel_config|torch_compile_backend")
_STRICT = {"extra": "forbid", "strict": True}
# What transformers and timm would fetch code by, in a config or a processor: never run, whoever asks.
REMOTE_CODE = ("auto_map", "custom_pipelines", "trust_remote_code")


@dataclass(frozen=True)
class DataPart:
    """One named set of examples; what is left out is taken from the `data` section."""

    path: str | None = None
    name: str | None = None
    split: str | None = None
    transform: dict[str, Any] = field(default_factory=dict)

    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class Data:
    """The `data` section: where the examples are and which split plays which part."""

    path: str
    name: str | None = None
    train: str = "train"
    validation: str = "validation"
    test: str = "test"
    shifted: dict[str, DataPart] = field(default_factory=dict)
    label_column: str | None = None
    text_columns: list[str] | None = None

    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class PretrainStage:
    """The `pretrain` section: a model built from a config and trained, where there is no checkpoint to start from."""

    config: dict[str, Any]
    data: str = "train"
    processor: dict[str, Any] = field(default_factory=dict)
    transform: dict[str, Any] = field(default_factory=dict)
    training_args: dict[str, Any] = field(default_factory=dict)

    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class SweepStage:
    """The `sweep` section: fine-tunes of the base model."""

    space: dict[str, Any] | list[dict[str, Any]]
    n_runs: int | None = None
    seed: int = 0
    head: str = "auto"
    init_seed: int = 0
    probe_args: dict[str, Any] = field(default_factory=dict)
    keep: str = "best"
    training_args: dict[str, Any] = field(default_factory=dict)
    on_error: str = "continue"
    executor: str = "local"
    resources: dict[str, float] = field(default_factory=dict)
    push_runs: bool | str = False
    private: bool | None = None

    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class MergeStage:
    """The `merge` section: who goes into the soup and how."""

    strategy: str | None = None
    method: str = "linear"
    weights: list[float] | dict[str, list[float] | float] | None = None
    metric: str | None = None
    dtype: str = "auto"
    seed: int = 0
    align_labels: bool = False
    take_from: str | None = None
    folds: int | None = None
    holdout: float | None = None
    executor: str = "local"
    params: dict[str, Any] = field(default_factory=dict)

    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class CompareStage:
    """The `compare` section: what the comparison on the test sets reports."""

    metrics: list[str] = field(default_factory=list)
    ensembles: list[str] | None = None

    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class PushStage:
    """The `push` section: where on the Hub the soup goes."""

    repo_id: str
    private: bool | None = None
    revision: str | None = None
    create_pr: bool = False
    tags: list[str] = field(default_factory=list)
    include_plots: bool = True
    name_private: bool = False
    license: str | None = None
    benchmark: str | None = None

    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class CookFile:
    """What `hf-soup cook` does, stage by stage; a stage that is left out is not run.

    Raises:
        [`RecipeError`]: if the stages do not fit together.
    """

    output_dir: str
    base_model: str | None = None
    task: str = "auto"
    data: Data | None = None
    pretrain: PretrainStage | None = None
    sweep: SweepStage | None = None
    ingredients: list[str] = field(default_factory=list)
    merge: MergeStage | None = None
    compare: CompareStage | None = None
    push: PushStage | None = None

    __pydantic_config__ = _STRICT

    def __post_init__(self):
        if bool(self.sweep) == bool(self.ingredients):
            raise RecipeError("a cook file has either a `sweep` or a list of `ingredients`, and not both.")
        if self.sweep and bool(self.base_model) == bool(self.pretrain):
            raise RecipeError(
                "a `sweep` needs either a `base_model` or a `pretrain` section that makes one, and not both."
            )
        if self.merge and self.merge.weights is not None and self.merge.strategy not in (None, "weighted"):
            raise RecipeError("`merge` has either `weights` or a `strategy` that finds them, and not both.")
        own = {item.name for item in dataclasses.fields(MergeStage)} | {"evaluator", "base_model"}
        for name in sorted(own & set(self.merge.params if self.merge else ())):
            raise RecipeError(f"`merge.params.{name}` is no parameter of a method or strategy: write `merge.{name}`.")
        wanting = [name for name in ("sweep", "pretrain", "compare") if getattr(self, name) is not None]
        if wanting and self.data is None:
            raise RecipeError(f"`{wanting[0]}` needs a `data` section.")
        if (self.compare or self.push) and self.merge is None:
            raise RecipeError("`compare` and `push` need a `merge` section; `merge: {}` is a uniform soup.")
        names = {"pretrain", "train", "validation", "test"} & set(self.data.shifted if self.data else ())
        if names:
            raise RecipeError(f"`data.shifted.{names.pop()}`: call it otherwise, that is a part of the data.")
        if self.data and self.data.validation == self.data.test:
            raise RecipeError(
                f"`data.validation` and `data.test` are both {self.data.test!r}: what selects may not report. Use two."
            )


def load_cook_file(path: str | os.PathLike, overrides: Sequence[str] = (), *, allow_code: bool = False) -> CookFile:
    """Read and check a cook file.

    Args:
        path (`str` or `os.PathLike`):
            A YAML file; what its keys mean is in `docs/cook_file.md`.
        overrides (`Sequence[str]`, *optional*):
            Such as `"data.path=my_data"` or `"sweep.n_runs=4"`: values to use instead of those in the file.
        allow_code (`bool`, *optional*, defaults to `False`):
            Take methods, strategies, data functions and metrics that are code from outside of this package, in the
            file or the overrides.

    Raises:
        [`RecipeError`]: with the path of the first wrong key or value, and the nearest known key; or if it names code
            from elsewhere that is not allowed.
    """
    data = read_yaml(path)
    for item in overrides:
        override(data, item)
    _refuse_control(data, one_line(path))
    plan = build(CookFile, data, str(path))
    if not allow_code:
        refuse_code(_code(plan), str(path))
        _refuse_scripts(plan, one_line(path))
        _refuse_sending(plan, one_line(path))
    for name, section in (("config", "pretrain.config"), ("processor", "pretrain.processor")):
        _refuse_remote(getattr(plan.pretrain, name, {}), f"{one_line(path)}: `{section}")
    if plan.data is None and plan.merge is not None and chooses(plan.merge.strategy):
        raise RecipeError(f"{one_line(path)}: `merge.strategy` needs a `data` section.")
    return plan


def _refuse_control(value: Any, where: str) -> None:
    """Refuse control characters, which no path, name or setting holds and no system takes in a path."""
    if isinstance(value, str) and not is_printable(value.replace("\n", " ").replace("\t", " ")):
        raise RecipeError(f"{where} holds control characters in {one_line(repr(value), 60)}.")
    if isinstance(value, dict):
        value = [*value, *value.values()]
    for item in value if isinstance(value, list) else ():
        _refuse_control(item, where)


def _code(plan: CookFile) -> Iterator[tuple[str, str]]:
    """Every key of a cook file that names code from outside of this package, and what it names."""
    merge = plan.merge or MergeStage()
    for key, value in (("merge.method", merge.method), ("merge.strategy", merge.strategy)):
        if value is not None and is_code(value):
            yield key, value
    paths = {"data.path": plan.data.path} if plan.data else {}
    for name, part in (plan.data.shifted if plan.data else {}).items():
        paths[f"data.shifted.{name}.path"] = part.path or ""
    for key, value in paths.items():
        if is_function(value) and value not in BUNDLED:
            yield key, value


def _refuse_scripts(plan: CookFile, where: str) -> None:
    """Refuse metrics of evaluate: each is a script, here or on the Hub."""
    named: list[tuple[str, str]] = []
    if plan.merge and plan.merge.metric:
        named.append(("merge.metric", plan.merge.metric))
    if plan.compare:
        named += [("compare.metrics", name) for name in plan.compare.metrics]
    for key, name in named:
        if name not in BUILT_IN:
            raise RecipeError(
                f'{where}: `{key}`: there is no metric "{one_line(name)}"{did_you_mean(name, BUILT_IN)}. Others are '
                "scripts of evaluate, code from elsewhere: if you trust it, say so with allow_code=True "
                "(--allow-code)."
            )


def _refuse_sending(plan: CookFile, where: str) -> None:
    """Refuse settings of Trainer that send a run somewhere else, or fetch code for it."""
    if plan.sweep is None:
        return
    sections = {"sweep.training_args": plan.sweep.training_args, "sweep.probe_args": plan.sweep.probe_args}
    space = plan.sweep.space
    for settings in space if isinstance(space, list) else [space]:
        sections["sweep.space"] = {**sections.get("sweep.space", {}), **settings}
    if plan.pretrain:
        sections["pretrain.training_args"] = plan.pretrain.training_args
    for section, settings in sections.items():
        for name in settings:
            if SENDING.fullmatch(name):
                raise RecipeError(
                    f"{where}: `{section}.{one_line(name)}` sends a run elsewhere or fetches code for it. If you "
                    "trust the file, say so with allow_code=True (--allow-code)."
                )


def _refuse_remote(section: Any, where: str) -> None:
    """Refuse what would fetch code for a model that is built from a config."""
    if isinstance(section, Mapping):
        for key, value in section.items():
            kernels = "attn_implementation" in key and not (isinstance(value, str) and value.isidentifier())
            if key in REMOTE_CODE or kernels:
                raise RecipeError(f"{where}.{one_line(key)}` asks for code of a repository, which hf_soup never runs.")
            _refuse_remote(value, f"{where}.{one_line(key)}")
    elif isinstance(section, list):
        for item in section:
            _refuse_remote(item, where)
