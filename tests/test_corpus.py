"""Untrusted files, both valid ones and those found by fuzzing, are read or refused with a `SoupError`."""

from pathlib import Path

import pytest
from readers import READERS, attempt, prepare, seeds


CORPUS = Path(__file__).parent / "corpus"
FOUND = sorted(path for path in CORPUS.glob("*/*") if path.is_file())


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Valid files of every kind."""
    folder = tmp_path_factory.mktemp("readers")
    prepare(folder)
    return folder


@pytest.mark.parametrize("name", sorted(set(READERS) - {"hub"}))
def test_a_valid_file_is_read(place, name):
    """Each file that the fuzzer starts from is valid and can be read to its end."""
    reader = READERS[name]
    reader.read(place)
    assert seeds(reader, place)


@pytest.mark.parametrize("path", FOUND, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_was_found_is_refused_or_read(place, path):
    """An input that once made a reader raise another error is now read or refused with a `SoupError`."""
    reader = READERS[path.parent.name]
    valid = seeds(reader, place)
    try:
        assert attempt(reader, place, path.read_bytes()) is None
    finally:
        (place / reader.file).write_bytes(valid)
