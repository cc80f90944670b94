"""Methods, strategies and tasks by name: one file each, found by listing a folder and imported on demand.

There is no registry. A dotted path (`my_pkg.soups:median`) can be used in place of the name of a method or strategy;
in a file it has to be allowed.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, overload

from .errors import RecipeError, did_you_mean
from .types import plain
from .untrusted import as_error, one_line


if TYPE_CHECKING:
    from .tasks import Task
    from .types import Choice, Mixture

FunctionPlugin = Literal["method", "strategy"]
PluginType = FunctionPlugin | Literal["task"]
FOLDERS: dict[PluginType, str] = {"method": "methods", "strategy": "strategies", "task": "tasks"}
OTHER: dict[PluginType, PluginType] = {"method": "strategy", "strategy": "method"}

# Parameters that a method or strategy requests by name and that the caller provides. They are neither `params` of a
# recipe nor options of a command.
PROVIDED = (
    "base",  # the base model: its tensor of this name for a method, the `Ingredient` for a strategy
    "importance",  # only methods: the statistics of this tensor for each ingredient, as [`importance`] made them
    "out",  # only methods: memory for the result, in the accumulator's type
    "rng",  # only methods: a `torch.Generator` seeded by the recipe's seed and the tensor's name
    "seed",  # only strategies: the seed of the merge
)

IN_MEMORY = "memory"  # stands for the module of a function without one, such as a function defined in a notebook
_GIVEN: dict[str, Callable[..., Any]] = {}  # functions passed in this process, by their names in recipes

Function = TypeVar("Function", bound=Callable[..., Any])
# the attribute in which the decorators below store a function's traits
_TRAITS = "hf_soup_traits"


@dataclass(frozen=True)
class MethodTraits:
    """What a method declares about itself with [`method`]; the defaults are those of an undecorated function.

    Args:
        elementwise (`bool`, *optional*, defaults to `False`):
            Each number of the result depends on the numbers at its own place alone, so that the method may be given
            flat pieces of tensors instead of whole ones. A method that asks for `out` is elementwise anyway.
        absolute_weights (`bool`, *optional*, defaults to `False`):
            The result depends on the weights themselves, such as factors of changes, and not only on their ratios.
        ingredients (`int`, *optional*):
            Largest number of ingredients that the method combines; by default any number.
        importance (`str`, *optional*):
            Kind of the statistics that a method gets which asks for `importance`: `"fisher"` or `"gram"`.
    """

    elementwise: bool = False
    absolute_weights: bool = False
    ingredients: int | None = None
    importance: Literal["fisher", "gram"] | None = None


@dataclass(frozen=True)
class StrategyTraits:
    """What a strategy declares about itself with [`strategy`]; the defaults are those of an undecorated function.

    Args:
        scores (`bool`, *optional*, defaults to `True`):
            It asks `trials` for scores, so that the merge needs an evaluator.
        linear_only (`bool`, *optional*, defaults to `False`):
            Whether its weights are those of a mean, so that it works with the method `linear` only.
        never_worse (`bool`, *optional*, defaults to `False`):
            Whether the soup never scores worse on validation than the best single ingredient when the parameters have
            their defaults. The contract tests check this.
    """

    scores: bool = True
    linear_only: bool = False
    never_worse: bool = False


def method(
    *,
    elementwise: bool = False,
    absolute_weights: bool = False,
    ingredients: int | None = None,
    importance: Literal["fisher", "gram"] | None = None,
) -> Callable[[Function], Function]:
    """Decorate a method with its traits; the arguments are those of [`MethodTraits`]."""
    return _declare(MethodTraits(elementwise, absolute_weights, ingredients, importance))


def strategy(
    *, scores: bool = True, linear_only: bool = False, never_worse: bool = False
) -> Callable[[Function], Function]:
    """Decorate a strategy with its traits; the arguments are those of [`StrategyTraits`]."""
    return _declare(StrategyTraits(scores, linear_only, never_worse))


def method_traits(function: Callable[..., Any]) -> MethodTraits:
    """The traits of a method, built in or custom."""
    traits = getattr(function, _TRAITS, None)
    if isinstance(traits, MethodTraits):
        return traits
    return MethodTraits()


def strategy_traits(function: Callable[..., Any]) -> StrategyTraits:
    """The traits of a strategy, built in or custom."""
    traits = getattr(function, _TRAITS, None)
    if isinstance(traits, StrategyTraits):
        return traits
    return StrategyTraits()


def _declare(traits: MethodTraits | StrategyTraits) -> Callable[[Function], Function]:
    """A decorator that stores these traits on a function and returns the function itself."""

    def decorate(function: Function) -> Function:
        setattr(function, _TRAITS, traits)
        return function

    return decorate


def names(plugin_type: PluginType) -> tuple[str, ...]:
    """The names of all plugins of one type (`"method"`, `"strategy"` or `"task"`): the files of its folder, sorted."""
    folder = Path(__file__).parent / FOLDERS[plugin_type]
    stems = sorted(path.stem for path in folder.glob("[a-z]*.py"))
    if plugin_type == "task":  # named as on the Hub
        return tuple(sorted(stem.replace("_", "-") for stem in stems))
    return tuple(stems)


@overload
def load_module(plugin_type: Literal["task"], name: str) -> Task: ...


@overload
def load_module(plugin_type: FunctionPlugin, name: str) -> ModuleType: ...


def load_module(plugin_type: PluginType, name: str) -> ModuleType | Task:
    """Import the file of one name.

    Returns:
        `ModuleType`: of a task one that fulfils [`hf_soup.tasks.Task`], as the contract tests say.

    Raises:
        [`RecipeError`]: if there is none; a strategy's name given as a method (or the reverse) is told so.
    """
    check_name(plugin_type, name)
    module = importlib.import_module(f"hf_soup.{FOLDERS[plugin_type]}.{name.replace('-', '_')}")
    return cast("Task", module) if plugin_type == "task" else module


def check_name(plugin_type: PluginType, name: str) -> None:
    """Refuse a name for which the folder of this type of plugin has no file. Nothing is imported.

    Raises:
        [`RecipeError`]: with the nearest known name; a strategy's name given as a method (or the reverse) is told so.
    """
    if name in names(plugin_type):
        return
    other_type = OTHER.get(plugin_type)
    if other_type is not None and name in names(other_type):
        raise RecipeError(f'"{name}" is a {other_type}, not a {plugin_type}: write {other_type}="{name}".')
    raise RecipeError(f'there is no {plugin_type} called "{one_line(name)}"{did_you_mean(name, names(plugin_type))}')


def load_function(plugin_type: FunctionPlugin, name: str) -> Callable[..., Any]:
    """The function of a method or strategy, by name or by dotted path `package.module:function`.

    Raises:
        [`RecipeError`]: if it cannot be found.
    """
    if not is_code(name):
        return getattr(load_module(plugin_type, name), name)
    function = _given_function(plugin_type, name) if is_in_memory(name) else load_path(name)
    with as_error(RecipeError, f'"{one_line(name)}" is not a {plugin_type}'):
        inspect.signature(function)  # refuses objects that are not callable
    return function


def _given_function(plugin_type: FunctionPlugin, path: str) -> Callable[..., Any]:
    if path in _GIVEN:
        return _GIVEN[path]
    raise RecipeError(
        f"the {plugin_type} {one_line(path.removeprefix(f'{IN_MEMORY}:'))!r} was a function in memory when the recipe "
        "was written, and no module has it: the recipe cannot be cooked again. Put the function into a module, and "
        'merge with "package.module:function".'
    )


def name_of(plugin_type: FunctionPlugin, given: str | Callable[..., Any]) -> str:
    """The name of a method or strategy in a recipe: the given name, or the path of a given function.

    Args:
        plugin_type (`str`):
            `"method"` or `"strategy"`.
        given (`str` or `Callable`):
            A name, or the function itself: one of this package goes by its name, one that a module has by
            `package.module:function`, and one of a notebook, a script or another function by `memory:function`. That
            is found in this process alone, and the recipe that names it cannot be cooked again elsewhere.

    Raises:
        [`RecipeError`]: if it is neither.
    """
    if isinstance(given, str):
        return given
    name = getattr(given, "__name__", None)
    if not callable(given) or not isinstance(name, str):
        raise RecipeError(
            f"a {plugin_type} is a name, as in package.module:function, or a function, not "
            f"{one_line(repr(given), 80)}."
        )
    module = getattr(given, "__module__", "")
    if module == f"hf_soup.{FOLDERS[plugin_type]}.{name}":
        return name
    if module != "__main__" and getattr(sys.modules.get(module), name, None) is given:
        return f"{module}:{name}"
    path, count = f"{IN_MEMORY}:{name}", 1
    while _GIVEN.setdefault(path, given) is not given:  # another function with the same name
        count += 1
        path = f"{IN_MEMORY}:{name}-{count}"
    return path


def is_code(name: str) -> bool:
    """Whether a method or strategy is given by a dotted path, so that it is not part of this package."""
    if not isinstance(name, str):
        raise RecipeError(
            f"a method or strategy is named, as in package.module:function, not {one_line(repr(name), 80)}."
        )
    return ":" in name


def is_in_memory(name: str) -> bool:
    """Whether a recipe refers to a function that had no module when the recipe was written."""
    return name.startswith(f"{IN_MEMORY}:")


def refuse_code(named: Iterable[tuple[str, str]], where: str) -> None:
    """Refuse a file that refers to code outside this package, before any of it is imported.

    Args:
        named (`Iterable[tuple[str, str]]`):
            The keys of the file that name such code, and what they name.
        where (`str`):
            The file.

    Raises:
        [`RecipeError`]: for the first one, with what to do if the user trusts it.
    """
    for key, value in named:
        if is_in_memory(value):
            raise RecipeError(
                f"{one_line(where)}: `{one_line(key)}` is {one_line(value)!r}, a function that was in memory when the "
                "recipe was written: it cannot be cooked again."
            )
        raise RecipeError(
            f"{one_line(where)}: `{one_line(key)}` is {one_line(value)!r}, which is code from elsewhere: a file runs "
            "nothing but what hf_soup contains. If you trust it, say so with allow_code=True (--allow-code)."
        )


def load_path(path: str) -> Any:
    """The object at `package.module:name`.

    Raises:
        [`RecipeError`]: if the module does not import, whatever it does meanwhile, or has no such name.
    """
    module, _, attribute = path.partition(":")
    with as_error(RecipeError, f'"{one_line(path)}" cannot be imported (write package.module:function)'):
        try:
            return getattr(importlib.import_module(module), attribute)
        except (SystemExit, GeneratorExit) as error:
            ending = one_line(repr(error))
            raise RecipeError(f'"{one_line(path)}" ends the process ({ending}) when it is imported.') from error


def parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The keyword-only parameters of a method or strategy: `params` in recipes, options in the CLI."""
    params = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name not in PROVIDED:
            params[name] = parameter
    return params


