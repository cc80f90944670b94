"""Tests of malicious Hubs, mirrors and proxies with the real client: one clear error and no damage.

The Hub of the tests answers all requests and falsifies one thing at a time.
"""

import gzip
import json
import time
from dataclasses import replace

import httpcore2
import pytest
from hub import HubServer, Reply
from huggingface_hub import HfApi, constants

import hf_soup
from hf_soup.checkpoints import hub as hub_files
from hf_soup.checkpoints import hub_errors, hub_streams, hub_watch
from hf_soup.checkpoints.hub_cache import cache_of
from hf_soup.data.load import load_data
from hf_soup.errors import DataError, IngredientError, OutputError
from hf_soup.tasks._text import load_tokenizer
from hf_soup.training.publish import publisher_for


@pytest.fixture
def run(hub, text_runs, tmp_path):
    """A run on the Hub that is not in the cache."""
    repo_id = f"{hub.user}/{tmp_path.name}"
    HfApi().create_repo(repo_id)
    HfApi().upload_folder(repo_id=repo_id, folder_path=text_runs[0])
    return repo_id


@pytest.fixture
def data(hub, tmp_path):
    """A data set on the Hub that is not in the cache."""
    repo_id = f"{hub.user}/{tmp_path.name}"
    HfApi().create_repo(repo_id, repo_type="dataset")
    rows = b"text,label\na,0\nb,1\n"
    HfApi().upload_file(path_or_fileobj=rows, path_in_repo="train.csv", repo_id=repo_id, repo_type="dataset")
    return repo_id


@pytest.fixture
def precious(tmp_path):
    """A file of the user."""
    file = tmp_path / "precious.txt"
    file.write_text("of the user")
    return file


PLAIN = Reply()


def about(method, part, **changes):
    """A function that falsifies the answers to some requests: status, body or headers."""

    def lie(request, reply):
        if request.method != method or part not in request.path or reply.status >= 400:
            return reply
        return replace(reply, **{**changes, "headers": {**reply.headers, **changes.get("headers", {})}})

    return lie


def rows_of(part, change):
    """A function that falsifies the rows of a listing."""

    def lie(request, reply):
        if part not in request.path or reply.status != 200:
            return reply
        return replace(reply, body=json.dumps(change(json.loads(reply.body))).encode())

    return lie


def clear(error):
    """Whether the message is one printable line."""
    return str(error.value).isprintable() and len(str(error.value)) < 1200


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("ETag", "config.json"),
        ("X-Linked-ETag", "config.json"),
        ("X-Repo-Commit", "config.json"),
        ("X-Linked-ETag", "model.safetensors"),
        ("X-Repo-Commit", "model.safetensors"),
    ],
)
def test_no_file_outside_of_the_cache_is_written_or_deleted(hub, run, precious, tmp_path, header, name):
    """A path instead of an ETag or a commit is refused, and no file outside of the cache is deleted or written."""
    before = sorted(tmp_path.rglob("*"))
    for path in (precious, tmp_path / "new"):
        value = str(path) if header == "X-Repo-Commit" else f'"{path}"'
        with (
            hub.lying(about("HEAD", name, headers={header: value})),
            pytest.raises(IngredientError) as error,
        ):
            hf_soup.merge([run, run]).save_pretrained(tmp_path / "soup")
        assert header in str(error.value)
        assert clear(error)
    assert precious.read_text() == "of the user"
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("header", ["ETag", "X-Repo-Commit"])
def test_the_same_holds_of_data(hub, data, precious, tmp_path, header):
    """Requests of `datasets`, which shares the client, are checked too."""
    before = sorted(tmp_path.rglob("*"))
    with (
        hub.lying(about("HEAD", ".csv", headers={header: f"{tmp_path}/new"})),
        pytest.raises(DataError) as error,
    ):
        load_data(data, split="train")
    assert header in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before
    assert load_data(data, split="train")["text"][:] == ["a", "b"]


def test_the_same_holds_of_tokenizers(hub, run, tmp_path):
    """Requests of `transformers`, which shares the client, are checked too."""
    before = sorted(tmp_path.rglob("*"))
    commit = hub_files.resolve(run, None)
    lie = about("HEAD", "token", headers={"ETag": f'"{tmp_path}/new"'})
    with hub.lying(lie), pytest.raises(DataError):  # transformers hides the reason
        load_tokenizer(run, commit)
    assert sorted(tmp_path.rglob("*")) == before
    assert len(load_tokenizer(run, commit)) > 5


