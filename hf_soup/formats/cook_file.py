"""The cook file, which lists the stages of `hf-soup cook`. It is read and checked here, and executed by `api/cook.py`.

The options of each stage are those of the function of that name, in `options.py`.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..data.functions import BUNDLED, is_function
from ..errors import RecipeError, did_you_mean
from ..metrics.built_in import BUILT_IN
from ..options import STRICT, CompareOptions, MergeOptions, PushOptions, SaveOptions, SweepOptions
from ..plugins import chooses, is_code, refuse_code
from ..untrusted import is_printable, one_line
from .mergekit import as_cook_file, is_mergekit
from .strict_yaml import build, override, read_yaml


# Arguments of `TrainingArguments` that send data about a run to a server, or make transformers load code by name.
SENDING = re.compile(r"(hub|trackio)_\w+|use_liger_kernel|liger_kernel_config|torch_compile_backend")
# Keys of a config or processor with which transformers and timm download code: never allowed, for any user.
REMOTE_CODE = ("auto_map", "custom_pipelines", "trust_remote_code")
# Names of the regular sets of examples, which a shifted test set may not have.
OWN_SETS = ("pretrain", "train", "validation", "test")


@dataclass(frozen=True)
class ShiftedData:
    """A named set of examples; missing fields are taken from the `data` section."""

    path: str | None = None
    name: str | None = None
    split: str | None = None
    transform: dict[str, Any] = field(default_factory=dict)

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class Data:
    """The `data` section: the location of the examples, and the splits for training, validation and test."""

    path: str
    name: str | None = None
    train: str = "train"
    validation: str = "validation"
    test: str = "test"
    shifted: dict[str, ShiftedData] = field(default_factory=dict)
    label_column: str | None = None
    text_columns: list[str] | None = None

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class PretrainStage:
    """The `pretrain` section: a model built from a config and trained, if there is no checkpoint to start from."""

    config: dict[str, Any]
    data: str = "train"
    processor: dict[str, Any] = field(default_factory=dict)
    transform: dict[str, Any] = field(default_factory=dict)
    training_args: dict[str, Any] = field(default_factory=dict)

    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class CookFile:
    """The stages of `hf-soup cook`; a missing stage is not run.

    Raises:
        [`RecipeError`]: if the stages do not fit together.
    """

    output_dir: str | None = None
    base_model: str | None = None
    task: str = "auto"
    data: Data | None = None
    pretrain: PretrainStage | None = None
    sweep: SweepOptions | None = None
    ingredients: list[str] = field(default_factory=list)
    merge: MergeOptions | None = None
    compare: CompareOptions | None = None
    save: SaveOptions = field(default_factory=SaveOptions)
    push: PushOptions | None = None

    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        _check_stages(self)
        if self.merge is not None:
            _check_merge(self.merge)
        if self.data is not None:
            _check_data(self.data)

    @property
    def examples(self) -> Data:
        """The `data` section of a file in which some stage needs it.

        Raises:
            [`RecipeError`]: if there is none.
        """
        if self.data is None:
            raise RecipeError("a cook file without a `data` section has no examples.")
        return self.data


def _check_stages(plan: CookFile) -> None:
    """Refuse stages that exclude each other, and stages that lack required inputs."""
    if bool(plan.sweep) == bool(plan.ingredients):
        raise RecipeError("a cook file has either a `sweep` or a list of `ingredients`, and not both.")
    if plan.sweep and bool(plan.base_model) == bool(plan.pretrain):
        raise RecipeError(
            "a `sweep` needs either a `base_model` or a `pretrain` section that makes one, and not both."
        )
    for name in ("sweep", "pretrain", "compare"):
        if getattr(plan, name) is not None and plan.data is None:
            raise RecipeError(f"`{name}` needs a `data` section.")
    if (plan.compare or plan.push) and plan.merge is None:
        raise RecipeError("`compare` and `push` need a `merge` section; `merge: {}` chooses by validation.")


def _check_merge(merge: MergeOptions) -> None:
    """Refuse options of a merge that exclude each other, or that belong in another place."""
    if merge.weights is not None and merge.strategy not in (None, "weighted"):
        raise RecipeError("`merge` has either `weights` or a `strategy` that finds them, and not both.")
    # `evaluator` and `base_model` are arguments of `merge` that other sections of the file determine.
    reserved = {item.name for item in dataclasses.fields(MergeOptions)} | {"evaluator", "base_model"}
    for name in sorted(reserved & set(merge.params)):
        raise RecipeError(f"`merge.params.{name}` is no parameter of a method or strategy: write `merge.{name}`.")


def _check_data(data: Data) -> None:
    """Refuse sets of examples that could be confused with each other."""
    for name in OWN_SETS:
        if name in data.shifted:
            raise RecipeError(
                f"`data.shifted.{name}`: choose another name, since `{name}` already names a part of the data."
            )
    if data.validation == data.test:
        raise RecipeError(
            f"`data.validation` and `data.test` are both {data.test!r}: data that selects cannot report as well. Use "
            "two sets."
        )


def load_cook_file(
    path: str | os.PathLike[str], overrides: Sequence[str] = (), *, allow_code: bool = False
) -> CookFile:
    """Read and check a cook file.

    Args:
        path (`str` or `os.PathLike`):
            A YAML file; what its keys mean is in `docs/cook_file.md`.
        overrides (`Sequence[str]`, *optional*):
            Values to use instead of those in the file, such as `"data.path=my_data"` or `"sweep.n_runs=4"`.
        allow_code (`bool`, *optional*, defaults to `False`):
            Take methods, strategies, data functions and metrics that are code from outside of this package, in the
            file or the overrides.

    Raises:
        [`RecipeError`]: with the path of the first wrong key or value, and the nearest known key; or if it names code
            from elsewhere that is not allowed.
    """
    where = one_line(path)
    content = read_yaml(path)
    if is_mergekit(content):
        content = as_cook_file(content, where)
    for item in overrides:
        override(content, item)
    _refuse_control(content, where)
    plan = _with_default_strategy(build(CookFile, content, str(path)))
    if not allow_code:
        refuse_code(_code(plan), str(path))
        _refuse_scripts(plan, where)
        _refuse_sending(plan, where)
    if plan.pretrain is not None:  # even if code is allowed: a model is built only from code of transformers
        _refuse_remote(plan.pretrain.config, f"{where}: `pretrain.config")
        _refuse_remote(plan.pretrain.processor, f"{where}: `pretrain.processor")
    if plan.data is None and plan.merge is not None and chooses(plan.merge.strategy):
        raise RecipeError(f"{where}: `merge.strategy` needs a `data` section.")
    return plan


def _with_default_strategy(plan: CookFile) -> CookFile:
    """The same stages with the strategy `auto` where the file names none and a sweep or comparison has validation.

    Runs of folds have trained on validation; they are averaged without a choice.
    """
    merge = plan.merge
    if merge is None or (plan.sweep is None and plan.compare is None):
        return plan
    if merge.strategy is not None or merge.weights is not None or merge.method != "linear":
        return plan
    if plan.sweep is not None and plan.sweep.folds is not None:
        return plan
    return dataclasses.replace(plan, merge=dataclasses.replace(merge, strategy="auto"))


def _refuse_control(value: Any, where: str) -> None:
    """Refuse control characters, which are invalid in paths, names and settings."""
    if isinstance(value, str) and not is_printable(value.replace("\n", " ").replace("\t", " ")):
        raise RecipeError(f"{where} holds control characters in {one_line(repr(value), 60)}.")
    if isinstance(value, dict):  # keys are text from the file as well
        value = [*value, *value.values()]
    if isinstance(value, list):
        for item in value:
            _refuse_control(item, where)


def _code(plan: CookFile) -> Iterator[tuple[str, str]]:
    """Every key of a cook file that refers to code outside this package, with its value."""
    if plan.merge is not None:
        if is_code(plan.merge.method):
            yield "merge.method", plan.merge.method
        if plan.merge.strategy is not None and is_code(plan.merge.strategy):
            yield "merge.strategy", plan.merge.strategy
    if plan.data is None:
        return
    paths = {"data.path": plan.data.path}
    for name, shifted in plan.data.shifted.items():
        if shifted.path is not None:
            paths[f"data.shifted.{name}.path"] = shifted.path
    for key, path in paths.items():
        if is_function(path) and path not in BUNDLED:
            yield key, path


def _refuse_scripts(plan: CookFile, where: str) -> None:
    """Refuse metrics of evaluate, each of which is a local or remote script."""
    metrics: list[tuple[str, str]] = []
    if plan.merge is not None and plan.merge.metric:
        metrics.append(("merge.metric", plan.merge.metric))
    if plan.compare is not None:
        metrics += [("compare.metrics", name) for name in plan.compare.metrics]
    for key, name in metrics:
        if name not in BUILT_IN:
            raise RecipeError(
                f'{where}: `{key}`: there is no metric "{one_line(name)}"{did_you_mean(name, BUILT_IN)}. Others are '
                "scripts of evaluate, code from elsewhere: if you trust it, say so with allow_code=True "
                "(--allow-code)."
            )


def _refuse_sending(plan: CookFile, where: str) -> None:
    """Refuse settings that send a run elsewhere, download code for it, or start paid jobs with the user's token."""
    for stage, options in (("sweep", plan.sweep), ("merge", plan.merge)):
        if options is not None and options.executor == "jobs":
            raise RecipeError(
                f"{where}: `{stage}.executor: jobs` runs paid jobs with your token. If you trust the file, say so "
                "with allow_code=True (--allow-code)."
            )
    for section, name in _training_settings(plan):
        if SENDING.fullmatch(name):
            raise RecipeError(
                f"{where}: `{section}.{one_line(name)}` sends a run elsewhere or fetches code for it. If you "
                "trust the file, say so with allow_code=True (--allow-code)."
            )


