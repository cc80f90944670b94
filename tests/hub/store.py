"""The content of the Hub in memory: commits, branches, tags, pull requests, and files as bytes.

It has no HTTP and no rights (it stores who has access, and `access` decides), and no merges: a commit is a snapshot of
all files. Ids depend only on content and history, not on dates, so that the same calls give the same ids in any
process.
"""

import hashlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property


LFS_SUFFIXES = (".arrow", ".bin", ".h5", ".npy", ".npz", ".onnx", ".parquet", ".pt", ".pth", ".safetensors")
GITATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()
MAX_REGULAR_SIZE = 10 * 2**20  # bytes; larger files go to LFS whatever their name


class StoreError(Exception):
    """A refusal; `reason` is the Hub's error code if it has one (`RepoNotFound`), or else a word such as `Stale`."""

    def __init__(self, reason: str, message: str, *, commit: str = "") -> None:
        super().__init__(message)
        self.reason, self.commit = reason, commit


@dataclass(frozen=True)
class Blob:
    """The bytes of one version of a file."""

    content: bytes
    lfs: bool = False

    @cached_property
    def sha256(self) -> str:
        """The id of the content in LFS."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def pointer(self) -> bytes:
        """The text that git stores instead of an LFS file."""
        size = len(self.content)
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {size}\n".encode()

    @cached_property
    def oid(self) -> str:
        """The id of the blob in git, which for an LFS file is that of its pointer."""
        content = self.pointer if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @property
    def etag(self) -> str:
        """The name under which clients cache a file, and which they compare to skip an upload."""
        return self.sha256 if self.lfs else self.oid


@dataclass(frozen=True)
class Commit:
    """A snapshot of all files by path."""

    oid: str
    title: str
    files: Mapping[str, Blob]
    parent: str = ""
    author: str = ""
    message: str = ""
    date: datetime = field(default_factory=lambda: datetime.now(UTC))


Edit = Callable[[dict[str, Blob]], None]  # changes files in place


@dataclass
class Repository:
    """The history of one repository; its methods may be called from several threads."""

    id: str  # data sets are kept as "datasets/{namespace}/{name}"
    private: bool = False
    gated: bool | str = False  # or "auto", "manual"
    granted: set[str] = field(default_factory=set)  # users who may read the files of a gated repository
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pulls: dict[str, str] = field(default_factory=dict)  # pull requests: "refs/pr/1"
    openers: dict[str, str] = field(default_factory=dict)  # the user who opened each of them
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def kind(self) -> str:
        """The kind of the repository, a model or a dataset."""
        return "dataset" if self.id.startswith("datasets/") else "model"

    @property
    def full_name(self) -> str:
        """The id without the prefix of data sets, as clients write it."""
        return self.id.removeprefix("datasets/")

    @property
    def namespace(self) -> str:
        """The user or organization that owns the repository; old models have none."""
        return self.full_name.rpartition("/")[0]

    def resolve(self, revision: str) -> Commit:
        """The commit of a branch, a tag, a pull request or a full commit id."""
        oid = next((refs[revision] for refs in (self.branches, self.tags, self.pulls) if revision in refs), revision)
        if oid not in self.commits:
            raise StoreError("RevisionNotFound", f"Invalid rev id: {revision}")
        return self.commits[oid]

    def history(self, revision: str) -> list[Commit]:
        """The commit and all its ancestors, newest first."""
        found = [self.resolve(revision)]
        while found[-1].parent:
            found.append(self.commits[found[-1].parent])
        return found

    def commit(
        self, branch: str, title: str, edit: Edit, *, parent: str = "", author: str = "", message: str = ""
    ) -> Commit:
        """Add a commit with the head's files after `edit`; `parent` must be (the first digits of) the head's id."""
        with self.lock:
            refs = self.pulls if branch in self.pulls else self.branches
            if branch not in refs:
                raise StoreError("RevisionNotFound", f"Not a branch: {branch}")
            head = self.commits[refs[branch]]
            if not head.oid.startswith(parent):
                raise StoreError("Stale", f"The branch {branch} is at {head.oid}, no longer at {parent}.")
            made = self._record(title, _edited(head, edit), after=head.oid, author=author, message=message)
            refs[branch] = made.oid
            return made

    def propose(
        self, revision: str, title: str, edit: Edit, *, author: str = "", message: str = ""
    ) -> tuple[int, Commit]:
        """Add a commit after `revision` in a new pull request; returns its number and the commit."""
        with self.lock:
            start = self.resolve(revision)
            made = self._record(title, _edited(start, edit), after=start.oid, author=author, message=message)
            number = len(self.pulls) + 1
            ref = f"refs/pr/{number}"
            self.pulls[ref], self.openers[ref] = made.oid, author
            return number, made

    def point(self, refs: dict[str, str], name: str, revision: str) -> None:
        """Add a name for a commit to `refs`, which is `branches` or `tags`."""
        with self.lock:
            if name in refs:
                raise StoreError("Exists", f"Reference already exists: {name}")
            refs[name] = self.resolve(revision).oid

    def _record(self, title: str, files: Mapping[str, Blob], *, after: str, author: str, message: str) -> Commit:
        listing = sorted((path, blob.etag) for path, blob in files.items())
        oid = hashlib.sha1(repr((self.id, after, title, listing)).encode()).hexdigest()
        # the same change proposed twice is a single commit
        return self.commits.setdefault(oid, Commit(oid, title, files, after, author, message))


def _edited(commit: Commit, edit: Edit) -> dict[str, Blob]:
    files = dict(commit.files)
    edit(files)
    return files


class Store:
    """All repositories by id, and the LFS objects that they share by sha256."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.moved: dict[str, str] = {}  # old ids, which still redirect to the new ones
        self.objects: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}  # parts of incomplete objects, by sha256 and number

    def create(self, repo_id: str, *, private: bool = False, author: str = "") -> Repository:
        """Create a repository, with the `.gitattributes` that the Hub commits first."""
        repository = Repository(repo_id, private)
        first = {".gitattributes": Blob(GITATTRIBUTES)}
        made = repository._record("initial commit", first, after="", author=author, message="")
        repository.branches["main"] = made.oid
        self._keep(repository)
        return repository

    def delete(self, repo_id: str) -> None:
        """Delete a repository; LFS objects are kept, since others may share them."""
        if self.repositories.pop(repo_id, None) is None:
            raise StoreError("RepoNotFound", "Repository not found")

    def move(self, repository: Repository, repo_id: str) -> None:
        """Give a repository another id, and redirect the old one to it."""
        old, repository.id = repository.id, repo_id
        try:
            self._keep(repository)
        except StoreError:
            repository.id = old
            raise
        del self.repositories[old]
        self.moved[old] = repo_id

    def _keep(self, repository: Repository) -> None:
        if self.repositories.setdefault(repository.id, repository) is not repository:
            raise StoreError("Exists", f"You already created this {repository.kind} repo")
        self.moved.pop(repository.id, None)

    def put_object(self, oid: str, content: bytes) -> None:
        """Store `content`, whose sha256 must be `oid`."""
        if hashlib.sha256(content).hexdigest() != oid:
            raise StoreError("Invalid", f"The {len(content)} bytes sent as LFS object {oid} do not have that sha256.")
        self.objects[oid] = content

    def lfs_blob(self, oid: str, size: int) -> Blob:
        """The file with the content stored as `oid`, which must have `size` bytes."""
        if oid not in self.objects or len(self.objects[oid]) != size:
            raise StoreError("Invalid", f"LFS object {oid} of {size} bytes has not been uploaded.")
        return Blob(self.objects[oid], lfs=True)
