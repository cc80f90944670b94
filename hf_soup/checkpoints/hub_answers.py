"""Validation of the answers of a Hub or a mirror: commits, digests, names and sizes are checked before they are used.

This module makes no requests. `hub_watch` passes it every answer before `huggingface_hub` sees it, since the client
builds paths from commits, ETags and names.
"""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from ..untrusted import MESSAGE, one_line


COMMIT = re.compile(r"[0-9a-f]{40}")
DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # git's sha1 of small files, the sha256 of large ones
SHA256_DIGITS = 64
# Control characters, line separators, characters that change the writing direction, and surrogates.
CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
DRIVE = re.compile(r"[A-Za-z]:")
LONGEST_NAME = 1_000  # characters of a path in a repository
NO_NAMES = frozenset(("", ".", ".."))  # between two slashes
LONGEST_PIECE = 255  # bytes between two slashes, the limit of file systems
LARGEST_FILE = 10**15  # bytes
SIZE_DIGITS = 15  # of the size of a file
FILE = re.compile(r".*/resolve(-cache/[^/]+)?/.+")  # the address of a file, or of its copy in the Hub's cache
REVISION = re.compile(r"(?!/)[^\\\x00-\x20\x7f~^:?*\[]{1,255}(?<!/)")  # git's rule for branches and tags


class BadAnswerError(Exception):
    """An invalid answer of a server; neither an `OSError` nor a `ValueError`, which the client would swallow."""


def is_commit(value: object) -> bool:
    """Whether a value is the full id of a commit."""
    return isinstance(value, str) and COMMIT.fullmatch(value) is not None


def is_digest(value: object) -> bool:
    """Whether a value is a sha1 or a sha256 in hexadecimal digits."""
    return isinstance(value, str) and DIGEST.fullmatch(value) is not None


def is_revision(value: object) -> bool:
    """Whether a value can be a branch, a tag or a commit; the cache has a file with that name."""
    if not isinstance(value, str) or REVISION.fullmatch(value) is None:
        return False
    return NO_NAMES.isdisjoint(value.split("/"))


def is_inside(name: object) -> bool:
    """Whether a file name is relative, stays in its folder, and means the same on every system."""
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME:
        return False
    if "\\" in name or DRIVE.match(name) or CONTROLS.search(name):  # the first two point elsewhere on Windows
        return False
    return all(_is_name(piece) for piece in name.split("/"))


def _is_name(piece: str) -> bool:
    """Whether a component of a path is a valid name in its folder, and not too long for a file system."""
    return piece not in NO_NAMES and len(piece.encode()) <= LONGEST_PIECE


