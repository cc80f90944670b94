"""Reading untrusted files and showing untrusted messages."""

import os

import pytest

from hf_soup.errors import DataError, IngredientError, RecipeError
from hf_soup.untrusted import as_error, one_line, parse_json, read_file, read_json


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "\ud800"])
def test_impossible_path_is_one_error(tmp_path, name):
    """A path that no file system accepts raises an IngredientError."""
    with pytest.raises(IngredientError, match="cannot be read"):
        read_file(f"{tmp_path}/{name}")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_pipes_devices_and_folders_are_refused_at_once(tmp_path):
    """Pipes, devices and folders raise an IngredientError without being read."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero", tmp_path):
        with pytest.raises(IngredientError, match="not a regular file"):
            read_file(path)


def test_large_file_is_refused_without_reading(tmp_path):
    """A file larger than the limit is refused without being read."""
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(RecipeError, match="at most 10 are read"):
        read_file(tmp_path / "large", at_most=10, error_class=RecipeError)


@pytest.mark.parametrize("text", [b"[" * 100_000, b"\xff", b'{"a": ', b"9" * 5000, b""])
def test_broken_json_names_its_file(text):
    """Deep nesting, invalid UTF-8, huge numbers and truncated JSON raise a DataError that names the file."""
    with pytest.raises(DataError, match=r"a\.json cannot be read as JSON"):
        parse_json(text, "a.json", error_class=DataError)


def test_absent_file_is_told_apart(tmp_path):
    """A missing file raises FileNotFoundError, so that callers can decide what it means."""
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none.json")


def test_interrupts_pass_and_panics_do_not():
    """KeyboardInterrupt passes through, whereas another BaseException, such as a Rust panic, becomes a DataError."""

    class Panic(BaseException):
        pass

    with pytest.raises(KeyboardInterrupt), as_error(DataError, "x"):
        raise KeyboardInterrupt
    with pytest.raises(DataError, match="x: deep inside"), as_error(DataError, "x"):
        raise Panic("deep\x1b inside")


def test_message_is_one_printable_line():
    """Escape sequences, line breaks and lone surrogates are removed from a message, and a long message is cut."""
    assert one_line("a\x1b[31m\nb\u2028c\ud800") == "a [31m b c"
    assert len(one_line("x" * 10_000)) < 310
