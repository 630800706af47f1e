"""Parquet files of savepoints: rows in the order of their key groups, so that a restore reads only what it takes over.

The first column is `key_group`. A row group ends with a key group where that makes it neither too small nor too large;
the statistics of the column say which key groups are in it, and other row groups are passed over. Pages carry
checksums, for a savepoint may be copied by anything; the file as a whole has one in the savepoint's document.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import DamagedCheckpointError
from ..key_groups import KeyGroupRange, values_of

KEY_GROUP = "key_group"
GROUP_ROWS = 16_384
"""Rows of a row group, or what is left of the last key group in it: that many Python objects are made at a time."""
MOST_ROWS = 4 * GROUP_ROWS
GROUP_BYTES = 32 << 20
"""Of encoded values: a row group ends wherever it is when they are more."""
_UNREADABLE = (pa.ArrowException, OSError, KeyError, ValueError)


def open_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """The caller closes it; every table that is written becomes a row group."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return pq.ParquetWriter(
        path, schema, compression="zstd", write_statistics=[KEY_GROUP], write_page_checksum=True, use_dictionary=True
    )


def read_row_groups(
    path: Path, name: str, wanted: KeyGroupRange, columns: list[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Rows of the wanted key groups, with `key_group` as the first of the columns. `name`: the file's for people.
    DamagedCheckpointError."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for number in range(file.num_row_groups):
                if len(_key_groups(file, number).intersection(wanted)):
                    table = file.read_row_group(number, columns=columns, use_threads=False)
                    yield from _within(table, wanted)
    except _UNREADABLE as error:
        raise DamagedCheckpointError(f"the state file {name} cannot be read: {error}") from error


def _key_groups(file: pq.ParquetFile, number: int) -> KeyGroupRange:
    """All, where there are no statistics: of a file that somebody has written anew."""
    statistics = file.metadata.row_group(number).column(0).statistics
    if statistics is None or not statistics.has_min_max:
        return KeyGroupRange(0, (1 << 16) - 1)
    return KeyGroupRange(statistics.min, statistics.max)


def _within(table: pa.Table, wanted: KeyGroupRange) -> Iterator[pa.RecordBatch]:
    for batch in table.combine_chunks().to_batches():
        groups = values_of(batch.column(KEY_GROUP), np.int32)
        own = (groups >= wanted.first) & (groups <= wanted.last)
        yield batch if own.all() else batch.filter(pa.array(own))