def is_size(value: object) -> bool:
    """Whether a value is a size in bytes."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_FILE


def normal_etag(etag: str) -> str:
    """An ETag without its quotes, from which the client makes a file name."""
    return etag.lstrip("W/").strip('"')


def check_headers(method: str, path: str, headers: Mapping[str, str]) -> None:
    """Refuse headers from which the client would build unsafe paths: the commit, and the ETag of a file.

    Args:
        method (`str`), path (`str`):
            Method and path of the request.
        headers (`Mapping[str, str]`):
            Headers of the answer, which are looked up case-insensitively.

    Raises:
        [`BadAnswerError`]: if one of them is not hexadecimal, or a size is no number.
    """
    commit = headers.get("X-Repo-Commit")
    if commit is not None and not is_commit(commit):
        raise BadAnswerError(f"the header X-Repo-Commit is not the id of a commit: {_shown(commit)}")
    if method == "HEAD" and commit is not None and FILE.fullmatch(path):
        _check_etag(headers)
    for name in ("X-Linked-Size", "Content-Length"):
        size = headers.get(name)
        if size is not None and not _is_number_of_bytes(size):
            raise BadAnswerError(f"the header {name} is not a number of bytes: {_shown(size)}")


def _check_etag(headers: Mapping[str, str]) -> None:
    """Refuse an ETag from which the client would build an unsafe file name in its cache."""
    name = "X-Linked-ETag" if headers.get("X-Linked-ETag") else "ETag"  # in the client's order of preference
    if name in headers and not is_digest(normal_etag(headers[name])):
        raise BadAnswerError(f"the header {name} is not a digest: {_shown(headers[name])}")


def _is_number_of_bytes(text: str) -> bool:
    """Whether a text is a plain number; `int` also accepts `+1`, `1_0` and digits of other scripts."""
    return text.isascii() and text.isdigit() and len(text) <= SIZE_DIGITS


def asked_to_wait(headers: Mapping[str, str]) -> float:
    """The seconds that a busy Hub asks to wait: a number, a date, or the end of its rate-limit window.

    Args:
        headers (`Mapping[str, str]`):
            Headers of the answer.

    Returns:
        `float`: 0 where it does not ask, or what it says cannot be understood; may be infinite.
    """
    text = (headers.get("Retry-After") or "").strip() or _end_of_window(headers)
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError, IndexError):
            return 0.0
    if seconds > 0:  # neither negative nor NaN
        return seconds
    return 0.0


def _end_of_window(headers: Mapping[str, str]) -> str:
    """The seconds until an exhausted rate limit (`r=0`) is lifted (`t=...`); empty if there is none."""
    match = re.search(r";\s*r\s*=\s*0\s*;\s*t\s*=\s*(\d{1,9})\b", headers.get("ratelimit") or "", re.ASCII)
    if match is None:
        return ""
    return match[1]


def checker_of(path: str) -> Callable[[Any], None] | None:
    """The function that refuses an unexpected JSON answer of an address; `None` for unknown addresses.

    Args:
        path (`str`):
            Path of the request.

    Returns:
        `Callable`: takes the parsed body and raises [`BadAnswerError`], naming the first field that is wrong.
    """
    for address, check in _ADDRESSES.items():
        if re.fullmatch(address, path):
            return check
    return None


def without_controls(value: Any) -> Any:
    """The texts of an answer that the client prints, without control characters."""
    if isinstance(value, str):
        return "\n".join(one_line(line) for line in value[: 10 * MESSAGE].splitlines())
    if isinstance(value, list):
        return [without_controls(item) for item in value]
    if isinstance(value, dict):
        return {without_controls(key): without_controls(item) for key, item in value.items()}
    return value


def _shown(value: object) -> str:
    return one_line(repr(value), 80)


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    """The value, which has to be a JSON object."""
    if not isinstance(value, dict):
        raise BadAnswerError(f"{what} is not a JSON object but {_shown(value)}")
    return value


def _list(value: Any, what: str) -> list[Any]:
    """The value, which has to be a list."""
    if not isinstance(value, list):
        raise BadAnswerError(f"{what} is not a list but {_shown(value)}")
    return value


def _require(is_right: Callable[[object], bool], value: object, what: str, *, optional: bool = False) -> None:
    """Refuse a value that is not valid; an optional one may be `null` or absent."""
    if optional and value is None:
        return
    if not is_right(value):
        raise BadAnswerError(f"{what} is wrong: {_shown(value)}")


def _is_text(value: object) -> bool:
    """Whether a value is a short, single-line text without control characters."""
    return isinstance(value, str) and one_line(value) == value


def _is_address(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"https?://[\x21-\x7e]+", value) is not None


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_sha256(value: object) -> bool:
    return isinstance(value, str) and is_digest(value) and len(value) == SHA256_DIGITS


def _is_account_name(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[\w.-]{1,96}", value) is not None


def _info(value: Any) -> None:
    """Check the description of one repository."""
    info = _mapping(value, "the answer")
    _require(_is_text, info.get("id"), "id")
    _require(is_commit, info.get("sha"), "sha", optional=True)
    _require(_is_flag, info.get("private"), "private", optional=True)
    for sibling in _list(info.get("siblings") or [], "siblings"):
        _require(is_inside, _mapping(sibling, "a file").get("rfilename"), "the name of a file")


def _infos(value: Any) -> None:
    """Check the descriptions of several repositories."""
    for item in _list(value, "the answer"):
        _require(_is_text, _mapping(item, "a repository").get("id"), "id")


def _tree(value: Any) -> None:
    """Check a listing of files and folders."""
    for entry in _list(value, "the answer"):
        _mapping(entry, "a file")
        _require(is_inside, entry.get("path"), "the name of a file")
        name = entry["path"]
        if entry.get("type") == "directory":
            _require(is_commit, entry.get("oid"), f"the id of {name}")
            continue
        _require(lambda entry_type: entry_type == "file", entry.get("type"), f"the kind of {name}")
        _require(is_digest, entry.get("oid"), f"the digest of {name}")
        _require(is_size, entry.get("size"), f"the size of {name}")
        if entry.get("lfs") is not None:
            _large_file(_mapping(entry["lfs"], f"lfs of {name}"), name, entry["size"])


def _large_file(lfs: Mapping[str, Any], name: str, size: int) -> None:
    """Check a listing's entry for a file of which git stores a pointer."""
    _require(_is_sha256, lfs.get("oid"), f"the sha256 of {name}")
    if lfs.get("size") != size:
        raise BadAnswerError(f"{name} has two sizes: {size} and {_shown(lfs.get('size'))}")
    _require(is_size, lfs.get("pointerSize"), f"the size of the pointer of {name}")


