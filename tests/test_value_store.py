"""The value store returns values as they were written or not at all, and warns once, whatever happens to its file."""

import os
import random
import resource
import shutil
import sqlite3
import threading
import warnings

import pytest

from hf_soup import value_store
from hf_soup.errors import SoupWarning
from hf_soup.value_store import ValueStore


KEYS = {f"key-{at}": random.Random(at).randbytes(200 + 900 * at) for at in range(8)}


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    """Forget which files are being left alone and which warnings have been given."""
    monkeypatch.setattr(value_store, "_told", set())
    monkeypatch.setattr(value_store, "_resting", {})


@pytest.fixture
def store(tmp_path):
    """A store with a few values, from less than one page to several pages long."""
    made = ValueStore(tmp_path / "kept" / "values.sqlite", "values")
    for key, value in KEYS.items():
        made.write(key, "kind", "about", value)
    return made


def result_and_warnings(work):
    """The result of a function and the messages of the warnings it gave."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = work()
    assert all(issubclass(line.category, SoupWarning) for line in caught)
    return result, [str(line.message) for line in caught]


def use(store):
    """Use a file in every way, and check that values read are correct and entries match them."""
    for key, value in KEYS.items():
        assert store.read([key]) in ({}, {key: value})
    rows = store.entries()
    assert all(row.bytes == len(KEYS[row.key]) and row.value_type == "kind" for row in rows)
    store.write("key-0", "kind", "about", KEYS["key-0"])
    return store.read(KEYS)


def test_values_come_back(store):
    """Several keys can be read at once, and a value can replace that of another key in the same step."""
    assert store.read([*KEYS, "other"]) == KEYS
    store.write("whole", "kind", "about", b"new", instead_of="key-3")
    assert store.read(["key-3", "whole"]) == {"whole": b"new"}
    assert [row.key for row in store.entries()] == [*(key for key in KEYS if key != "key-3"), "whole"]
    assert store.clear() == 8
    assert store.entries() == []


def test_nothing_is_made_by_looking(tmp_path):
    """Reading from a file that does not exist does not create it."""
    store = ValueStore(tmp_path / "kept" / "values.sqlite", "values")
    assert (store.read(["key"]), store.entries(), store.clear()) == ({}, [], 0)
    assert not store.path.parent.exists()


def test_flipped_bytes_give_no_error_and_no_other_value(store):
    """With any byte flipped, no wrong value is returned, at most one warning is given and the file works again."""
    whole = store.path.read_bytes()
    places = random.Random(0).sample(range(len(whole)), 160)
    places += [*range(0, 100, 7), len(whole) - 1]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        store.path.write_bytes(damaged)
        _fresh_state()
        values, lines = result_and_warnings(lambda: use(store))
        assert "key-0" in values, place
        assert len(lines) <= 1, (place, lines)


def _fresh_state():
    value_store._told.clear()
    value_store._resting.clear()


def test_a_changed_value_is_dropped_and_the_others_stay(store):
    """A value whose checksum, or whose description's checksum, no longer matches is dropped; the others are kept."""
    changes = {
        "key-1": "value = CAST('changed' AS BLOB)",
        "key-2": "value = 5",
        "key-3": "about = 7",
        "key-4": "created = 1e300",
        "key-5": "digest = NULL",
    }
    with sqlite3.connect(store.path) as database:
        for key, change in changes.items():
            database.execute(f"UPDATE kept SET {change} WHERE key = ?", (key,))
    database.close()
    values, lines = result_and_warnings(lambda: store.read(KEYS))
    assert values == {key: value for key, value in KEYS.items() if key not in changes}
    assert len(lines) == 1
    assert "computed again" in lines[0]
    assert {row.key for row in store.entries()} == set(values)


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_what_is_no_database_is_set_aside(store, content):
    """A file that is not a database is set aside with one warning, and a new file is used."""
    store.path.write_bytes(content)
    values, lines = result_and_warnings(lambda: use(store))
    assert list(values) == ["key-0"]
    assert len(lines) == 1
    assert store.path.with_suffix(".broken").read_bytes() == content
    store.clear()
    assert not store.path.with_suffix(".broken").exists()


