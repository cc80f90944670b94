"""The setting `average` of a sweep: which average of its weights a run saves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import RecipeError, did_you_mean


if TYPE_CHECKING:
    from ..callbacks import AverageWeights


# kind -> the argument of a bare number in `average={kind: number}`
MAIN_ARGUMENT = {"last": "k", "ema": "decay", "swa": "start"}


def average_of(setting: Mapping[str, Any]) -> AverageWeights:
    """The callback of a sweep's setting `average`, such as `{"last": 3}`, `{"ema": 0.99}` or `{"bema": {}}`.

    Args:
        setting (`Mapping[str, Any]`):
            One kind, with its main argument or a mapping of arguments of [`AverageWeights`].

    Raises:
        [`RecipeError`]: if it is not one known kind, or an argument is unknown or invalid.
    """
    from ..callbacks import AverageWeights

    if not isinstance(setting, Mapping) or len(setting) != 1:
        raise RecipeError(f'"average" is one kind with its argument, such as {{"last": 3}}, not {setting!r}.')
    ((kind, given),) = setting.items()
    arguments = dict(given) if isinstance(given, Mapping) else {}
    if not isinstance(given, Mapping) and given is not None:
        arguments[MAIN_ARGUMENT.get(kind, "every")] = given
    known = ("decay", "half_life", "warmup", "k", "start", "every")
    for name in arguments:
        if name not in known:
            raise RecipeError(f'"average" has no "{name}"{did_you_mean(str(name), known)}')
    try:
        return AverageWeights(kind, **arguments)
    except TypeError as error:  # a value that does not compare with numbers
        raise RecipeError(f'"average": {setting!r} has a value of the wrong type ({error}).') from None