def _refs(value: Any) -> None:
    """Check a list of branches and tags."""
    refs = _mapping(value, "the answer")
    for field in ("branches", "tags"):
        for ref in _list(refs.get(field), field):
            _require(_is_text, _mapping(ref, "a branch or tag").get("name"), "the name of a branch or tag")
            _require(is_commit, ref.get("targetCommit"), f"the commit of {ref['name']}")


def _account(value: Any) -> None:
    """Check the description of the token's account."""
    name = _mapping(value, "the answer").get("name")
    _require(_is_account_name, name, "the name of the user")


def _created(value: Any) -> None:
    """Check the answer about a repository that was just created."""
    _require(_is_address, _mapping(value, "the answer").get("url"), "url")


def _modes(value: Any) -> None:
    """Check how each file is to be uploaded."""
    for file in _list(_mapping(value, "the answer").get("files"), "files"):
        _require(is_inside, _mapping(file, "a file").get("path"), "the name of a file")
        _require(lambda mode: mode in ("lfs", "regular"), file.get("uploadMode"), "uploadMode")
        _require(_is_flag, file.get("shouldIgnore"), "shouldIgnore", optional=True)
        _require(lambda oid: isinstance(oid, str), file.get("oid"), "oid", optional=True)


def _transfers(value: Any) -> None:
    """Check the addresses for large uploads."""
    for item in _list(_mapping(value, "the answer").get("objects"), "objects"):
        _require(is_digest, _mapping(item, "an object").get("oid"), "oid")
        _require(is_size, item.get("size"), "size")
        actions = _mapping(item.get("actions") or {}, "actions")
        for action in actions.values():
            _require(_is_address, _mapping(action, "an action").get("href"), "href")
            _mapping(action.get("header") or {}, "header")


def _committed(value: Any) -> None:
    """Check the answer about a commit that was just made, or its pull request."""
    commit = _mapping(value, "the answer")
    _require(is_commit, commit.get("commitOid"), "commitOid")
    _require(_is_address, commit.get("commitUrl"), "commitUrl")
    _require(_is_address, commit.get("pullRequestUrl"), "pullRequestUrl", optional=True)


def _validated(value: Any) -> None:
    """Check the Hub's problems with the metadata of a model card."""
    problems = _mapping(value, "the answer")
    for level in ("errors", "warnings"):
        for item in _list(problems.get(level) or [], level):
            _mapping(item, level)


_KINDS = "/api/(models|datasets)"
_ID = "/[^/]+(/[^/]+)?"
_ADDRESSES: dict[str, Callable[[Any], None]] = {  # the first match counts
    "/api/whoami-v2": _account,
    "/api/repos/create": _created,
    "/api/validate-yaml": _validated,
    _KINDS: _infos,
    rf"{_KINDS}{_ID}/(tree|paths-info)/.+": _tree,
    rf"{_KINDS}{_ID}/refs": _refs,
    rf"{_KINDS}{_ID}/preupload/.+": _modes,
    rf"{_KINDS}{_ID}/commit/.+": _committed,
    rf"{_KINDS}{_ID}/revision/.+": _info,
    rf"{_KINDS}{_ID}": _info,
    r"/.+\.git/info/lfs/objects/batch": _transfers,
}
