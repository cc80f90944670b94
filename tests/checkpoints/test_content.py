"""Tests of content digests: a file is read once, and again after any change, whatever its size and times."""

import os
import shutil
import tarfile
import time

import pytest

from hf_soup.checkpoints import content
from hf_soup.checkpoints.content import content_digests
from hf_soup.errors import IngredientError
from hf_soup.value_store import ValueStore


LONG_AGO = 1_500_000_000


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    """A store in a file of its own, and a process that has read nothing yet."""
    monkeypatch.setattr(content, "_known", {})
    monkeypatch.setattr(content, "SETTLED", 0.0)  # so that no test has to wait; another test sets two seconds
    made = ValueStore(tmp_path / "kept" / "digests.sqlite", "digests")
    monkeypatch.setattr(content, "store", lambda: made)
    return made


@pytest.fixture
def reads(monkeypatch):
    """The files that are read, in order."""
    seen, read = [], content._read
    monkeypatch.setattr(content, "_read", lambda states: seen.extend(states) or read(states))
    return seen


def digest_of(path):
    """The digest of a file, taken a moment after its last change."""
    time.sleep(0.02)
    return content_digests([path])[str(path)]


def test_what_is_known_is_not_read(tmp_path, reads):
    """A known file is not read again, by the same process or, given the store, by another one."""
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(1000))
    first = digest_of(path)
    assert reads == [str(path)]
    assert digest_of(path) == first
    content._known.clear()
    assert digest_of(path) == first
    assert reads == [str(path)]


def _cp_p(new, old):
    shutil.copy2(new, old)


def _rsync_t(new, old):
    shutil.copy2(new, old.with_name("aside"))
    os.replace(old.with_name("aside"), old)


def _tar(new, old):
    with tarfile.open(old.with_name("a.tar"), "w") as archive:
        archive.add(new, old.name)
    with tarfile.open(old.with_name("a.tar")) as archive:
        archive.extractall(old.parent, filter="data")


def _link(new, old):
    old.unlink()
    os.link(new, old)


def _in_place(new, old):
    with old.open("r+b") as file:
        file.write(new.read_bytes())
    os.utime(old, (LONG_AGO, LONG_AGO))


@pytest.mark.parametrize("replace", [_cp_p, _rsync_t, _tar, _link, _in_place])
@pytest.mark.parametrize("when", [LONG_AGO, 0])
def test_other_content_of_the_same_size_and_time_is_noticed(tmp_path, replace, when):
    """Other content of the same size and time is noticed, whatever tool replaced it."""
    old, new = tmp_path / "weights", tmp_path / "new"
    for path in (old, new):
        path.write_bytes(os.urandom(1000))
        os.utime(path, (when, when))
    before, wanted = digest_of(old), digest_of(new)
    replace(new, old)
    if replace is _in_place:
        os.utime(old, (when, when))
    assert (old.stat().st_size, old.stat().st_mtime) == (1000, when)
    assert digest_of(old) == wanted != before


def test_the_digest_is_of_all_bytes_in_their_order(tmp_path, monkeypatch):
    """The digest depends on all bytes and their order, across blocks and threads, and empty files have one too."""
    monkeypatch.setattr(content, "BLOCK", 3000)
    monkeypatch.setattr(content, "CHUNK", 1000)
    one, other = os.urandom(3000), os.urandom(3000)
    contents = [b"", b"\0", one + other, other + one, one + other + b"\0", one + one, one]
    paths = [tmp_path / str(at) for at in range(len(contents))]
    for path, bytes_ in zip(paths, contents, strict=True):
        path.write_bytes(bytes_)
    (tmp_path / "again").write_bytes(one + other)
    found = content_digests([*paths, tmp_path / "again"])
    assert len(set(found.values())) == len(contents)
    assert found[str(tmp_path / "again")] == found[str(paths[2])]


def test_a_file_that_was_just_written_is_read_each_time(tmp_path, monkeypatch, reads):
    """A file written within `SETTLED` seconds is read each time, because it may change again within a clock tick."""
    monkeypatch.setattr(content, "SETTLED", 2.0)
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    content_digests([path])
    content_digests([path])
    assert len(reads) == 2


def test_a_file_that_keeps_changing_is_refused(tmp_path, monkeypatch):
    """A file that changes while it is read raises an IngredientError."""
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    read = content._read

    def written_meanwhile(states):
        path.write_bytes(path.read_bytes() + b"more")
        return read(states)

    monkeypatch.setattr(content, "_read", written_meanwhile)
    with pytest.raises(IngredientError, match="changes while it is read"):
        content_digests([path])


def test_where_times_of_change_mean_nothing_no_digest_outlives_the_process(tmp_path, monkeypatch, store):
    """Digests of files on network and user-space file systems are not stored."""
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    monkeypatch.setattr(content, "_file_systems", lambda: {os.stat(path).st_dev: "fuse.sshfs"})
    digest_of(path)
    assert store.entries() == []


def test_a_damaged_file_of_digests_is_as_good_as_none(tmp_path, store):
    """A damaged store gives a warning, and the digest is still right."""
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(1000))
    first = digest_of(path)
    content._known.clear()
    store.path.write_bytes(b"no database" * 100)
    with pytest.warns(UserWarning, match="no database"):
        assert digest_of(path) == first


def test_a_missing_file_is_an_error_that_names_it(tmp_path):
    """A missing file or an impossible name raises an IngredientError."""
    for name in ("missing", "a\0b"):
        with pytest.raises(IngredientError, match="cannot read"):
            content_digests([tmp_path / name])
