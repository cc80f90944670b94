"""Map a function over independent items: here, on several GPUs, on Ray, or in jobs. The items are unknown here."""

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
from .options import EXECUTORS
from .untrusted import one_line


RAY_RETRIES = 3  # further attempts at an item whose worker died
RAY_ANSWERS_WITHIN = 5  # seconds
T = TypeVar("T")
R = TypeVar("R")


def check_executor(
    executor: str, resources: Mapping[str, Any] | None = None, *, known: Sequence[str] = EXECUTORS
) -> None:
    """Refuse an unknown executor, and one that cannot be used.

    Args:
        executor (`str`):
            Name of the executor.
        resources (`Mapping[str, Any]`, *optional*):
            Its resources, as for [`run_all`].
        known (`Sequence[str]`, *optional*):
            Names that are allowed.

    Raises:
        [`MissingExtraError`]: if it needs a library that is not installed.
        [`OutputError`]: if jobs are asked for without a login.
        [`RecipeError`]: if there is none of that name, no cluster at the address in `RAY_ADDRESS`, or a resource of
            jobs is wrong.
    """
    if executor not in known:
        raise RecipeError(f'there is no executor "{one_line(executor)}"{did_you_mean(executor, known)}')
    if executor == "ray" and not _ray().is_initialized():
        _refuse_address(os.environ.get("RAY_ADDRESS", ""))
    if executor == "jobs":
        from .jobs.running import check_jobs

        check_jobs(resources)


def gpus() -> tuple[str, ...]:
    """The GPUs that this process may use, as named in `CUDA_VISIBLE_DEVICES`."""
    import torch

    count = torch.cuda.device_count()
    visible = os.environ.get(DEVICES)
    if visible:
        return tuple(visible.split(",")[:count])  # CUDA ignores everything after an unknown entry
    return tuple(str(index) for index in range(count))


def run_all(
    function: Callable[[T], R],
    items: Sequence[T],
    *,
    executor: str = "local",
    devices: Sequence[str] = (),
    resources: Mapping[str, Any] | None = None,
    lost: Callable[[T, str], R] | None = None,
    key: str | None = None,
) -> Generator[tuple[int, R]]:
    """The index and result of each item, as they finish.

    Args:
        function (`Callable`):
            Function to call. It has to be picklable to run elsewhere, as do the items and results.
        items (`Sequence`):
            Items to call it with, one by one.
        executor (`str`, *optional*, defaults to `"local"`):
            `"local"` calls one after the other, here, or on each of several `devices` at once; `"ray"` on the workers
            of a Ray cluster, the one that runs already (`RAY_ADDRESS` says where) or one that is started here. What
            was lost with a worker that died is done again. `"jobs"` calls each in a Hugging Face Job of its own.
        devices (`Sequence[str]`, *optional*):
            GPUs; where there are two or more, each gets a process of its own that sees no other.
        resources (`Mapping[str, Any]`, *optional*):
            Resources of a Ray cluster that one item takes, as Ray names them: `num_cpus` (1 by default, and as many
            threads), `num_gpus` (1 by default where there are any), `memory`. The settings of jobs are the fields of
            [`JobSettings`].
        lost (`Callable`, *optional*):
            The result of an item whose worker died every time, of the item and the reason; an error by default.
        key (`str`, *optional*):
            What the function is, in words, by which a later call finds jobs again that were still running.

    Raises:
        [`Exception`]: what the function raises.
        [`SoupError`]: if workers die.
    """
    if executor != "jobs":  # whose resources were checked before, by questions to the Hub
        check_executor(executor)
    if executor == "ray" and len(items):
        yield from _on_ray(function, items, resources or {}, lost)
    elif executor == "jobs":
        from .jobs.running import call_in_jobs

        yield from call_in_jobs(function, items, resources, lost, key)
    elif len(devices) > 1 and len(items):
        yield from _on_devices(function, items, devices[: len(items)])
    else:
        yield from enumerate(map(function, items))


