"""What a Hub or a mirror may answer: commits, digests, names and sizes are checked before anything is done with them.

It makes no request. `hub_watch` calls it for every answer before `huggingface_hub` sees that, since the client makes
paths of commits, ETags and names.
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
# Of terminals, of lines and of the direction of writing, and halves of surrogates.
CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
DRIVE = re.compile(r"[A-Za-z]:")
LONGEST_NAME = 1_000  # characters of a path in a repository
LONGEST_PIECE = 255  # bytes between two slashes, which is what file systems take
LARGEST_FILE = 10**15  # bytes
FILE = re.compile(r".*/resolve(-cache/[^/]+)?/.+")  # the address of a file, or where the Hub keeps it
REVISION = re.compile(r"(?!/)[^\\\x00-\x20\x7f~^:?*\[]{1,255}(?<!/)")  # what git takes as the name of a branch or tag


class BadAnswerError(Exception):
    """An answer of a server that is not believed; neither an `OSError` nor a `ValueError`, which the client drops."""


def is_commit(value: object) -> bool:
    """Whether it is the full id of a commit."""
    return isinstance(value, str) and COMMIT.fullmatch(value) is not None


def is_digest(value: object) -> bool:
    """Whether it is a sha1 or a sha256, in hexadecimal digits."""
    return isinstance(value, str) and DIGEST.fullmatch(value) is not None


def is_revision(value: object) -> bool:
    """Whether it can be a branch, a tag or a commit: the cache has a file of that name."""
    if not isinstance(value, str) or REVISION.fullmatch(value) is None:
        return False
    return all(piece not in ("", ".", "..") for piece in value.split("/"))


def is_inside(name: object) -> bool:
    """Whether the name of a file is relative, stays in its folder, and is one on every system."""
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME or "\\" in name or DRIVE.match(name):
        return False
    if CONTROLS.search(name):
        return False
    pieces = name.split("/")
    return all(piece not in ("", ".", "..") and len(piece.encode()) <= LONGEST_PIECE for piece in pieces)


def is_size(value: object) -> bool:
    """Whether it is a number of bytes."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_FILE


def normal_etag(etag: str) -> str:
    """An ETag without its quotes, as the client makes the name of a file of it."""
    return etag.lstrip("W/").strip('"')


def check_headers(method: str, path: str, headers: Mapping[str, str]) -> None:
    """Refuse headers of which the client would make paths: the commit, and the ETag of a file.

    Args:
        method (`str`), path (`str`):
            Of the request.
        headers (`Mapping[str, str]`):
            Of the answer; looked up without regard to case.

    Raises:
        [`BadAnswerError`]: if one of them is not hexadecimal, or a size is no number.
    """
    commit = headers.get("X-Repo-Commit")
    if commit is not None and not is_commit(commit):
        raise BadAnswerError(f"the header X-Repo-Commit is no id of a commit: {_shown(commit)}")
    name = "X-Linked-ETag" if headers.get("X-Linked-ETag") else "ETag"  # as the client chooses
    is_used = method == "HEAD" and FILE.fullmatch(path) and commit is not None and name in headers
    if is_used and not is_digest(normal_etag(headers[name])):
        raise BadAnswerError(f"the header {name} is no digest: {_shown(headers[name])}")
    for name in ("X-Linked-Size", "Content-Length"):
        size = headers.get(name)
        if size is not None and not (size.isascii() and size.isdigit() and len(size) <= 15):
            raise BadAnswerError(f"the header {name} is no number of bytes: {_shown(size)}")


def asked_to_wait(headers: Mapping[str, str]) -> float:
    """The seconds that a busy Hub asks to be left alone for: a number, a date, or the end of the window of its limit.

    Args:
        headers (`Mapping[str, str]`):
            Of the answer.

    Returns:
        `float`: 0 where it does not ask, or what it says cannot be understood; may be infinite.
    """
    window = re.search(r";\s*r\s*=\s*0\s*;\s*t\s*=\s*(\d{1,9})\b", headers.get("ratelimit") or "", re.ASCII)
    text = (headers.get("Retry-After") or "").strip() or (window[1] if window else "")
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError, IndexError):
            return 0.0
    return seconds if seconds > 0 else 0.0  # neither negative nor NaN


def checker_of(path: str) -> Callable[[Any], None] | None:
    """What refuses the JSON of an answer that is not what its address answers; `None` of addresses that are not ours.

    Args:
        path (`str`):
            Of the request.

    Returns:
        `Callable`: takes the parsed body and raises [`BadAnswerError`], naming the first field that is wrong.
    """
    return next((check for address, check in _ADDRESSES.items() if re.fullmatch(address, path)), None)


def without_controls(value: Any) -> Any:
    """Texts of an answer that the client prints, without control characters."""
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
    if not isinstance(value, dict):
        raise BadAnswerError(f"{what} is no object of JSON but {_shown(value)}")
    return value


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise BadAnswerError(f"{what} is no list but {_shown(value)}")
    return value


