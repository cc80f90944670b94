"""Map a function over items that do not depend on each other: here, or on Ray. It does not know what they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from .errors import MissingExtraError, RecipeError, did_you_mean


EXECUTORS = ("local", "ray")
T = TypeVar("T")
R = TypeVar("R")


def check_executor(executor: str) -> None:
    """Refuse an executor that does not exist.

    Raises:
        [`MissingExtraError`]: if Ray is asked for and not installed.
        [`RecipeError`]: if there is none of that name.
    """
    if executor not in EXECUTORS:
        raise RecipeError(f'there is no executor "{executor}"{did_you_mean(executor, EXECUTORS)}')
    if executor == "ray":
        _ray()


def run_all(function: Callable[[T], R], items: Sequence[T], *, executor: str = "local") -> Iterator[R]:
    """The result of each item, in their order, each as soon as it and those before it are there.

    Args:
        function (`Callable`):
            What to call; to go elsewhere it has to be picklable, as the items and results.
        items (`Sequence`):
            What to call it with.
        executor (`str`, *optional*, defaults to `"local"`):
            `"local"` calls one after the other, here; `"ray"` on the workers of a Ray cluster, the one that runs
            already or one that is started here. A worker has one CPU, and a GPU if there are any; what was lost with a
            worker that died is done again.

    Raises:
        [`Exception`]: what the function raises.
    """
    check_executor(executor)
    if executor == "local" or len(items) < 2:
        yield from map(function, items)
        return
    ray = _ray()
    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level="warning")
    share: dict[str, Any] = {"num_cpus": 1, "num_gpus": 1 if ray.cluster_resources().get("GPU") else 0}
    remote = ray.remote(**share, max_retries=3)(_call)
    sent = ray.put(function)
    results = [remote.remote(sent, item) for item in items]
    try:
        for result in results:
            yield _unwrapped(ray, result)
    finally:
        for result in results:  # also on Ctrl-C
            ray.cancel(result, force=False)


def _call(function: Callable[[T], R], item: T) -> R:
    return function(item)


def _unwrapped(ray: Any, result: Any) -> Any:
    """The result, or what the function raised, as it would be raised here."""
    try:
        return ray.get(result)
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, Exception) else error from None


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise MissingExtraError("executor=\"ray\" needs Ray: pip install 'hf-soup[ray]'") from None
    return ray