def asks_for(function: Callable[..., Any], name: str) -> bool:
    """Whether a method or strategy requests a parameter, such as `base`."""
    return name in inspect.signature(function).parameters


def chooses(name: str | None) -> bool:
    """Whether the strategy with this name needs scores, and so an evaluator; without a name, it is uniform.

    Raises:
        [`RecipeError`]: if there is none of that name.
    """
    return name is not None and strategy_traits(load_function("strategy", name)).scores


def choices(parameter: inspect.Parameter, function: Callable[..., Any]) -> tuple[Any, ...]:
    """The choices of a parameter whose type is a `Literal`, or a union that begins with one; otherwise empty."""
    hint = parameter.annotation
    if isinstance(hint, str):
        if not hint.startswith("Literal"):  # may refer to names that only type checkers import
            return ()
        hint = _evaluated(hint, function)
    for option in (hint, *typing.get_args(hint)):
        if typing.get_origin(option) is Literal:
            return typing.get_args(option)
    return ()


def checked(parameter: inspect.Parameter, function: Callable[..., Any], value: Any) -> Any:
    """Check and convert the value of a parameter according to its annotation.

    Raises:
        [`RecipeError`]: if it is of another type, or none of what may be chosen.
    """
    allowed = choices(parameter, function)
    if allowed and value not in (*allowed, parameter.default):
        listing = ", ".join(map(repr, allowed))
        raise RecipeError(f'"{parameter.name}" is one of {listing}, not {one_line(repr(value))}.')
    return as_annotated(parameter, function, value)


