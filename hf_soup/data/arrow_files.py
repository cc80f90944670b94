"""Parquet files, and folders written by `save_to_disk` of datasets, as data sets.

The files are not trusted: their contents are checked before use, and no other files next to them are opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from ..progress import library_bars
from ..untrusted import as_error, one_line, open_file, read_json


if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

LARGE = 2_000_000_000  # bytes of files, above which datasets keeps the rows on the disk instead of in memory
SAVED, SAVED_INFO, SAVED_SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"


def read_parquet(path: Path) -> pa.Table:
    """Read a Parquet file as a table.

    Raises:
        [`DataError`]: if it is none, is damaged, or holds two columns of one name.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with (
        open_file(path, error_class=DataError) as file,
        as_error(DataError, f"{one_line(path)} cannot be read as Parquet"),
    ):
        table = pq.ParquetFile(file).read()
        table.validate(full=True)
    names = table.column_names
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(f'{one_line(path)} has several columns with the name "{one_line(repeated[0])}".')
    for place, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):  # pandas' categoricals
            words = pa.field(field.name, field.type.value_type, metadata=field.metadata)
            table = table.set_column(place, words, table.column(place).cast(field.type.value_type))
    return table


@library_bars("datasets")
def read_large_parquet(paths: Sequence[Path]) -> Dataset:
    """Read large Parquet files through datasets' cache, under a name derived from their content."""
    import datasets

    digest = f"content-{digest_of(paths)}"
    with as_error(DataError, f"{one_line(paths[0])} cannot be read"):
        return datasets.load_dataset("parquet", digest, data_files=[str(path) for path in paths], split="train")


def read_saved(folder: Path) -> Dataset:
    """Read a folder that `Dataset.save_to_disk` wrote.

    The files stay in place, and rows are read on demand. Stored formats and caches next to them are not used.

    Raises:
        [`DataError`]: if it is damaged, or names files that are not in it.
    """
    import datasets
    import pyarrow as pa
    from datasets.table import InMemoryTable

    problem = f"{one_line(folder)} cannot be read as a data set that was saved to the disk"
    state = read_json(folder / SAVED, error_class=DataError)
    info = read_json(folder / SAVED_INFO, error_class=DataError)
    features: datasets.Features | None = None
    with as_error(DataError, problem):
        names = [str(entry["filename"]) for entry in state["_data_files"]]
        if info.get("features"):
            features = datasets.Features.from_dict(info["features"])
    paths = [_file_of(folder, name) for name in names]
    with as_error(DataError, problem):
        table = pa.concat_tables([_mapped(path) for path in paths])
        table.validate(full=True)  # reading values of a damaged file could crash the process
        dataset = datasets.Dataset(InMemoryTable(table), fingerprint=digest_of(paths))
        if features is not None and features != dataset.features:
            dataset = dataset.cast(features)
        return dataset


def digest_of(paths: Sequence[Path]) -> str:
    """A digest of the content of files, 16 characters long."""
    import xxhash

    state = xxhash.xxh3_64()
    for path in paths:
        with open_file(path, error_class=DataError) as file:
            while piece := file.read(2**24):
                state.update(piece)
    return state.hexdigest()


def _file_of(folder: Path, name: str) -> Path:
    """A file that `state.json` names, which has to be in the folder itself."""
    path = folder / name
    if Path(name).name != name or not path.is_file() or path.resolve().parent != folder.resolve():
        raise DataError(f'{one_line(folder / SAVED)} names "{one_line(name)}", which is not a file of its folder.')
    return path


def _mapped(path: Path) -> Any:
    """A file in Arrow's stream format as a memory-mapped table."""
    import pyarrow as pa

    open_file(path, error_class=DataError).close()  # neither a pipe nor a device
    with pa.ipc.open_stream(pa.memory_map(str(path))) as stream:
        return stream.read_all()
