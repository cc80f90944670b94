"""Map a function over items that do not depend on each other: here, on several GPUs, or on Ray. It does not know what
they are.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import socket
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from .child_processes import DEVICES, begin_worker, call_in_worker, end_workers, without_ctrl_c
from .errors import MissingExtraError, RecipeError, SoupError, did_you_mean
from .untrusted import one_line


EXECUTORS = ("local", "ray")
T = TypeVar("T")
R = TypeVar("R")


def check_executor(executor: str) -> None:
    """Refuse an executor that does not exist.

    Raises:
        [`MissingExtraError`]: if Ray is asked for and not installed.
        [`RecipeError`]: if there is none of that name, or no cluster at the address in `RAY_ADDRESS`.
    """
    if executor not in EXECUTORS:
        raise RecipeError(f'there is no executor "{one_line(executor)}"{did_you_mean(executor, EXECUTORS)}')
    if executor == "ray" and not _ray().is_initialized():
        _refuse_address(os.environ.get("RAY_ADDRESS", ""))


def gpus() -> tuple[str, ...]:
    """The GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` calls them."""
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get(DEVICES)
    return tuple(named.split(",")[:count]) if named else tuple(map(str, range(count)))


def run_all(
    function: Callable[[T], R],
    items: Sequence[T],
    *,
    executor: str = "local",
    devices: Sequence[str] = (),
    resources: Mapping[str, float] | None = None,
    lost: Callable[[T, str], R] | None = None,
) -> Generator[tuple[int, R]]:
    """The place and the result of each item, as they finish.

    Args:
        function (`Callable`):
            What to call; to go elsewhere it has to be picklable, as the items and results.
        items (`Sequence`):
            What to call it with.
        executor (`str`, *optional*, defaults to `"local"`):
            `"local"` calls one after the other, here, or on each of several `devices` at once; `"ray"` on the workers
            of a Ray cluster, the one that runs already (`RAY_ADDRESS` says where) or one that is started here. What
            was lost with a worker that died is done again.
        devices (`Sequence[str]`, *optional*):
            GPUs; where there are two or more, each gets a process of its own that sees no other.
        resources (`Mapping[str, float]`, *optional*):
            What one item takes of a Ray cluster, as Ray calls it: `num_cpus` (1 by default, and as many threads),
            `num_gpus` (1 by default where there are any), `memory`.
        lost (`Callable`, *optional*):
            The result of an item whose worker died every time, of the item and the reason; an error by default.

    Raises:
        [`Exception`]: what the function raises.
        [`SoupError`]: if workers die.
    """
    check_executor(executor)
    if executor == "ray" and len(items):
        yield from _on_ray(function, items, resources or {}, lost)
    elif len(devices) > 1 and len(items):
        yield from _on_devices(function, items, devices[: len(items)])
    else:
        yield from enumerate(map(function, items))


def _on_devices(function: Callable[[T], R], items: Sequence[T], devices: Sequence[str]) -> Iterator[tuple[int, R]]:
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    free = context.SimpleQueue()
    for device in devices:
        free.put(device)
    work = pickle.dumps(function)  # a worker opens it when it watches this process: that may import for seconds
    with ProcessPoolExecutor(len(devices), context, begin_worker, (free, work)) as pool:
        whole = False
        try:
            with without_ctrl_c():
                places = {pool.submit(call_in_worker, item): place for place, item in enumerate(items)}
            for future in as_completed(places):
                yield places[future], future.result()
            whole = True
        except BrokenProcessPool:
            raise SoupError(
                "a worker process died, perhaps for want of memory; the same call goes on from there."
            ) from None
        finally:
            if not whole:  # an error, Ctrl-C, or nobody wants the rest
                end_workers(pool)


def _on_ray(
    function: Callable[[T], R],
    items: Sequence[T],
    resources: Mapping[str, float],
    lost: Callable[[T, str], R] | None,
) -> Iterator[tuple[int, R]]:
    ray = _ray()
    if not ray.is_initialized():
        try:
            with _same_handlers():
                ray.init(log_to_driver=False, logging_level="warning")
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise RecipeError(f"no Ray cluster at {os.environ.get('RAY_ADDRESS')!r}: {error}") from None
    share = {"num_cpus": 1, "num_gpus": 1 if ray.cluster_resources().get("GPU") else 0, **resources}
    for name, there in (("num_cpus", "CPU"), ("num_gpus", "GPU")):
        if share[name] > ray.cluster_resources().get(there, 0):
            raise RecipeError(
                f"resources: {name}={share[name]}, and the cluster has no {there} to spare for one item."
            )
    try:
        remote = ray.remote(**share, max_retries=3)(_call)
    except (ValueError, TypeError) as error:
        raise RecipeError(f"resources={dict(resources)}: {error}") from None
    sent = ray.put(function)
    places = {remote.remote(sent, item): place for place, item in enumerate(items)}
    waiting = list(places)
    try:
        while waiting:
            (done, *_), waiting = ray.wait(waiting)
            try:
                result = _unwrapped(ray, done)
            except ray.exceptions.RayError as error:  # its worker died, and those that tried again
                why = f"its worker died every time: {str(error).strip().splitlines()[0]}"
                if lost is None:
                    raise SoupError(why) from None
                result = lost(items[places[done]], why)
            yield places[done], result
    finally:
        for result in waiting:  # also on Ctrl-C
            ray.cancel(result, force=False)


def _call(function: Callable[[T], R], item: T) -> R:
    return function(item)


def _unwrapped(ray: Any, result: Any) -> Any:
    """The result, or what the function raised, as it would be raised here."""
    try:
        return ray.get(result)
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, Exception) else SoupError(str(error)) from None


def _refuse_address(address: str) -> None:
    """Say at once that nobody answers: Ray tries for two minutes, and then ends the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():  # none, or `auto` and `local`, which Ray tells by itself
        return
    try:
        with contextlib.closing(socket.create_connection((host.strip("[]"), int(port)), timeout=5)):
            return
    except OSError as error:
        raise RecipeError(
            f"no Ray cluster answers at {address} ({error.strerror or error}): start one there, correct RAY_ADDRESS, "
            "or unset it and one is started here."
        ) from None


@contextlib.contextmanager
def _same_handlers() -> Iterator[None]:
    """Ray takes SIGTERM over where it starts: whoever had it keeps it."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGTERM, before)


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise MissingExtraError("executor=\"ray\" needs Ray: pip install 'hf-soup[ray]'") from None
    return ray
