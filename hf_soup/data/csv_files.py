"""CSV and TSV files as tables, in which every non-empty line is a row and words are kept as they are written.

A column is numeric if all of its values are. All other columns are text, in which `NA`, `null` and `True` are ordinary
words. An empty field is an empty text, or a missing value in a numeric column.
"""

from __future__ import annotations

import contextlib
import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..errors import DataError, listed, warn
from ..untrusted import one_line
from .text_files import text_lines, wrong


if TYPE_CHECKING:
    from _csv import Reader as CsvReader

    import pyarrow as pa

LONGEST_VALUE = 50_000_000  # characters; an unclosed quote would take the rest of the file
ROWS = 50_000  # number of rows that are text objects at a time
WHOLE = r"^\s*[+-]?(0|[1-9][0-9]*)\s*$"  # 007 and 01 are words, since a number would lose the zeros
REAL = r"^\s*[+-]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?\s*$"
TESTED = 100  # values that are examined before a complete column is converted
SEPARATORS = {",": "comma", "\t": "tab"}
# other separators -> their names
FOREIGN_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


class _Form(NamedTuple):
    """How a line is split into values: the separator, and whether quotes may enclose values."""

    delimiter: str
    quoted: bool

    def reader(self, lines: Iterator[str]) -> CsvReader:
        """A reader that splits lines into values."""
        if self.quoted:
            return csv.reader(lines, delimiter=self.delimiter, strict=True)
        return csv.reader(lines, delimiter=self.delimiter, quoting=csv.QUOTE_NONE, strict=True)


class _Row(NamedTuple):
    """The values of a row, and the line at which it begins."""

    line: int
    values: list[str]


def read_words(path: Path) -> pa.Table:
    """Read a CSV or TSV file as a table of texts; [`as_numbers`] converts the numeric columns.

    Args:
        path (`Path`):
            The file; with the ending `.tsv` values are separated by tabs.

    Raises:
        [`DataError`]: with file and line, if a line does not have the fields of the header, a quote is not closed, or
            the file is no text; if it holds no row, or two columns of one name.
    """
    with _long_values():
        return _read_words(path, _form(path))


def _read_words(path: Path, form: _Form) -> pa.Table:
    """The same as [`read_words`] for a known form."""
    import pyarrow as pa

    rows = _rows(path, form)
    header = next(rows, None)
    if header is None:
        raise DataError(f"{one_line(path)} is empty.")
    names = _column_names(path, header, form)
    chunks: list[list[pa.Array]] = []  # each with one array for each column
    while chunk := list(islice(rows, ROWS)):
        for row in chunk:
            if len(row.values) != len(names):
                raise wrong(path, row.line, _wrong_count(len(row.values), names, form))
        columns = zip(*(row.values for row in chunk), strict=True)
        # large: the texts of a chunk may exceed the 2 GB that 32-bit offsets can address
        chunks.append([pa.array(column, pa.large_string()) for column in columns])
    if not chunks:
        raise DataError(f"{one_line(path)} has a header ({listed(names)}) but no rows.")
    return pa.table([pa.chunked_array(column) for column in zip(*chunks, strict=True)], names=names)


def as_numbers(words: pa.Table) -> pa.Table:
    """Convert columns to int64 if all values are 64-bit integers, and to float64 if all are numbers."""
    import pyarrow as pa

    return pa.table([_as_numbers(words[name]) for name in words.column_names], names=words.column_names)