def test_a_link_of_the_cache_that_leads_elsewhere_is_refused(run, precious):
    """A link in the cache to a file outside of it is refused, and the file is not changed."""
    hf_soup.check([run, run])
    folder = cache_of(run) / "snapshots"
    (config,) = folder.glob("*/config.json")
    config.unlink()
    config.symlink_to(precious)
    with pytest.raises(IngredientError, match="which the Hub did not send"):
        hf_soup.check([run, run])
    assert precious.read_text() == "of the user"


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: [{**row, "path": f"../../{row['path']}"} for row in rows],
        lambda rows: [{**row, "path": row["path"] + "\x1b[31m"} for row in rows],
        lambda rows: [{**row, "path": None} for row in rows],
        lambda rows: [{**row, "size": -1} for row in rows],
        lambda rows: [{**row, "size": "9"} for row in rows],
        lambda rows: [{**row, "size": 1e30} for row in rows],
        lambda rows: [{**row, "oid": "/etc/passwd"} for row in rows],
        lambda rows: [{**row, "lfs": {"oid": "../x", "size": row["size"], "pointerSize": 1}} for row in rows],
        lambda rows: [{**row, "lfs": []} for row in rows],
        lambda rows: dict.fromkeys("ab"),
        lambda rows: [None],
        lambda rows: None,
        lambda rows: "\ud800",
    ],
)
def test_listings_are_checked(hub, run, change):
    """A listing with invalid names, digests or sizes raises one clear error."""
    with hub.lying(rows_of("/tree/", change)), pytest.raises(IngredientError) as error:
        hf_soup.merge([run, run])
    assert clear(error)


@pytest.mark.parametrize("commit", ["/tmp/x", "../x", 5, None, ["a"], "A" * 40])
def test_a_branch_is_at_a_commit(hub, run, commit):
    """The commit of a branch has to be a commit id."""
    lie = rows_of("/api/models/", lambda found: {**found, "sha": commit} if isinstance(found, dict) else found)
    with hub.lying(lie), pytest.raises(IngredientError) as error:
        hf_soup.merge([run, run])
    assert clear(error)


def test_a_revision_is_no_path(run, tmp_path):
    """A revision that is a path is refused, because the cache has a file for each revision."""
    for revision in ("../../../x", f"{tmp_path}/x", "a/../../b", "\x1b[1m", "x" * 300):
        with pytest.raises(IngredientError, match="cannot be a branch"):
            hub_files.resolve(run, revision)
    assert list(tmp_path.iterdir()) == []


PAGE = {"body": b"<!DOCTYPE html><html>Log in</html>", "headers": {"Content-Type": "text/html; charset=utf-8"}}


@pytest.mark.parametrize("part", ["/api/models/", "/tree/", "model.safetensors"])
def test_a_login_page_is_told(hub, run, part):
    """A login page with status 200 instead of an answer raises one clear error."""
    hide = {"X-Repo-Commit": ""} if "safetensors" in part else {}
    lie = about("GET", part, **{**PAGE, "status": 200})
    with hub.lying(lie), pytest.raises(IngredientError) as error:
        hf_soup.merge([run, run])
    assert clear(error)
    assert "login page" in str(error.value) or hide


def test_bodies_are_bounded(hub, run, monkeypatch):
    """Compressed bombs, endless listings, and files that are longer than announced or too large are refused."""
    bomb = gzip.compress(b" " * 30_000_000)
    lie = about("GET", "/tree/", body=bomb, headers={"Content-Encoding": "gzip"})
    with hub.lying(lie), pytest.raises(IngredientError, match="more than the 25,000,000 bytes"):
        hf_soup.merge([run, run])
    monkeypatch.setattr(hub_watch, "MOST_PAGES", 5)

    def endless(request, reply):
        if "/tree/" not in request.path:
            return reply
        return replace(reply, headers={"Link": f'<{hub.url}{request.path}?n={time.monotonic()}>; rel="next"'})

    with hub.lying(endless), pytest.raises(IngredientError, match="does not end"):
        hf_soup.merge([run, run])

    def longer(request, reply):
        is_config = request.method == "GET" and request.path.endswith("config.json")
        return replace(reply, body=reply.body + b" " * 5000) if is_config else reply

    with hub.lying(longer), pytest.raises(IngredientError, match="more than"):
        hf_soup.merge([run, run])
    huge = about("HEAD", "config.json", headers={"X-Linked-Size": str(10**13)})
    with hub.lying(huge), pytest.raises(IngredientError, match="10,000,000,000,000"):
        hf_soup.merge([run, run])


def test_weights_are_as_large_as_the_listing_says(hub, run, tmp_path):
    """Weights announced with another size than in the listing are refused before the download."""
    soup = hf_soup.merge([run, run])
    lie = about("HEAD", "model.safetensors", headers={"X-Linked-Size": "77"})
    with hub.lying(lie), pytest.raises(IngredientError, match="announced with 77"):
        soup.save_pretrained(tmp_path / "soup")


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_no_token_goes_to_another_host(hub, run, data, kind):
    """A next page of a listing on another host is refused, and that host gets no request."""
    with HubServer() as other:
        link = {"Link": f'<{other.url}/api/models>; rel="next"'}
        kinds = (IngredientError, DataError)
        with hub.lying(about("GET", "/tree/", headers=link)), pytest.raises(kinds, match="another host"):
            hf_soup.merge([run, run]) if kind == "model" else load_data(data, split="train")
        assert other.log == []


