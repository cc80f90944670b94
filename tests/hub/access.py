"""Users and their rights: tokens, private and gated repositories, and tokens that may only read.

Members of a namespace (the user of that name, and users in that organization) may do everything in it. There are no
roles within an organization and no requests for access: a test calls `repository.granted.add(name)`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .store import Repository, StoreError


SEE, READ, PROPOSE, WRITE = "see", "read", "propose", "write"  # the rights that a route requires
ROLES = ("write", "read")


@dataclass(frozen=True)
class User:
    """The owner of a token; `role` is the role of the token."""

    name: str
    token: str
    role: str = "write"
    orgs: tuple[str, ...] = ()

    def belongs_to(self, namespace: str) -> bool:
        """Whether the user owns the repositories of `namespace`."""
        return namespace in (self.name, *self.orgs)


class Accounts:
    """All users, by token."""

    def __init__(self) -> None:
        self._users: dict[str, User] = {}

    def add(self, name: str, token: str, *, role: str = "write", orgs: Iterable[str] = ()) -> None:
        """Add a user, or another token of a user."""
        if role not in ROLES:
            raise ValueError(f"role={role!r}: a token's role is one of {ROLES}")
        self._users[token] = User(name, token, role, tuple(orgs))

    def identify(self, headers: Mapping[str, str]) -> User | None:
        """The user who sent these headers, or None without a token; an unknown token is refused."""
        if "Authorization" not in headers:
            return None
        user = self._users.get(headers["Authorization"].removeprefix("Bearer "))
        if user is None:
            raise StoreError("Denied", "Invalid credentials in Authorization header")
        return user


def require_user(user: User | None) -> User:
    """Return the user, or raise if the request had no token."""
    if user is None:
        raise StoreError("Denied", "Invalid username or password.")
    return user


def may_see(user: User | None, repository: Repository) -> bool:
    """Whether `user` may see that the repository exists."""
    return not repository.private or (user is not None and user.belongs_to(repository.namespace))


def check(user: User | None, repository: Repository, right: str) -> None:
    """Raise unless `user` has this right to the repository."""
    if not may_see(user, repository):
        raise StoreError("RepoNotFound", "Repository not found")
    member = user is not None and user.belongs_to(repository.namespace)
    if right == READ and repository.gated and not member and (user is None or user.name not in repository.granted):
        raise StoreError("GatedRepo", _restricted(user, repository))
    if right in (PROPOSE, WRITE) and require_user(user).role != "write":
        raise StoreError("Forbidden", "Forbidden: you must use a write token to upload to a repository.")
    if right == WRITE and not member:
        raise StoreError("Forbidden", f"You don't have the rights to change {repository.full_name}")


def check_namespace(user: User | None, namespace: str, deed: str) -> None:
    """Raise unless `user` may do an action, such as "create a model", in the namespace."""
    owner = require_user(user)
    if owner.role != "write" or not owner.belongs_to(namespace):
        raise StoreError("Forbidden", f'You don\'t have the rights to {deed} under the namespace "{namespace}"')


def _restricted(user: User | None, repository: Repository) -> str:
    start = f"Access to model {repository.full_name} is restricted"
    if user is None:
        return f"{start}. You must have access to it and be authenticated to access it. Please log in."
    return f"{start} and you are not in the authorized list."
