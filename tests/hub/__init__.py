"""A Hugging Face Hub on loopback for tests: `with HubServer() as hub: hub.url, hub.token, hub.store, hub.log`.

One file per concern:

    store        repositories and LFS objects in memory     errors       error replies of the Hub
    wire         HTTP on a port, and the log                faults       failures on demand
    access       users and their rights                     paging       listings in pages
    server       finds the route of a request               environment  variables for processes that use it
    repos        routes: account; create, move, delete, settings
    info         routes: one repository, lists of them      files        routes: tree and files
    commits      routes: commits and pull requests          history      routes: commits, branches, tags
    lfs          routes: LFS uploads, also in parts         cdn          sends LFS bytes
    cards        metadata of model cards                    jobs         routes: Jobs, which run here as processes

It supports only models and data sets. It has no Xet, spaces, discussions, merging of pull requests, requests for
access, copies between repositories, `.gitignore`, rate limits of its own, statistics or full-text search.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

from . import cdn, server
from .access import Accounts
from .environment import environment
from .faults import Faults
from .jobs import Jobs
from .store import Store
from .wire import Exchange, Origin, Reply, Request


__all__ = ["Exchange", "HubServer", "Lie", "Reply", "Request", "Store", "environment"]
Lie = Callable[[Request, Reply], Reply]


class HubServer:
    """A Hub and its CDN, each on its own port (`url`, `cdn_url`) from `start` to `stop` or within a `with` block.

    `store` holds their content; `log` has every exchange of both, in the order of the answers; `faults` makes requests
    fail. Listings come in pages of `page_size`; objects larger than `multipart_size` bytes are uploaded in parts of
    that size (None: never).
    """

    def __init__(self, *, user: str = "tester", token: str = "hf_loopback") -> None:
        self.user, self.token = user, token
        self.page_size = 1000
        self.multipart_size: int | None = None
        self.store, self.accounts, self.faults, self.jobs = Store(), Accounts(), Faults(), Jobs()
        self.log: list[Exchange] = []
        self.url = self.cdn_url = ""  # not known before `start`
        self._origins: tuple[Origin, ...] = ()
        self._lie: Lie | None = None
        self.add_user(user, token)

    def add_user(self, name: str, token: str, *, role: str = "write", orgs: Iterable[str] = ()) -> None:
        """Add a user in `orgs`; with `role="read"` the token may only read. A token belongs to its last user."""
        self.accounts.add(name, token, role=role, orgs=orgs)

    def start(self) -> "HubServer":
        """Open both ports; everything runs in daemon threads."""
        objects = Origin("cdn", self.faults.wrap("cdn", partial(cdn.answer, self.store)), self.log)
        hub = Origin("hub", self.faults.wrap("hub", self._answer), self.log)
        self._origins, self.url, self.cdn_url = (hub, objects), hub.url, objects.url
        return self

    @contextmanager
    def lying(self, lie: Lie) -> Iterator[None]:
        """Within the block, each reply of the Hub (not its CDN) is replaced by `lie(request, reply)`."""
        self._lie = lie
        try:
            yield
        finally:
            self._lie = None

    def _answer(self, request: Request) -> Reply:
        reply, lie = server.answer(self, request), self._lie
        return lie(request, reply) if lie else reply

    def stop(self) -> None:
        """End all jobs and close both ports; the store and the log are kept."""
        self.jobs.stop()
        for origin in self._origins:
            origin.stop()
        self._origins = ()

    def __enter__(self) -> "HubServer":
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()