def test_an_upload_is_not_verified_elsewhere(hub, tmp_path, text_runs):
    """Upload addresses on another host that need the token are refused."""
    with HubServer() as other:

        def lie(request, reply):
            return replace(reply, body=reply.body.replace(f"{hub.url}/".encode(), f"{other.url}/".encode()))

        soup = hf_soup.merge(text_runs, weights=[7, 3, 1.9])  # no other test pushes these weights
        with hub.lying(lie), pytest.raises(OutputError):
            soup.push_to_hub(f"{hub.user}/{tmp_path.name}")
        assert [line for line in other.log if line.authorization] == []


PUSHED = ["/api/repos/create", "/api/models/", "/preupload/", "/commit/", "objects/batch", "validate-yaml"]


@pytest.mark.parametrize("part", PUSHED)
def test_answers_to_a_push_are_checked(hub, text_runs, tmp_path, part):
    """Any invalid answer to a push raises at most an OutputError with a printable message."""
    soup = hf_soup.merge(text_runs)
    for body in (b"[]", b"null", b"[" * 100_000, b"\xff", b"{}", b'{"url": 5, "files": [5], "objects": [5]}'):
        lie = about("GET" if part == "/api/models/" else "POST", part, body=body)
        with hub.lying(lie):
            try:
                soup.push_to_hub(f"{hub.user}/{tmp_path.name}")
            except OutputError as error:
                assert str(error).isprintable(), error  # noqa: PT017 - some are right


def test_who_one_is_is_checked(hub, tmp_path):
    """An invalid name of the user raises an OutputError, and is not used in the name of a repository."""
    for name in (5, None, "../x", "\x1b[1m", ["a"]):
        lie = rows_of("whoami", lambda found, name=name: {**found, "name": name})
        with hub.lying(lie), pytest.raises(OutputError):
            publisher_for(True, tmp_path)


def test_messages_of_a_server_are_one_line(hub, run, caplog):
    """Control characters in messages of a server reach neither an error nor the log."""
    body = json.dumps({"error": "bad \x1b[31m red \x07\n second line"}).encode()
    headers = {
        "X-Error-Message": "\x9b31m red",
        "X-HF-Warning": "topic; \x9b31m red",
        "Content-Type": "application/json",
    }
    for status in (400, 403, 404, 418):
        with hub.lying(lambda *_, status=status: replace(PLAIN, status=status, body=body, headers=headers)):
            with pytest.raises(IngredientError) as error:
                hub_files.confirm(run, "main")
            assert clear(error)
    assert all(text.replace("\n", "").isprintable() for text in caplog.messages)


@pytest.mark.parametrize("seconds", ["300", "99999999", "1e400", "9" * 5000])
def test_long_waits_are_said_and_bounded(hub, run, monkeypatch, seconds):
    """A busy Hub is waited for with a warning, and for at most ten minutes in total."""
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr(hub_errors, "_told_until", 0.0)
    busy = about("GET", "/api/models/", status=429, body=b"{}", headers={"Retry-After": seconds})
    warned = pytest.warns(hf_soup.SoupWarning, match="the Hub is busy: waiting 300 s, until")
    with hub.lying(busy), warned, pytest.raises(IngredientError, match="The Hub is busy"):
        hub_files.resolve(run, None)
    assert sum(slept) == 600


@pytest.mark.parametrize("seconds", ["-5", "nan", "soon", "\u00b2", "", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_odd_waits_are_ours(hub, run, monkeypatch, seconds):
    """An invalid `Retry-After` is ignored, and the default waits are used."""
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    busy = about("GET", "/api/models/", status=503, body=b"{}", headers={"Retry-After": seconds})
    with hub.lying(busy), pytest.raises(IngredientError):
        hub_files.resolve(run, None)
    assert slept == [1, 2, 4, 8]


def test_a_cache_without_network_is_checked_too(hub, run, precious, monkeypatch, tmp_path):
    """Offline, links in the cache to anything outside of it are refused too, also for weights."""
    hf_soup.merge([run, run]).save_pretrained(tmp_path / "soup")
    (weights,) = (cache_of(run) / "snapshots").glob("*/model.safetensors")
    weights.unlink()
    weights.symlink_to(precious)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(IngredientError, match="which the Hub did not send"):
        hf_soup.check([run, run])


def test_a_head_that_trickles_has_a_deadline():
    """Response headers that arrive byte by byte have an overall deadline; the body has limits of its own."""

    class Trickle(httpcore2.MockStream):
        def read(self, max_bytes, timeout=None):
            time.sleep(0.02)
            return b"a"

    stream = hub_streams.Stream(Trickle([]), lambda: True)
    stream.write(b"GET / HTTP/1.1\r\n\r\n")
    begin = time.monotonic()
    with pytest.raises(httpcore2.ReadTimeout, match="no whole head"):
        list(iter(lambda: stream.read(1, timeout=0.2), b""))
    assert time.monotonic() - begin < 10
    stream.answered()
    assert stream.read(1, timeout=0.2) == b"a"
