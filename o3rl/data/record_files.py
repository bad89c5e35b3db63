"""Records of a file, one by one, by what the file holds: JSON, Parquet, CSV, each gzipped too.

Cells of CSV and text in Parquet that hold what STGR has as lists or objects are read as JSON.
"""

import csv
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from o3rl.data.json_records import BadRecord, read_json

GZIP, PARQUET = b"\x1f\x8b", b"PAR1"
NESTED = ("key_frames", "key_items", "image_size", "options", "choices")
BATCH = 1024
LONGEST_CELL = 64 * 2**20

Watch = Callable[[int], None]  # told how many bytes were read so far


def _unwatched(read: int) -> None:
    del read


def read_records(path: Path, *, watch: Watch = _unwatched) -> Iterator[object]:
    """Each record of the file; one that cannot be read alone is a BadRecord.

    Raises FileNotFoundError, and ValueError where it is damaged so that what follows cannot be
    told.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path} to import")
    with path.open("rb") as raw:
        start = raw.read(4)
        raw.seek(0)
        if start == PARQUET:
            yield from _parquet(path)
            return
        try:
            file: Any = gzip.GzipFile(fileobj=raw) if start.startswith(GZIP) else raw
            suffixes = {suffix.lower() for suffix in path.suffixes}
            read = _Told(file, raw, watch)
            if suffixes & {".csv", ".tsv"}:
                yield from _csv(read, "\t" if ".tsv" in suffixes else ",")
            else:
                yield from read_json(read, path)  # pyright: ignore[reportArgumentType]
        except (EOFError, gzip.BadGzipFile) as error:
            raise ValueError(f"{path} is damaged gzip ({error}): fetch the file again") from error


class _Told:
    """A file that tells how far into it, or into what it unpacks, reading has come."""

    def __init__(self, file: BinaryIO, raw: BinaryIO, watch: Watch):
        self._file, self._raw, self._watch = file, raw, watch

    def read(self, size: int = -1) -> bytes:
        """As of a file."""
        data = self._file.read(size)
        self._watch(self._raw.tell())
        return data

    def readline(self, size: int = -1) -> bytes:
        """As of a file."""
        line = self._file.readline(size)
        self._watch(self._raw.tell())
        return line

    def seek(self, place: int) -> None:
        """As of a file."""
        self._file.seek(place)

    def __iter__(self) -> Iterator[bytes]:
        while line := self.readline(LONGEST_CELL):
            yield line


def _csv(file: _Told, separator: str) -> Iterator[object]:
    """Rows under a head line; empty cells are not there."""
    csv.field_size_limit(LONGEST_CELL)
    lines = (line.decode("utf-8-sig" if not at else "utf-8", errors="surrogateescape")
             for at, line in enumerate(file))  # fmt: skip
    rows = csv.DictReader(lines, delimiter=separator)
    while True:
        try:
            row = next(rows, None)
        except csv.Error as error:
            yield BadRecord("record is no CSV", f"line {rows.line_num}: {error}")
            continue
        if row is None:
            return
        if None in row:
            yield BadRecord("record has more cells than the head line", f"line {rows.line_num}")
        else:
            yield _unpacked({name: cell for name, cell in row.items() if cell not in (None, "")})


def _parquet(path: Path) -> Iterator[object]:
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(BATCH):
                yield from map(_unpacked, batch.to_pylist())
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is damaged Parquet ({error}): fetch the file again") from error


def _unpacked(record: dict[str, Any]) -> dict[str, Any]:
    """With what is nested as values, not as JSON in text."""
    for name in NESTED:
        text = record.get(name)
        if isinstance(text, str) and text.lstrip()[:1] in ("[", "{"):
            try:
                record[name] = json.loads(text)
            except (ValueError, RecursionError):
                continue  # as it is; whoever needs it refuses the record
    return record
