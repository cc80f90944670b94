"""Connections to a Hub that limit the time for the headers of an answer, even if it arrives byte by byte.

The client restarts its timeout with each byte. `hub_bodies` limits the bodies, where they are read.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from httpcore2 import NetworkBackend, NetworkStream, ReadTimeout


if TYPE_CHECKING:
    import httpx2


class Stream(NetworkStream):
    """A connection that fails if the headers of an answer take longer than the read timeout.

    Args:
        inner (`httpcore2.NetworkStream`):
            The connection itself.
        is_watched (`Callable`):
            Whether a call of hf_soup runs; the requests of others have no deadline.
    """

    def __init__(self, inner: NetworkStream, is_watched: Callable[[], bool]):
        self._inner, self._is_watched = inner, is_watched
        self._request_sent: float | None = None  # start time of a request whose answer has not begun

    def answered(self) -> None:
        """End the deadline when the headers have arrived; the body has its own limits."""
        self._request_sent = None

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read some bytes as they arrive."""
        if self._request_sent is None or timeout is None or not self._is_watched():
            return self._inner.read(max_bytes, timeout)
        left = timeout - (time.monotonic() - self._request_sent)
        if left <= 0:
            raise ReadTimeout(f"no whole head of an answer in {timeout:.0f} seconds")
        return self._inner.read(max_bytes, left)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send part of a request."""
        self._inner.write(buffer, timeout)
        self._request_sent = time.monotonic()

    def close(self) -> None:
        """Close the connection."""
        self._inner.close()

    def start_tls(self, *args: Any, **options: Any) -> NetworkStream:
        """The same connection, encrypted."""
        return Stream(self._inner.start_tls(*args, **options), self._is_watched)

    def get_extra_info(self, info: str) -> Any:
        """Information about the connection."""
        return self._inner.get_extra_info(info)


class Backend(NetworkBackend):
    """A network backend that opens such connections.

    Args:
        inner (`httpcore2.NetworkBackend`):
            Opens the connections themselves.
        is_watched (`Callable`):
            Function that tells whether a stream is watched, as in [`Stream`].
    """

    def __init__(self, inner: NetworkBackend, is_watched: Callable[[], bool]):
        self._inner, self._is_watched = inner, is_watched

    def connect_tcp(self, *args: Any, **options: Any) -> NetworkStream:
        """Open a connection to a host."""
        return Stream(self._inner.connect_tcp(*args, **options), self._is_watched)

    def connect_unix_socket(self, *args: Any, **options: Any) -> NetworkStream:
        """Open a connection to a socket of this machine."""
        return Stream(self._inner.connect_unix_socket(*args, **options), self._is_watched)

    def sleep(self, seconds: float) -> None:
        """Wait between attempts to connect."""
        self._inner.sleep(seconds)


def add_deadlines(client: httpx2.Client, is_watched: Callable[[], bool]) -> None:
    """Give every new connection of a client a deadline for the headers of each answer."""
    # httpx2 has no public setting for replacing the network backend of an existing client.
    for transport in (client._transport, *client._mounts.values()):
        pool: Any = getattr(transport, "_pool", None)  # custom transports of users may have none
        backend = getattr(pool, "_network_backend", None)
        if isinstance(backend, NetworkBackend) and not isinstance(backend, Backend):
            pool._network_backend = Backend(backend, is_watched)


def answered(response: httpx2.Response) -> None:
    """End the deadline of an answer whose headers have arrived."""
    stream = response.extensions.get("network_stream")
    if isinstance(stream, Stream):
        stream.answered()