def checked_by_tensor(parameter: inspect.Parameter, function: Callable[..., Any], value: Any) -> Any:
    """Check the value of a method's parameter; a number may be given by module (a mapping) and by depth (a list).

    Raises:
        [`RecipeError`]: if a value is of another type.
    """
    if not takes_number(parameter):
        return checked(parameter, function, value)
    if isinstance(value, Mapping):
        return {str(module): checked_by_tensor(parameter, function, own) for module, own in value.items()}
    if isinstance(value, (list, tuple)) and value:
        return [checked(parameter, function, own) for own in value]
    return checked(parameter, function, value)


def takes_number(parameter: inspect.Parameter) -> bool:
    """Whether a parameter is a number, which may differ between the tensors of a model."""
    return _hint(parameter) in ("float", "float | None") or takes_numbers(parameter)


def takes_numbers(parameter: inspect.Parameter) -> bool:
    """Whether a parameter may be one number for each ingredient."""
    return _hint(parameter) == "float | Sequence[float]"


def _hint(parameter: inspect.Parameter) -> str:
    """The annotation of a parameter as a text; it is a type in modules without postponed annotations."""
    hint = parameter.annotation
    text = hint.__name__ if isinstance(hint, type) else str(hint)
    return text.replace("collections.abc.", "").replace("typing.", "")


