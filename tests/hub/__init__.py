"""A Hugging Face Hub on loopback for tests: `with HubServer() as hub: hub.url, hub.token, hub.store, hub.log`.

One user with one token, and models only: no gated repositories, pull requests, multipart uploads or Xet. One file per
concern: `store` (repositories), `wire` (HTTP), `server` (the Hub's routes), `cdn` (LFS bytes), `environment`.
"""

from functools import partial

from . import cdn, server
from .environment import environment
from .store import Store
from .wire import Exchange, Origin


__all__ = ["Exchange", "HubServer", "Store", "environment"]


class HubServer:
    """A Hub and its CDN, each on a port of its own (`url`, `cdn_url`) from `start` to `stop` or within a `with`.

    `store` is what they keep; `log` has every exchange of both, in the order of the answers.
    """

    def __init__(self, *, user: str = "tester", token: str = "hf_loopback") -> None:
        self.user, self.token = user, token
        self.store = Store()
        self.log: list[Exchange] = []
        self.url = self.cdn_url = ""  # not known before `start`
        self._origins: tuple[Origin, ...] = ()

    def start(self) -> "HubServer":
        """Opens both ports; everything runs in daemon threads."""
        objects = Origin("cdn", partial(cdn.answer, self.store), self.log)
        site = server.Site(self.store, self.user, self.token, cdn_url=objects.url)
        hub = Origin("hub", partial(server.answer, site), self.log)
        self._origins, self.url, self.cdn_url = (hub, objects), hub.url, objects.url
        return self

    def stop(self) -> None:
        """Closes both ports; the store and the log stay."""
        for origin in self._origins:
            origin.stop()
        self._origins = ()

    def __enter__(self) -> "HubServer":
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()
