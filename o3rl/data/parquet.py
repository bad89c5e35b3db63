"""Rows as typed Parquet, and back, exactly.

A data set is a folder of `task=NAME/part-NNNNN.parquet`: zstd, one folder a task (NAME of `Task`),
the schema's version in each file's metadata. `position` keeps the order in which rows were written.
"""

import hashlib
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from o3rl.types import Box, KeyFrame, Row, Task, Truth

SCHEMA_VERSION = 1
VERSION_KEY = b"o3rl.schema"
ROWS_PER_GROUP = 1024
ROWS_PER_BATCH = 8192  # that reading holds as one
ROWS_PER_FILE = 64 * ROWS_PER_GROUP
OLDER = ".old"  # where the older data set is while the new one takes its place

_BOX = pa.struct(
    [pa.field(side, pa.float64(), nullable=False) for side in ("x1", "y1", "x2", "y2")]
)
_OBJECT = pa.struct(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("boxes", pa.list_(_BOX), nullable=False),
    ]
)
_KEY_FRAME = pa.struct(
    [
        pa.field("time", pa.float64(), nullable=False),
        pa.field("path", pa.string()),
        pa.field("objects", pa.list_(_OBJECT), nullable=False),
    ]
)
_INTERVAL = pa.struct(
    [pa.field("start", pa.float64(), nullable=False), pa.field("end", pa.float64(), nullable=False)]
)
_SIZE = pa.struct(
    [pa.field("width", pa.int64(), nullable=False), pa.field("height", pa.int64(), nullable=False)]
)
SCHEMA = pa.schema(
    [
        pa.field("position", pa.int64(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("question", pa.string(), nullable=False),
        pa.field("media", pa.string(), nullable=False),
        pa.field("answer", pa.string(), nullable=False),
        pa.field("letter", pa.string()),
        pa.field("interval", _INTERVAL),
        pa.field("box", _BOX),
        pa.field("key_frames", pa.list_(_KEY_FRAME), nullable=False),
        pa.field("image_size", _SIZE),
        pa.field("reasoning", pa.string()),
        pa.field("part", _INTERVAL),
    ],
    metadata={VERSION_KEY: str(SCHEMA_VERSION).encode()},
)


def write_rows(rows: Iterable[Row], folder: Path) -> int:
    """Write a data set, in place of an older one there; how many rows it has.

    Rows are taken one by one and never all held. The older data set stays until the new one is
    whole, and where there are no rows at all. What is killed while it puts the new one in its place
    leaves the older one in `.old`. Raises ValueError on a row that cannot be stored, naming it.
    """
    aside, older = folder / ".writing", folder / OLDER
    _make_afresh(aside)
    writers = {task: _TaskWriter(aside / f"task={task.name}") for task in Task}
    count = 0
    try:
        for row in rows:
            writers[row.task].add(count, row)
            count += 1
        for writer in writers.values():
            writer.flush()
    finally:
        for writer in writers.values():
            writer.close()
    if count:
        _make_afresh(older)
        _move(folder, older)
        _move(aside, folder)
        older.rename(dropped := folder / ".dropped")  # half deleted it is no data set to go back to
        shutil.rmtree(dropped)
    shutil.rmtree(aside)
    return count


class Rows(Sequence[Row]):
    """The rows of a data set in the order in which they were written, each made when asked for.

    What is held is the Arrow table, as it lies in the files.
    """

    def __init__(self, batches: Sequence[pa.RecordBatch], limit: int):
        positions = [batch["position"].to_numpy() for batch in batches]
        order = np.argsort(np.concatenate(positions), kind="stable")[: limit or None]
        self._first = np.cumsum([0, *(len(each) for each in positions)])  # of each batch
        self._order = order
        self._batches = batches

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        place = self._order[index]
        batch = int(np.searchsorted(self._first, place, side="right")) - 1
        [record] = self._batches[batch].slice(place - self._first[batch], 1).to_pylist()
        return _row(record)

    @property
    def tasks(self) -> list[Task]:
        """The task of each row; no row is made."""
        return list(map(Task, self._column("task").to_pylist()))

    def without_reasoning(self) -> list[int]:
        """Which rows have none; no row is made."""
        return np.flatnonzero(self._column("reasoning").is_null().to_numpy()).tolist()

    def _column(self, name: str) -> pa.ChunkedArray:
        return pa.chunked_array([batch[name] for batch in self._batches]).take(self._order)


def read_rows(folder: str | Path, *, limit: int = 0) -> Rows:
    """The rows in the order in which they were written; the first `limit` of them if not 0.

    Raises ValueError where there is no data set, it has no rows, or another schema version.
    """
    batches = []
    for path in _files(Path(folder)):
        with _opened(path) as file:
            for batch in file.iter_batches(ROWS_PER_BATCH):
                if limit and batch["position"][0].as_py() >= limit:
                    break  # positions grow within a file
                batches.append(batch)
    if not batches:
        raise _empty(Path(folder))
    return Rows(batches, limit)


def read_tasks(folder: str | Path, *, limit: int = 0) -> list[Task]:
    """The task of each row that `read_rows` gives; nothing else is read. Raises as that."""
    table = _table_at(Path(folder), limit, columns=["position", "task"])
    return [Task(name) for name in table["task"].to_pylist()]


def each_row(folder: str | Path) -> Iterator[Row]:
    """The rows one by one, task after task: few of them are held. Raises as `read_rows`."""
    for path in _files(Path(folder)):
        with _opened(path) as file:
            for batch in file.iter_batches(ROWS_PER_GROUP):
                yield from map(_row, batch.to_pylist())


def fingerprint(folder: str | Path) -> str:
    """16 hexadecimal digits of the data set's files. Raises ValueError where there is none."""
    found = hashlib.blake2b(digest_size=8)
    for path in _files(Path(folder)):
        found.update(f"{path.relative_to(folder).as_posix()}\n".encode())
        with path.open("rb") as file:
            while block := file.read(2**20):
                found.update(block)
    return found.hexdigest()


def _make_afresh(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


def _move(source: Path, to: Path) -> None:
    for each in source.glob("task=*"):
        each.rename(to / each.name)


class _TaskWriter:
    """The files of one task; none where it has no rows."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._rows: list[tuple[int, Row]] = []
        self._writer: pq.ParquetWriter | None = None
        self._files = 0
        self._in_file = 0

    def add(self, position: int, row: Row) -> None:
        self._rows.append((position, row))
        if len(self._rows) == ROWS_PER_GROUP:
            self.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer, self._in_file = None, 0

    def flush(self) -> None:
        if not self._rows:
            return
        rows, self._rows = self._rows, []
        table = _table(rows)
        if self._writer is None:
            self._folder.mkdir(exist_ok=True)
            path = self._folder / f"part-{self._files:05d}.parquet"
            self._writer = pq.ParquetWriter(path, SCHEMA, compression="zstd")
            self._files += 1
        self._writer.write_table(table)
        self._in_file += len(rows)
        if self._in_file >= ROWS_PER_FILE:
            self.close()


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ValueError(
            f"there is no data set at {folder}: "
            f"make one with `o3rl data import FILE --out {folder}`"
        )
    if (folder / OLDER).exists():
        raise ValueError(
            f"an import into {folder} was cut short: run it again, or put what {folder / OLDER} "
            "holds back in its place and delete that folder"
        )
    files = sorted(folder.glob("task=*/*.parquet"))
    if not files:
        raise ValueError(
            f"{folder} holds no data set (no task=*/*.parquet), or one without a row that "
            f"passed: make one with `o3rl data import FILE --out {folder}`"
        )
    return files


def _table_at(folder: Path, limit: int, *, columns: list[str] | None = None) -> pa.Table:
    """The first `limit` rows (0: all) as they were written; only `columns`, if they are named."""
    table = pa.concat_tables([_read(path, columns) for path in _files(folder)])
    if table.num_rows == 0:
        raise _empty(folder)
    table = table.sort_by("position")
    return table[:limit] if limit else table


def _empty(folder: Path) -> ValueError:
    return ValueError(
        f"the data set at {folder} has no rows: every row was rejected, or none was there; "
        f"see {folder / 'import.json'}, mend the source and run `o3rl data import` again"
    )


def _read(path: Path, columns: list[str] | None) -> pa.Table:
    with _opened(path) as file:
        return file.read(columns)


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    """A file of our schema's version; ValueError if it is none, or cannot be read to its end."""
    try:
        with pq.ParquetFile(path) as file:
            version = (file.schema_arrow.metadata or {}).get(VERSION_KEY, b"none").decode()
            if version != str(SCHEMA_VERSION):
                raise ValueError(
                    f"{path} has schema version {version}, this program reads {SCHEMA_VERSION}: "
                    "run `o3rl data import` again on the source"
                )
            yield file
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"{path} is no readable Parquet ({error}): run `o3rl data import` again"
        ) from error


def _table(rows: Sequence[tuple[int, Row]]) -> pa.Table:
    try:
        return pa.Table.from_arrays(_columns(rows), schema=SCHEMA)
    except (UnicodeEncodeError, OverflowError, pa.ArrowException) as error:
        if len(rows) == 1:
            raise ValueError(f"row {rows[0][1].id!r} cannot be stored: {error}") from error
        return pa.concat_tables([_table([row]) for row in rows])


def _columns(rows: Sequence[tuple[int, Row]]) -> list[pa.Array]:
    """The columns of `SCHEMA`."""
    each = [row for _, row in rows]
    truths = [row.truth for row in each]

    def text(values: Iterable[str | None]) -> pa.Array:
        return pa.array(list(values), pa.string())

    return [
        pa.array([position for position, _ in rows], pa.int64()),
        text(row.id for row in each),
        text(row.task.value for row in each),
        text(row.source for row in each),
        text(row.question for row in each),
        text(row.media for row in each),
        text(truth.text for truth in truths),
        text(truth.letter for truth in truths),
        _tuples([truth.interval for truth in truths], _INTERVAL),
        _tuples([truth.box for truth in truths], _BOX),
        _key_frames([truth.key_frames for truth in truths]),
        _tuples([row.image_size for row in each], _SIZE),
        text(row.reasoning for row in each),
        _tuples([row.part for row in each], _INTERVAL),
    ]


def _key_frames(of_rows: Sequence[tuple[KeyFrame, ...]]) -> pa.Array:
    frames = [frame for of_row in of_rows for frame in of_row]
    objects = [named for frame in frames for named in frame.objects]
    boxes = [box for _, of_object in objects for box in of_object]
    names = pa.array([name for name, _ in objects], pa.string())
    of_names = _lists([of_object for _, of_object in objects], _tuples(boxes, _BOX), _BOX)
    named = pa.StructArray.from_arrays([names, of_names], fields=list(_OBJECT))
    columns = [
        pa.array([frame.time for frame in frames], pa.float64()),
        pa.array([frame.path for frame in frames], pa.string()),
        _lists([frame.objects for frame in frames], named, _OBJECT),
    ]
    whole = pa.StructArray.from_arrays(columns, fields=list(_KEY_FRAME))
    return _lists(of_rows, whole, _KEY_FRAME)


def _lists(lists: Sequence[Sequence], values: pa.Array, kind: pa.StructType) -> pa.Array:
    """A list a row, of the values one after the other."""
    offsets = np.cumsum([0, *map(len, lists)], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values, type=pa.list_(kind))


def _tuples(values: Sequence[tuple | None], kind: pa.StructType) -> pa.Array:
    """A struct a row, of its numbers in the order of its fields; null where there is none."""
    missing = [value is None for value in values]
    nothing = (0,) * kind.num_fields
    columns = zip(*(nothing if value is None else value for value in values), strict=True)
    fields = list(kind)
    arrays = (
        [pa.array(c, f.type) for c, f in zip(columns, fields, strict=True)]
        if values
        else [pa.array([], field.type) for field in fields]
    )
    return pa.StructArray.from_arrays(arrays, fields=fields, mask=pa.array(missing, pa.bool_()))


def _row(record: dict[str, Any]) -> Row:
    interval, size = record["interval"], record["image_size"]
    part = record.get("part")  # files written before there were parts lack the column
    truth = Truth(
        text=record["answer"],
        letter=record["letter"],
        interval=interval and (interval["start"], interval["end"]),
        box=record["box"] and _box(record["box"]),
        key_frames=tuple(map(_key_frame, record["key_frames"])),
    )
    return Row(
        id=record["id"],
        task=Task(record["task"]),
        source=record["source"],
        question=record["question"],
        media=record["media"],
        truth=truth,
        image_size=size and (size["width"], size["height"]),
        reasoning=record["reasoning"],
        part=part and (part["start"], part["end"]),
    )


def _box(record: dict[str, float]) -> Box:
    return (record["x1"], record["y1"], record["x2"], record["y2"])


def _key_frame(record: dict[str, Any]) -> KeyFrame:
    objects = tuple(
        (entry["name"], tuple(map(_box, entry["boxes"]))) for entry in record["objects"]
    )
    return KeyFrame(record["time"], objects, record["path"])