def _as_numbers(words: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column as numbers if all of its values are, or else unchanged."""
    import pyarrow as pa
    import pyarrow.compute as pc

    # Most text columns are recognised by their first values, which is cheaper than a second pass over all of them.
    tested = [word for word in words[:TESTED].to_pylist() if word]
    if not all(re.match(REAL, word) for word in tested):
        return words
    absent = pc.equal(words, "")
    if pc.all(absent).as_py():
        return words
    for pattern, parse, dtype in ((WHOLE, int, pa.int64()), (REAL, float, pa.float64())):
        is_number = pc.match_substring_regex(words, pattern)
        if pc.all(pc.or_(is_number, absent)).as_py():
            return _parsed(words, parse, dtype)
    return words


def _parsed(words: pa.ChunkedArray, parse: Callable[[str], int | float], dtype: pa.DataType) -> pa.ChunkedArray:
    """Words that are all numbers, converted; unchanged if one of them does not fit into 64 bits."""
    import pyarrow as pa

    # by Python, whose `int` and `float` accept everything that the patterns match, such as blanks and a plus sign
    chunks = []
    try:
        for chunk in words.chunks:
            numbers: list[int | float | None] = []
            for word in chunk.to_pylist():
                numbers.append(parse(word) if word else None)
            chunks.append(pa.array(numbers, dtype))
    except (OverflowError, ValueError):
        return words  # more than 64 bits, or more digits than Python's `int` accepts
    return pa.chunked_array(chunks)


def _rows(path: Path, form: _Form) -> Iterator[_Row]:
    """The header and the rows. Blank lines between rows are skipped, and a warning counts them."""
    # newline="" because quoted values may contain line breaks of any kind, which the csv module has to see
    reader = form.reader(text_lines(path, newline=""))
    blank: list[int] = []  # line numbers of the blank lines since the last row
    blank_between: list[int] = []
    width = 0  # number of columns, known after the header
    while True:
        start = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise wrong(path, start, _csv_problem(error)) from None
        if row is None:
            break
        if _is_blank(row, width):
            blank.append(start)
            continue
        if width:  # blank lines before the header are common, and so are those at the end, which are not counted here
            blank_between += blank
        blank = []
        width = width or len(row)
        yield _Row(start, row)
    if blank_between:
        lines = listed(map(str, blank_between), 5)
        warn(
            f"{one_line(path)} has {len(blank_between)} blank lines between its rows, which are no rows: line {lines}."
        )


def _is_blank(row: Sequence[str], width: int) -> bool:
    """Whether a line has no values; in a table with one column, a line of blanks is a text."""
    return not row or (width > 1 and len(row) == 1 and not row[0].strip())


@contextlib.contextmanager
def _long_values() -> Iterator[None]:
    """Raise the csv module's limit of 128 KB per value, which is global to the process."""
    before = csv.field_size_limit(LONGEST_VALUE)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _csv_problem(error: csv.Error) -> str:
    """The message of a csv error, which is recognised by its text since the csv module has only one error class."""
    if "unexpected end of data" in str(error):
        return 'a quote (") that is not closed until the end of the file'
    if "expected after" in str(error):
        return 'a quote (") inside a quoted value. Write it twice ("") there'
    if "larger than field limit" in str(error):
        return f'a value of more than {LONGEST_VALUE:,} characters. Is a quote (") not closed'
    return one_line(error)


def _column_names(path: Path, header: _Row, form: _Form) -> list[str]:
    """The names of the columns; an unnamed one, as pandas writes for row numbers, is named by its position."""
    names = [name or f"Unnamed: {place}" for place, name in enumerate(header.values)]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        problem = f'several columns with the name "{one_line(repeated[0])}". Rename or remove them'
        raise wrong(path, header.line, problem)
    if len(names) > 1:
        return names
    for separator, separator_name in FOREIGN_SEPARATORS.items():
        if separator != form.delimiter and separator in names[0]:
            raise wrong(
                path,
                header.line,
                f'one column "{one_line(names[0])}": are its values separated by {separator_name}? Save it with '
                "commas as .csv or with tabs as .tsv",
            )
    return names


def _wrong_count(count: int, names: list[str], form: _Form) -> str:
    """The message about a row that has more or fewer fields than the header."""
    if form.quoted:
        remedy = f'A text that contains a {SEPARATORS[form.delimiter]} has to be in quotes ("...")'
    else:
        remedy = "A text must not contain a tab or a line break there"
    fields = "field" if count == 1 else "fields"
    return f"{count} {fields}, and the header has {len(names)} ({one_line(listed(names))}). {remedy}"


def _form(path: Path) -> _Form:
    """The form of a file, according to its extension."""
    if path.suffix.lower() != ".tsv":
        return _Form(",", quoted=True)
    return _Form("\t", quoted=_is_quoted(path))


def _is_quoted(path: Path) -> bool:
    """Whether quotes of a TSV file enclose values. By default they are part of the text.

    They do if all names of the header are quoted, or if each line with quotes is unchanged when it is parsed and
    written again with quotes only around values that contain a tab, a line break or a quote.
    """
    lines: list[str] = []  # that the reader has taken for the row at hand

    # The reader gives values without their quotes, and what was written is needed as well.
    def recorded_lines() -> Iterator[str]:
        for line in text_lines(path, newline=""):
            lines.append(line)
            yield line

    reader = _Form("\t", quoted=True).reader(recorded_lines())
    has_quotes = False
    width = 0  # number of columns, known from the header on
    try:
        while True:
            lines.clear()
            row = next(reader, None)
            if row is None:
                return has_quotes
            record = "".join(lines).rstrip("\r\n")
            is_header = reader.line_num == len(lines)  # no lines were taken before those of this row
            if is_header and all(_is_enclosed(name) for name in record.split("\t")):
                return True
            width = width or len(row)
            if '"' not in record:
                continue
            if _is_several_rows(lines, width) or _written(row) != record:
                return False
            has_quotes = True
    except csv.Error:
        return False


def _is_enclosed(name: str) -> bool:
    return len(name) > 1 and name[0] == name[-1] == '"'


def _is_several_rows(lines: Sequence[str], width: int) -> bool:
    """Whether lines that a reader took for one row are several, of which one begins and another ends with a quote."""
    if len(lines) == 1 or any('""' in line for line in lines):
        return False
    return all(line.count("\t") == width - 1 for line in lines)


def _written(row: Sequence[str]) -> str:
    """A row as a program writes it that encloses only values which need it."""
    stream = io.StringIO()
    csv.writer(stream, delimiter="\t", lineterminator="\r\n").writerow(row)
    return stream.getvalue().removesuffix("\r\n")
