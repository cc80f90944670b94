"""CSV, TSV, JSON and Parquet files of examples as one dataset.

Nothing is cached between calls, so the result is always the current content. A separate module reads each format.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DataError
from ..untrusted import as_error, one_line
from .arrow_files import LARGE, read_large_parquet, read_parquet
from .csv_files import as_numbers, read_words
from .image_paths import refuse_images_elsewhere
from .json_files import read_json_rows


if TYPE_CHECKING:
    from datasets import Dataset

READERS = {
    ".csv": read_words,
    ".tsv": read_words,
    ".json": read_json_rows,
    ".jsonl": read_json_rows,
    ".parquet": read_parquet,
}


def read_tables(paths: Sequence[Path]) -> Dataset:
    """Read the rows of files, one file after the other.

    Args:
        paths (`Sequence[Path]`):
            Files of one kind, as their endings say.

    Raises:
        [`DataError`]: if one cannot be read, or they have different columns.
    """
    import datasets
    import pyarrow as pa

    ending = paths[0].suffix.lower()
    if any(path.suffix.lower() != ending for path in paths):
        raise DataError(f"{one_line(paths[0].parent)} holds files of several kinds; keep those of one.")
    with as_error(DataError, f"{one_line(paths[0])} cannot be read"):
        if ending == ".parquet" and sum(path.stat().st_size for path in paths) > LARGE:
            return refuse_images_elsewhere(read_large_parquet(paths), str(paths[0]))
        reader = READERS[ending]
        tables = [reader(path) for path in paths]
        first_table = tables[0]
        for path, table in zip(paths, tables, strict=True):
            if set(table.column_names) != set(first_table.column_names):
                raise DataError(f"{one_line(path)} has other columns than {one_line(paths[0])}.")
        if len(tables) == 1:
            joined = first_table
        else:  # a column may have a wider type in one file than in another
            joined = pa.concat_tables(tables, promote_options="permissive")
        if reader is read_words:  # of all files together: a column may contain only integers in the first file
            joined = as_numbers(joined)
        dataset = datasets.Dataset(datasets.table.InMemoryTable(joined))
        return refuse_images_elsewhere(dataset, str(paths[0]))