def _training_settings(plan: CookFile) -> Iterator[tuple[str, str]]:
    """The names of all Trainer settings in a cook file, each with its section."""
    if plan.sweep is None:
        return
    sections: list[tuple[str, Mapping[str, Any]]] = [
        ("sweep.training_args", plan.sweep.training_args or {}),
        ("sweep.probe_args", plan.sweep.probe_args or {}),
    ]
    space = plan.sweep.space_or_default  # one mapping of choices, or a list with the settings of each run
    listed_settings = [space] if isinstance(space, Mapping) else space
    sections += [("sweep.space", settings) for settings in listed_settings]
    if plan.pretrain is not None:
        sections.append(("pretrain.training_args", plan.pretrain.training_args))
    for section, settings in sections:
        for name in settings:
            yield section, name


def _refuse_remote(section: Any, where: str) -> None:
    """Refuse settings that would download code for a model built from a config."""
    if isinstance(section, list):
        for item in section:
            _refuse_remote(item, where)
    if not isinstance(section, Mapping):
        return
    for key, value in section.items():
        # an implementation that is not a plain name, such as owner/kernel, is a repository of compiled code
        is_kernel = "attn_implementation" in key and not (isinstance(value, str) and value.isidentifier())
        if key in REMOTE_CODE or is_kernel:
            raise RecipeError(f"{where}.{one_line(key)}` asks for code of a repository, which hf_soup never runs.")
        _refuse_remote(value, f"{where}.{one_line(key)}")
