"""Tests of which answers of a Hub or mirror are refused before the client makes paths of them or waits for them."""

import itertools
import json
import math
import time
import zlib

import httpx2
import huggingface_hub
import pytest
from huggingface_hub.utils import _http

from hf_soup.checkpoints import hub_bodies
from hf_soup.checkpoints.hub_answers import (
    BadAnswerError,
    asked_to_wait,
    check_headers,
    checker_of,
    is_inside,
    is_revision,
)
from hf_soup.checkpoints.hub_bodies import bound
from hf_soup.checkpoints.hub_watch import WATCH, watched


COMMIT, DIGEST = "a" * 40, "b" * 64
FILE = "/user/run/resolve/main/config.json"
ODD = [
    "/home/user/file",
    "../../x",
    "",
    "..",
    "a/b",
    "A" * 40,
    "a" * 39,
    "a" * 5000,
    "\x9b31m",
    "words",
    "*",
    COMMIT + "\n",
]


@pytest.mark.parametrize("text", ODD)
@pytest.mark.parametrize("name", ["X-Repo-Commit", "ETag", "X-Linked-ETag"])
def test_commits_and_etags_are_hexadecimal(name, text):
    """Headers that the client turns into paths must be 40 or 64 hexadecimal digits."""
    headers = httpx2.Headers(
        {"X-Repo-Commit": COMMIT, name: text if "C" in name else f'W/"{text}"'}, encoding="latin-1"
    )
    with pytest.raises(BadAnswerError, match=name):
        check_headers("HEAD", FILE, headers)


def test_right_headers_pass():
    """Headers of the Hub, of its CDN and of its errors are accepted."""
    for etag in (COMMIT, f'"{COMMIT}"', f'W/"{DIGEST}"'):
        check_headers("HEAD", FILE, httpx2.Headers({"X-Repo-Commit": COMMIT, "ETag": etag, "Content-Length": "5"}))
    check_headers("HEAD", FILE, httpx2.Headers({"ETag": 'W/"1a-anything"'}))  # of a redirect, which is not used
    check_headers("GET", "/cdn", httpx2.Headers({"ETag": '"md5-of-a-store-3"'}))


@pytest.mark.parametrize("size", ["-1", "1e9", "9" * 30, "x", "", "\u00b2"])
def test_sizes_are_numbers(size):
    """A size that is not a number of bytes is refused."""
    with pytest.raises(BadAnswerError, match="not a number"):
        check_headers("HEAD", FILE, {"X-Linked-Size": size})


@pytest.mark.parametrize(
    "name",
    ["config.json", "1_Pooling/config.json", "a b.txt", "\u00e4/\u4e2d.json", ".gitattributes", "a..b", "x" * 255],
)
def test_names_of_files(name):
    """Relative names are accepted in any language."""
    assert is_inside(name)


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../x", "a/../../x", "a/./b", "a//b", "a/", "", ".", "..", "a\\b", "C:\\x", "C:x", "a\0b", "a\nb",
     "\x1b[31m", "a\u202eb", "\ud800", "x" * 256, "\u00e4" * 128, "a/" * 600 + "b", None, 5, ["a"], {}],
)  # fmt: skip
def test_names_that_lead_elsewhere(name):
    """Names that are absolute, leave their folder, or are invalid on some system or terminal are refused."""
    assert not is_inside(name)


def test_revisions_are_names_of_branches():
    """A revision is a branch, tag or commit and cannot be a path, because the cache has a file for each revision."""
    assert all(map(is_revision, ("main", "v1.0", "refs/pr/1", "feature/x", COMMIT)))
    assert not any(map(is_revision, ("../../x", "/etc/x", "a//b", "a\\b", "a\0", "", ".", "a/..", "x" * 300, None, 5)))


ROW = {"type": "file", "path": "a.bin", "oid": COMMIT, "size": 9, "lfs": {"oid": DIGEST, "size": 9, "pointerSize": 1}}
RIGHT = {
    "/api/models/user/run": {"id": "user/run", "sha": COMMIT, "private": False, "siblings": [{"rfilename": "a"}]},
    "/api/models/run/revision/v1": {"id": "run", "sha": COMMIT},
    "/api/datasets/user/data/tree/main": [ROW, {"type": "directory", "path": "b", "oid": COMMIT}],
    "/api/datasets/user/data/paths-info/main": [ROW],
    "/api/models/user/run/refs": {"branches": [{"name": "main", "ref": "x", "targetCommit": COMMIT}], "tags": []},
    "/api/models": [{"id": "user/run"}],
    "/api/whoami-v2": {"name": "user"},
    "/api/repos/create": {"url": "https://huggingface.co/user/run"},
    "/api/validate-yaml": {"errors": [{"message": "x"}], "warnings": []},
    "/api/models/user/run/preupload/main": {"files": [{"path": "a", "uploadMode": "lfs"}]},
    "/user/run.git/info/lfs/objects/batch": {
        "objects": [{"oid": DIGEST, "size": 9, "actions": {"upload": {"href": "https://store/x"}}}]
    },
    "/api/models/user/run/commit/main": {"commitOid": COMMIT, "commitUrl": "https://huggingface.co/x"},
}
REQUIRED = {
    "id",
    "name",
    "url",
    "files",
    "objects",
    "path",
    "oid",
    "uploadMode",
    "href",
    "commitOid",
    "commitUrl",
    "type",
}