def _require(is_right: Callable[[object], bool], value: Any, what: str, *, optional: bool = False) -> None:
    if not (optional and value is None) and not is_right(value):
        raise BadAnswerError(f"{what} is wrong: {_shown(value)}")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and one_line(value) == value


def _is_address(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"https?://[\x21-\x7e]+", value) is not None


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _info(value: Any) -> None:
    """One repository."""
    found = _mapping(value, "the answer")
    _require(_is_text, found.get("id"), "id")
    _require(is_commit, found.get("sha"), "sha", optional=True)
    _require(_is_flag, found.get("private"), "private", optional=True)
    for sibling in _list(found.get("siblings") or [], "siblings"):
        _require(is_inside, _mapping(sibling, "a file").get("rfilename"), "the name of a file")


def _infos(value: Any) -> None:
    """Several repositories."""
    for item in _list(value, "the answer"):
        _require(_is_text, _mapping(item, "a repository").get("id"), "id")


def _rows(value: Any) -> None:
    """Files and folders."""
    for row in _list(value, "the answer"):
        _mapping(row, "a file")
        _require(is_inside, row.get("path"), "the name of a file")
        name = row["path"]
        if row.get("type") == "directory":
            _require(is_commit, row.get("oid"), f"the id of {name}")
            continue
        _require(lambda kind: kind == "file", row.get("type"), f"the kind of {name}")
        _require(is_digest, row.get("oid"), f"the digest of {name}")
        _require(is_size, row.get("size"), f"the size of {name}")
        if row.get("lfs") is not None:
            lfs = _mapping(row["lfs"], f"lfs of {name}")
            _require(lambda digest: is_digest(digest) and len(digest) == 64, lfs.get("oid"), f"the sha256 of {name}")
            if lfs.get("size") != row["size"]:
                raise BadAnswerError(f"{name} has two sizes: {row['size']} and {_shown(lfs.get('size'))}")
            _require(is_size, lfs.get("pointerSize"), f"the size of the pointer of {name}")


def _refs(value: Any) -> None:
    """Branches and tags."""
    found = _mapping(value, "the answer")
    for kind in ("branches", "tags"):
        for ref in _list(found.get(kind), kind):
            _require(_is_text, _mapping(ref, "a branch or tag").get("name"), "the name of a branch or tag")
            _require(is_commit, ref.get("targetCommit"), f"the commit of {ref['name']}")


def _account(value: Any) -> None:
    name = _mapping(value, "the answer").get("name")
    _require(lambda text: isinstance(text, str) and re.fullmatch(r"[\w.-]{1,96}", text), name, "the name of the user")


def _created(value: Any) -> None:
    _require(_is_address, _mapping(value, "the answer").get("url"), "url")


def _modes(value: Any) -> None:
    """How each file is to be sent."""
    for file in _list(_mapping(value, "the answer").get("files"), "files"):
        _require(is_inside, _mapping(file, "a file").get("path"), "the name of a file")
        _require(lambda mode: mode in ("lfs", "regular"), file.get("uploadMode"), "uploadMode")
        _require(_is_flag, file.get("shouldIgnore"), "shouldIgnore", optional=True)
        _require(lambda oid: isinstance(oid, str), file.get("oid"), "oid", optional=True)


def _transfers(value: Any) -> None:
    """Where to send large files."""
    for item in _list(_mapping(value, "the answer").get("objects"), "objects"):
        _require(is_digest, _mapping(item, "an object").get("oid"), "oid")
        _require(is_size, item.get("size"), "size")
        actions = _mapping(item.get("actions") or {}, "actions")
        for action in actions.values():
            _require(_is_address, _mapping(action, "an action").get("href"), "href")
            _mapping(action.get("header") or {}, "header")


def _committed(value: Any) -> None:
    found = _mapping(value, "the answer")
    _require(is_commit, found.get("commitOid"), "commitOid")
    _require(_is_address, found.get("commitUrl"), "commitUrl")
    _require(_is_address, found.get("pullRequestUrl"), "pullRequestUrl", optional=True)


def _validated(value: Any) -> None:
    found = _mapping(value, "the answer")
    for kind in ("errors", "warnings"):
        for item in _list(found.get(kind) or [], kind):
            _mapping(item, kind)


_KINDS = "/api/(models|datasets)"
_ID = "/[^/]+(/[^/]+)?"
_ADDRESSES: dict[str, Callable[[Any], None]] = {  # the first that fits
    "/api/whoami-v2": _account,
    "/api/repos/create": _created,
    "/api/validate-yaml": _validated,
    _KINDS: _infos,
    rf"{_KINDS}{_ID}/(tree|paths-info)/.+": _rows,
    rf"{_KINDS}{_ID}/refs": _refs,
    rf"{_KINDS}{_ID}/preupload/.+": _modes,
    rf"{_KINDS}{_ID}/commit/.+": _committed,
    rf"{_KINDS}{_ID}/revision/.+": _info,
    rf"{_KINDS}{_ID}": _info,
    r"/.+\.git/info/lfs/objects/batch": _transfers,
}
