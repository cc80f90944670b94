"""Keeps models in memory: commits, branches, tags, and files as bytes.

It knows no HTTP and no users, and it has no merges or dates: a commit is a whole picture of the files. Ids depend on
content and history only, so the same calls give the same ids in any process.
"""

import hashlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property


LFS_SUFFIXES = (".arrow", ".bin", ".h5", ".npy", ".npz", ".onnx", ".parquet", ".pt", ".pth", ".safetensors")
GITATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()
MAX_REGULAR_SIZE = 10 * 2**20  # bytes; larger files go to LFS whatever their name


class StoreError(Exception):
    """A refusal; `reason` is the Hub's error code where it has one (`RepoNotFound`), else a word such as `Stale`."""

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
        """The name of the content in LFS."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def pointer(self) -> bytes:
        """The text that git keeps in place of an LFS file."""
        size = len(self.content)
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {size}\n".encode()

    @cached_property
    def oid(self) -> str:
        """The id of the blob in git, where an LFS file is its pointer."""
        content = self.pointer if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @property
    def etag(self) -> str:
        """What clients name a cached file by, and compare in order to skip an upload."""
        return self.sha256 if self.lfs else self.oid


@dataclass(frozen=True)
class Commit:
    """A picture of all files by path."""

    oid: str
    title: str
    files: Mapping[str, Blob]


@dataclass
class Repository:
    """The history of one model; its methods may be called from several threads."""

    id: str
    private: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def resolve(self, revision: str) -> Commit:
        """The commit that a branch, a tag or a full commit id stands for."""
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        if oid not in self.commits:
            raise StoreError("RevisionNotFound", f"Invalid rev id: {revision}")
        return self.commits[oid]

    def commit(self, branch: str, title: str, edit: Callable[[dict[str, Blob]], None], *, parent: str = "") -> Commit:
        """Adds a commit with the head's files after `edit`; `parent` must be (the first digits of) the head's id."""
        with self.lock:
            if branch not in self.branches:
                raise StoreError("RevisionNotFound", f"Not a branch: {branch}")
            head = self.commits[self.branches[branch]]
            if not head.oid.startswith(parent):
                raise StoreError("Stale", f"The branch {branch} is at {head.oid}, no longer at {parent}.")
            files = dict(head.files)
            edit(files)
            return self._record(branch, title, files, after=head.oid)

    def point(self, refs: dict[str, str], name: str, revision: str) -> None:
        """Adds a name for a commit to `refs`, which is `branches` or `tags`."""
        with self.lock:
            if name in refs:
                raise StoreError("Exists", f"Reference already exists: {name}")
            refs[name] = self.resolve(revision).oid

    def _record(self, branch: str, title: str, files: Mapping[str, Blob], *, after: str) -> Commit:
        listing = sorted((path, blob.etag) for path, blob in files.items())
        oid = hashlib.sha1(repr((self.id, after, title, listing)).encode()).hexdigest()
        self.commits[oid] = Commit(oid, title, files)
        self.branches[branch] = oid
        return self.commits[oid]


class Store:
    """All repositories by id, and the LFS objects that they share by sha256."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}

    def create(self, repo_id: str, *, private: bool = False) -> Repository:
        """A new repository, with the `.gitattributes` that the Hub commits first."""
        repository = Repository(repo_id, private)
        repository._record("main", "initial commit", {".gitattributes": Blob(GITATTRIBUTES)}, after="")
        if self.repositories.setdefault(repo_id, repository) is not repository:
            raise StoreError("Exists", "You already created this model repo")
        return repository

    def put_object(self, oid: str, content: bytes) -> None:
        """Keeps `content`, whose sha256 must be `oid`."""
        if hashlib.sha256(content).hexdigest() != oid:
            raise StoreError("Invalid", f"The {len(content)} bytes sent as LFS object {oid} do not have that sha256.")
        self.objects[oid] = content

    def lfs_blob(self, oid: str, size: int) -> Blob:
        """The file whose content has been put as `oid`, and is `size` bytes long."""
        if oid not in self.objects or len(self.objects[oid]) != size:
            raise StoreError("Invalid", f"LFS object {oid} of {size} bytes has not been uploaded.")
        return Blob(self.objects[oid], lfs=True)