def as_annotated(parameter: inspect.Parameter, function: Callable[..., Any], value: Any) -> Any:
    """Convert a value to the annotated type: 2 for 2.0 if an integer is expected, a list for an array.

    Raises:
        [`RecipeError`]: if it is of another type.
    """
    import pydantic

    if hasattr(value, "tolist"):  # an array, or a number of numpy or torch
        value = value.tolist()
    hint = parameter.annotation
    if isinstance(hint, str):
        hint = _evaluated(hint, function)
    if hint is None or hint is parameter.empty:
        return value
    try:
        adapter = pydantic.TypeAdapter(hint)
    except Exception:  # a custom function, whose annotation may be anything
        return value
    try:
        return adapter.validate_python(value)
    except pydantic.ValidationError as error:
        problem = one_line(error.errors()[0]["msg"])
        raise RecipeError(
            f'"{parameter.name}" is {parameter.annotation}, not {one_line(repr(value))}: {problem}.'
        ) from None


def _evaluated(hint: str, function: Callable[..., Any]) -> Any:
    """The value of a string annotation, evaluated in the module of its function; `None` if it is not a type there."""
    try:
        return eval(hint, getattr(function, "__globals__", {}))
    except Exception:
        return None


def check_params(params: Mapping[str, Any], known: Mapping[str, Any], owner: str) -> None:
    """Refuse parameters that `known` does not list.

    Args:
        params (`Mapping[str, Any]`):
            Name -> value.
        known (`Mapping[str, Any]`):
            The parameters that there are.
        owner (`str`):
            Owner of the parameters, such as `'the method "ties"'`; the error begins with it.

    Raises:
        [`RecipeError`]: for the first of them, with the nearest known name.
    """
    for name in params:
        if name not in known:
            raise RecipeError(f'{one_line(owner)} takes no parameter "{one_line(name)}"{did_you_mean(name, known)}')


def share_out(
    method: str, strategy: str | None, params: Mapping[str, Any], others: Iterable[str] = ()
) -> tuple[Callable[..., Mixture | Choice], dict[str, Any], dict[str, Any]]:
    """The strategy's function, and the parameters of the method and of the strategy.

    Args:
        method (`str`), strategy (`str`, *optional*):
            Name of the method, and that of the strategy.
        params (`Mapping[str, Any]`):
            Name -> value.
        others (`Iterable[str]`, *optional*):
            Other names that the user may have meant when neither takes a parameter, such as the arguments of the verb
            itself.

    Raises:
        [`RecipeError`]: if there is no such method or strategy, or neither takes one of the parameters or its value.
    """
    strategy = strategy or "uniform"
    method_function, strategy_function = load_function("method", method), load_function("strategy", strategy)
    of_method, of_strategy = parameters(method_function), parameters(strategy_function)
    method_params: dict[str, Any] = {}
    strategy_params: dict[str, Any] = {}
    for name, value in params.items():
        if name not in of_method and name not in of_strategy:
            neither = f'neither the method "{method}" nor the strategy "{strategy}" takes'
            hint = did_you_mean(name, [*of_method, *of_strategy, *others])
            raise RecipeError(f'{neither} a parameter "{name}"{hint}')
        if name in of_method:
            method_params[name] = plain(checked_by_tensor(of_method[name], method_function, value))
        if name in of_strategy:  # a parameter of both is passed to both
            strategy_params[name] = plain(checked(of_strategy[name], strategy_function, value))
    return strategy_function, method_params, strategy_params


def needs_base(method: str) -> bool:
    """Whether a method requires the base model; where its parameter `base` has a default, it takes one if given."""
    parameter = inspect.signature(load_function("method", method)).parameters.get("base")
    return parameter is not None and parameter.default is parameter.empty


def importance_kind(method: str) -> Literal["fisher", "gram"] | None:
    """The kind of statistics of the weights that a method is given; `None` if it takes none."""
    return method_traits(load_function("method", method)).importance