def test_a_file_of_a_newer_version_is_set_aside_whole(store):
    """A file of a newer version is set aside unchanged, with one warning."""
    with sqlite3.connect(store.path) as database:
        database.execute(f"PRAGMA user_version = {value_store.VERSION + 1}")
        database.execute("ALTER TABLE kept ADD COLUMN more")
    database.close()
    values, lines = result_and_warnings(lambda: use(store))
    assert list(values) == ["key-0"]
    assert len(lines) == 1
    assert "newer version of hf_soup" in lines[0]
    with sqlite3.connect(store.path.with_suffix(".newer")) as database:
        assert database.execute("SELECT count(more), count(*) FROM kept").fetchone() == (0, len(KEYS))
    database.close()


def test_an_older_table_is_made_anew_without_a_word(store):
    """A table of an older version, without checksums and with other keys, is recreated without a warning."""
    store.path.unlink()
    with sqlite3.connect(store.path) as database:
        database.execute("CREATE TABLE kept (key TEXT PRIMARY KEY, kind TEXT, about TEXT, value BLOB, created REAL)")
        database.execute("INSERT INTO kept VALUES ('key-1', 'score', 'x', x'00', 1.0)")
    database.close()
    assert result_and_warnings(lambda: use(store)) == ({"key-0": KEYS["key-0"]}, [])


def _folder(path):
    path.unlink()
    path.mkdir()


def _file_above(path):
    shutil.rmtree(path.parent)
    path.parent.write_text("")


def _pipe(path):
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("spoil", [_folder, _file_above, _pipe])
def test_something_else_in_its_place_is_left_alone(store, spoil):
    """A folder or a pipe in place of the file, or a file in place of its folder, is left alone; nothing is stored."""
    spoil(store.path)
    values, lines = result_and_warnings(lambda: use(store))
    assert values == {}
    assert len(lines) == 1 + 1  # `entries` is called by the user, and therefore always warns
    assert all("values are not kept in" in line for line in lines)


def test_a_full_disk_keeps_what_was_there(store):
    """On a full disk new values are dropped with one warning, and the existing ones can be read."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (store.path.stat().st_size, limit[1]))
    try:
        large = lambda: [store.write(f"large-{at}", "kind", "about", bytes(100_000)) for at in range(3)]  # noqa: E731
        _, lines = result_and_warnings(large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert len(lines) == 1
    assert store.read(KEYS) == KEYS


def test_a_file_that_may_only_be_read_is_read(store, monkeypatch):
    """The values of a read-only file are returned, and one warning is given that nothing more is stored."""
    connect = sqlite3.connect

    def read_only(path, **options):
        return connect(f"file:{path}?mode=ro", uri=True, **options)

    monkeypatch.setattr(sqlite3, "connect", read_only)
    values, lines = result_and_warnings(lambda: [use(store), use(store)])
    assert values == [KEYS, KEYS]
    assert len(lines) == 1
    assert "readonly" in lines[0]


def test_a_file_that_stays_locked_is_waited_for_once(store, monkeypatch):
    """A locked file, as on a file system whose locks do not work, is waited for once, with one warning."""
    monkeypatch.setattr(value_store, "PATIENCE", 0.01)
    writer = sqlite3.connect(store.path, isolation_level=None)
    writer.execute("BEGIN EXCLUSIVE")
    try:
        values, lines = result_and_warnings(lambda: [store.read(KEYS) for _ in range(3)])
    finally:
        writer.close()
    assert values == [{}] * 3
    assert len(lines) == 1
    assert "locked" in lines[0]


def test_several_at_once_find_the_same_damage(store):
    """Several threads that find the same damage at once all finish, and values are stored again."""
    store.path.write_bytes(b"no database at all" * 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        threads = [threading.Thread(target=use, args=(store,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    store.write("key-0", "kind", "about", KEYS["key-0"])
    assert store.read(["key-0"]) == {"key-0": KEYS["key-0"]}