def _on_devices(function: Callable[[T], R], items: Sequence[T], devices: Sequence[str]) -> Iterator[tuple[int, R]]:
    """Process items in worker processes, each of which sees one device; yields like [`run_all`]."""
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    free_devices = context.SimpleQueue()
    for device in devices:
        free_devices.put(device)
    # Pickled here and not by the pool: unpickling may import for seconds, and a worker unpickles only once it monitors
    # whether this process is alive.
    pickled_function = pickle.dumps(function)
    with ProcessPoolExecutor(len(devices), context, begin_worker, (free_devices, pickled_function)) as pool:
        finished = False
        try:
            with without_ctrl_c():
                places = {pool.submit(call_in_worker, item): place for place, item in enumerate(items)}
            for future in as_completed(places):
                yield places[future], future.result()
            finished = True
        except BrokenProcessPool:
            raise SoupError(
                "a worker process died, perhaps because memory ran out; run the same call again to continue."
            ) from None
        finally:
            if not finished:  # an error, Ctrl-C, or a caller that stops early
                end_workers(pool)


def _on_ray(
    function: Callable[[T], R],
    items: Sequence[T],
    resources: Mapping[str, Any],
    lost: Callable[[T, str], R] | None,
) -> Iterator[tuple[int, R]]:
    """Process items in tasks of Ray, with the arguments and results of [`run_all`]."""
    ray = _ray()
    _connect(ray)
    item_resources = _item_resources(ray, resources)
    try:
        remote_call = ray.remote(**item_resources, max_retries=RAY_RETRIES)(_call)
    except (ValueError, TypeError) as error:
        raise RecipeError(f"resources={dict(resources)}: {error}") from None
    shared_function = ray.put(function)  # sent once instead of with each item
    places = {remote_call.remote(shared_function, item): place for place, item in enumerate(items)}
    waiting = list(places)
    try:
        while waiting:
            (done, *_), waiting = ray.wait(waiting)
            place = places[done]
            try:
                result = _unwrapped(ray, done)
            except ray.exceptions.RayError as error:  # its worker died in every attempt
                reason = f"its worker died every time: {str(error).strip().splitlines()[0]}"
                if lost is None:
                    raise SoupError(reason) from None
                result = lost(items[place], reason)
            yield place, result
    finally:
        for pending in waiting:  # also on Ctrl-C
            ray.cancel(pending, force=False)


def _connect(ray: Any) -> None:
    """Connect to a running cluster, or start a local one."""
    if ray.is_initialized():
        return
    try:
        with _same_handlers():
            ray.init(log_to_driver=False, logging_level="warning")
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise RecipeError(f"no Ray cluster at {os.environ.get('RAY_ADDRESS')!r}: {error}") from None


def _item_resources(ray: Any, resources: Mapping[str, Any]) -> dict[str, Any]:
    """The resources of one item, with defaults; raises an error if the cluster has less.

    Ray itself would wait forever for a larger cluster.
    """
    cluster: Mapping[str, float] = ray.cluster_resources()
    gpus_for_item = 1 if cluster.get("GPU") else 0
    item_resources = {"num_cpus": 1, "num_gpus": gpus_for_item, **resources}
    for name, cluster_name in (("num_cpus", "CPU"), ("num_gpus", "GPU")):
        if item_resources[name] > cluster.get(cluster_name, 0):
            raise RecipeError(
                f"resources: {name}={item_resources[name]}, and the cluster has no {cluster_name} to spare for one "
                "item."
            )
    return item_resources


def _call(function: Callable[[T], R], item: T) -> R:
    return function(item)


def _unwrapped(ray: Any, reference: Any) -> Any:
    """The result behind a reference of Ray; an error of the function is raised as it would be without Ray."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, Exception):
            raise error.cause from None
        raise SoupError(str(error)) from None


def _refuse_address(address: str) -> None:
    """Refuse an address without a cluster at once: Ray would try for two minutes, and then end the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():  # no address, or `auto` and `local`, for which Ray reports errors itself
        return
    try:
        with contextlib.closing(socket.create_connection((host.strip("[]"), int(port)), timeout=RAY_ANSWERS_WITHIN)):
            return
    except OSError as error:
        raise RecipeError(
            f"no Ray cluster answers at {address} ({error.strerror or error}): start one there, correct RAY_ADDRESS, "
            "or unset it and one is started here."
        ) from None


@contextlib.contextmanager
def _same_handlers() -> Iterator[None]:
    """Restore the SIGTERM handler after the block, since Ray replaces it when it starts."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGTERM, before)


def _ray() -> Any:
    """The module of Ray, an optional dependency."""
    try:
        import ray
    except ImportError:
        raise MissingExtraError("executor=\"ray\" needs Ray: pip install 'hf-soup[ray]'") from None
    return ray