def places(value, above=()):
    """Every place in a JSON value, as the keys that lead to it."""
    yield above
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*above, key))


def changed(value, place, new):
    """A copy of the value with another value in one place."""
    if not place:
        return new
    copy = json.loads(json.dumps(value))
    inner = copy
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = new
    return copy


@pytest.mark.parametrize("path", RIGHT)
def test_answers_are_what_their_address_answers(path):
    """A correct answer is accepted, and a wrong type anywhere raises at most a BadAnswerError."""
    check = checker_of(path)
    check(RIGHT[path])
    for place, new in itertools.product(places(RIGHT[path]), (None, 5.5, -1, "\x1b[31m/../x", [5], {"a": 1}, True)):
        try:
            check(changed(RIGHT[path], place, new))
        except BadAnswerError as error:
            outcome = str(error)
        else:
            outcome = "" if place and place[-1] not in REQUIRED else "accepted"
        assert "\x1b" not in outcome
        assert outcome != "accepted" or (path, new) == ("/api/validate-yaml", {"a": 1}), (place, new)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("7", 7), ("0", 0), ("-5", 0), ("nan", 0), ("1e400", math.inf), ("soon", 0), ("", 0), ("9" * 5000, math.inf),
     ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("\u00b2", 0), ("Mon, 99 Foo 20155 99:99:99 GMT", 0)],
)  # fmt: skip
def test_what_a_busy_hub_asks_for(text, seconds):
    """`Retry-After` may be a number or a date; other values mean no wait."""
    assert asked_to_wait({"Retry-After": text}) == seconds


def test_the_window_of_a_limit_is_waited_for():
    """The Hub's own header says when its rate limit ends."""
    assert asked_to_wait({"ratelimit": '"api";r=0;t=55'}) == 55


class Chunks(httpx2.SyncByteStream):
    """A body that comes in chunks, each after some seconds of a clock set by the test."""

    def __init__(self, chunks, clock, seconds):
        self.chunks, self.clock, self.seconds = chunks, clock, seconds

    def __iter__(self):
        for chunk in self.chunks:
            self.clock[0] += self.seconds
            yield chunk


@pytest.fixture
def read(monkeypatch):
    """A function that reads a body within limits."""
    clock = [0.0]
    monkeypatch.setattr(hub_bodies.time, "monotonic", lambda: clock[0])

    def read(chunks, most=1000, *, seconds=0.0, at_once=True, **headers):
        request = httpx2.Request("GET", "http://mirror/api/models/user/run")
        response = httpx2.Response(200, request=request, headers=headers, stream=Chunks(chunks, clock, seconds))
        bound(response, most, at_once=at_once)
        return response.read()

    return read


def test_bodies_are_bounded(read):
    """Endless, compressed and very slow bodies raise an error; a long download does not."""
    assert read([b"a"] * 1000) == b"a" * 1000
    with pytest.raises(BadAnswerError, match="more than the 1,000 bytes"):
        read(itertools.repeat(b"a" * 100))
    packed = zlib.compress(b" " * 10**8)
    with pytest.raises(BadAnswerError, match="more than"):
        read([packed], **{"Content-Encoding": "deflate"})
    with pytest.raises(BadAnswerError, match="too slow"):
        read(itertools.repeat(b"a"), 10**9, seconds=1.0)
    with pytest.raises(BadAnswerError, match="too slow"):  # fast enough, but endless
        read(itertools.repeat(b"a" * 10**4), 10**9, seconds=1.0)
    assert len(read([b"a" * 10**4] * 500, 10**9, seconds=1.0, at_once=False)) == 5 * 10**6


def test_what_is_packed_is_unpacked_or_refused(read):
    """Compressed bodies are unpacked; unknown encodings and invalid data are refused."""
    assert read([zlib.compress(b"words")], **{"Content-Encoding": "deflate"}) == b"words"
    for encoding in ("gzip", "br", "gzip, gzip", "words"):
        with pytest.raises(BadAnswerError, match=r"unpacked|packed as"):
            read([b"no gzip"], **{"Content-Encoding": encoding})


def test_the_client_is_as_it_was_after_a_call():
    """The client of huggingface_hub has the package's hooks only during its calls, also if the session is replaced."""
    client, factory = huggingface_hub.get_session(), _http._GLOBAL_CLIENT_FACTORY
    with watched(), watched():
        assert huggingface_hub.get_session() is client
        assert WATCH._after in client.event_hooks["response"]
        huggingface_hub.close_session()
        assert WATCH._after in huggingface_hub.get_session().event_hooks["response"]
    assert _http._GLOBAL_CLIENT_FACTORY is factory
    assert WATCH._after not in huggingface_hub.get_session().event_hooks["response"]


def test_a_date_is_waited_for():
    """A date in `Retry-After` is converted to seconds."""
    later = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 60))
    assert 55 < asked_to_wait({"Retry-After": later}) < 65
