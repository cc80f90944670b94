"""Reading and parsing of untrusted files and messages within limits, with one clear error for any failure.

Every boundary of the package (a file, a parser, a library that builds a model or loads data) goes through this module.
The file formats of hf_soup are unknown here. `docs/security.md` states what is trusted.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import stat
from collections.abc import Iterator
from typing import Any

from .errors import IngredientError, SoupError, SoupWarning


SMALL_FILE = 25_000_000  # bytes: a configuration, an index or a header; parsed JSON takes many times as much memory
MESSAGE = 300  # characters of an external message that an error repeats
# Exceptions that every boundary passes on: errors that already contain advice, warnings turned into errors by a
# filter, Ctrl-C, exits, and the end of a generator.
PASSED_ON = (SoupError, SoupWarning, KeyboardInterrupt, SystemExit, GeneratorExit)
# Control characters, characters that change the writing direction, and surrogates.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]+")
_UNPRINTABLE = re.compile(rf"({_CONTROL.pattern}|[\u2028\u2029])+")


def one_line(text: object, most: int = MESSAGE) -> str:
    """Untrusted text as part of a message: one line without control characters, cut to a maximum length.

    Args:
        text (`object`):
            An error, a value of a file, or an answer of a server; `str()` of it is shown.
        most (`int`, *optional*, defaults to 300):
            Number of characters after which the text is cut.
    """
    spaced = _UNPRINTABLE.sub(" ", str(text))
    line = " ".join(spaced.split())
    if len(line) <= most:
        return line
    return f"{line[:most]}..."


def printable(text: str) -> str:
    """Text for a terminal or a report: control characters other than line breaks and tabs become spaces.

    Args:
        text (`str`):
            Text of several lines, which may contain names that others chose.
    """
    pieces = re.split(r"([\n\t])", text)  # separated by line breaks and tabs
    for index, piece in enumerate(pieces):
        if piece not in ("\n", "\t"):
            pieces[index] = _UNPRINTABLE.sub(" ", piece)
    return "".join(pieces)


def is_printable(text: str) -> bool:
    """Whether a name holds no control characters and no lone surrogates."""
    return _CONTROL.search(text) is None


def encodable(text: str) -> str:
    """Text that can be encoded as UTF-8: U+FFFD replaces lone surrogates."""
    return re.sub(r"[\ud800-\udfff]", "\ufffd", text)


@contextlib.contextmanager
def as_error(error_class: type[SoupError], what: str) -> Iterator[None]:
    """Convert any error that a library raises in the block to one error of this package.

    Args:
        error_class (`type[SoupError]`):
            The class of the error.
        what (`str`):
            What could not be done, and with which file or name. The library's own reason follows it.

    Raises:
        [`SoupError`]: of that class. Errors and warnings of hf_soup, interrupts and exits pass through unchanged.
    """
    try:
        yield
    except PASSED_ON:
        raise
    except BaseException as error:  # Rust libraries panic with errors that are not subclasses of `Exception`
        raise error_class(f"{what}: {_reason(error)}") from error


def read_file(
    path: str | os.PathLike[str], *, at_most: int = SMALL_FILE, error_class: type[SoupError] = IngredientError
) -> bytes:
    """The bytes of a regular file.

    Args:
        path (`str` or `os.PathLike`):
            The file. Pipes, devices and folders are refused without waiting for them.
        at_most (`int`, *optional*, defaults to 25,000,000):
            Number of bytes above which the file is refused.
        error_class (`type[SoupError]`, *optional*, defaults to [`IngredientError`]):
            The class of the error.

    Raises:
        [`FileNotFoundError`]: if there is no such file.
        [`SoupError`]: of class `error_class`, if it cannot be read or is larger.
    """
    with open_file(path, error_class=error_class) as file:
        size = os.fstat(file.fileno()).st_size
        content = b""
        try:
            if size <= at_most:
                content = file.read(size + 1)  # `read(at_most)` would reserve that much memory for a short file
            if len(content) > size:  # another process is appending to it
                content += file.read(at_most)
        except OSError as error:
            raise error_class(f"{one_line(path)} cannot be read: {_reason(error)}") from None
    if size > at_most or len(content) > at_most:
        raise error_class(f"{one_line(path)} has {size:,} bytes; at most {at_most:,} are read.")
    return content


def open_file(path: str | os.PathLike[str], *, error_class: type[SoupError] = IngredientError) -> io.BufferedReader:
    """Open a regular file for reading bytes, to read it in pieces.

    Args:
        path (`str` or `os.PathLike`):
            The file. Pipes, devices and folders are refused without waiting for them.
        error_class (`type[SoupError]`, *optional*, defaults to [`IngredientError`]):
            The class of the error.

    Raises:
        [`FileNotFoundError`]: if there is no such file.
        [`SoupError`]: of class `error_class`, if it cannot be opened.
    """
    # Without O_NONBLOCK, opening a pipe would wait for a writer; O_BINARY exists only on Windows.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # a NUL or a lone surrogate in the path raises a ValueError
        raise error_class(f"{one_line(path)} cannot be read: {_reason(error)}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise error_class(f"{one_line(path)} is not a regular file.")
    return open(descriptor, "rb")


def parse_json(text: bytes | str, where: str, *, error_class: type[SoupError] = IngredientError) -> Any:
    """Parse a JSON text.

    Args:
        text (`bytes` or `str`):
            The text.
        where (`str`):
            Name of the text in errors, such as the path of its file.
        error_class (`type[SoupError]`, *optional*, defaults to [`IngredientError`]):
            The class of the error.

    Raises:
        [`SoupError`]: of class `error_class`, if it is not JSON, or nested too deeply.
    """
    with as_error(error_class, f"{one_line(where)} cannot be read as JSON"):
        return json.loads(text)


def read_json(path: str | os.PathLike[str], *, error_class: type[SoupError] = IngredientError) -> Any:
    """Parse a small JSON file; raises the errors of [`read_file`] and [`parse_json`]."""
    return parse_json(read_file(path, error_class=error_class), os.fspath(path), error_class=error_class)


def _reason(error: BaseException) -> str:
    """The reason for a failure, in the words of the library or the system, without the file."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply."
    if isinstance(error, OSError) and error.strerror:
        return f"{one_line(error.strerror)}."
    return one_line(str(error) or type(error).__name__)
