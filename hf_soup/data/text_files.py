"""Reading of text files line by line, with their encoding and the location of errors, for any format."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from pathlib import Path

from ..errors import DataError
from ..untrusted import one_line, open_file


def text_lines(path: Path, newline: str) -> Iterator[str]:
    """The lines of a file with their line ends. A byte-order mark is removed; it tells whether the file is UTF-16.

    Args:
        path (`Path`):
            A regular file.
        newline (`str`):
            Line ends, as for `open`: `""` splits at each kind of line end, `"\\n"` at that kind only; neither is
            changed.

    Raises:
        [`DataError`]: if the file is no text: neither UTF-8 nor UTF-16 with a byte-order mark, or with NUL bytes.
    """
    with open_file(path, error_class=DataError) as file:
        marked = file.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        encoding = "utf-16" if marked else "utf-8-sig"
        number = 0
        try:
            with io.TextIOWrapper(file, encoding=encoding, newline=newline) as text:
                for number, line in enumerate(text, 1):
                    if "\0" in line:
                        raise wrong(path, number, "a NUL byte. The file is no text, or was damaged")
                    yield line
        except UnicodeError as error:
            if marked:
                raise wrong(path, number + 1, "bytes that are not UTF-16, which its first bytes announce") from None
            line_number, byte = _first_undecodable(path)
            raise wrong(
                path,
                line_number,
                f"a byte that is not UTF-8 ({byte:#04x}). Convert the file; from Latin-1, as Windows writes it, "
                "with `iconv -f WINDOWS-1252 -t UTF-8`",
            ) from error
        except OSError as error:
            raise DataError(f"{one_line(path)} cannot be read: {error.strerror}.") from None


def wrong(path: Path, line: int | str, problem: str) -> DataError:
    """The error for a line of a file.

    Args:
        path (`Path`):
            The file.
        line (`int` or `str`):
            The number of the line, or another place such as `"entry 3"`.
        problem (`str`):
            Problem that was found: a phrase, or several sentences without the last full stop.
    """
    place = f"line {line}" if isinstance(line, int) else line
    return DataError(f"{one_line(path)}, {place}: {problem}.")


def _first_undecodable(path: Path) -> tuple[int, int]:
    """The number of the first line that is not UTF-8, and its first invalid byte."""
    with open_file(path, error_class=DataError) as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return number, line[error.start]
    return 1, 0
