"""Rows as typed Parquet, and back, exactly.

A data set is a folder of `task=NAME/part-NNNNN.parquet`: zstd, one folder a task (NAME of `Task`),
the schema's version in each file's metadata. `position` keeps the order in which rows were written.
"""

import hashlib
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from o3rl.types import Box, KeyFrame, Row, Task, Truth

SCHEMA_VERSION = 1
VERSION_KEY = b"o3rl.schema"
ROWS_PER_GROUP = 1024
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
            writers[row.task].add(_record(row, count))
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


def read_rows(folder: str | Path, *, limit: int = 0) -> list[Row]:
    """The rows in the order in which they were written; the first `limit` of them if not 0.

    Raises ValueError where there is no data set, it has no rows, or another schema version.
    """
    return [_row(record) for record in _table_at(Path(folder), limit).to_pylist()]


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
        self._records: list[dict[str, Any]] = []
        self._writer: pq.ParquetWriter | None = None
        self._files = 0
        self._in_file = 0

    def add(self, record: dict[str, Any]) -> None:
        self._records.append(record)
        if len(self._records) == ROWS_PER_GROUP:
            self.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer, self._in_file = None, 0

    def flush(self) -> None:
        if not self._records:
            return
        records, self._records = self._records, []
        table = _table(records)
        if self._writer is None:
            self._folder.mkdir(exist_ok=True)
            path = self._folder / f"part-{self._files:05d}.parquet"
            self._writer = pq.ParquetWriter(path, SCHEMA, compression="zstd")
            self._files += 1
        self._writer.write_table(table)
        self._in_file += len(records)
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
        raise ValueError(
            f"the data set at {folder} has no rows: every row was rejected, or none was there; "
            f"see {folder / 'import.json'}, mend the source and run `o3rl data import` again"
        )
    table = table.sort_by("position")
    return table[:limit] if limit else table


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


def _table(records: list[dict[str, Any]]) -> pa.Table:
    try:
        return pa.Table.from_pylist(records, schema=SCHEMA)
    except (UnicodeEncodeError, OverflowError, pa.ArrowException) as error:
        if len(records) == 1:
            raise ValueError(f"row {records[0]['id']!r} cannot be stored: {error}") from error
        return pa.concat_tables([_table([record]) for record in records])


def _record(row: Row, position: int) -> dict[str, Any]:
    truth = row.truth
    return {
        "position": position,
        "id": row.id,
        "task": row.task.value,
        "source": row.source,
        "question": row.question,
        "media": row.media,
        "answer": truth.text,
        "letter": truth.letter,
        "interval": truth.interval and dict(zip(("start", "end"), truth.interval, strict=True)),
        "box": truth.box and _box_record(truth.box),
        "key_frames": [_key_frame_record(key_frame) for key_frame in truth.key_frames],
        "image_size": row.image_size
        and dict(zip(("width", "height"), row.image_size, strict=True)),
        "reasoning": row.reasoning,
    }


def _box_record(box: Box) -> dict[str, float]:
    return dict(zip(("x1", "y1", "x2", "y2"), box, strict=True))


def _key_frame_record(key_frame: KeyFrame) -> dict[str, Any]:
    return {
        "time": key_frame.time,
        "path": key_frame.path,
        "objects": [
            {"name": name, "boxes": [_box_record(box) for box in boxes]}
            for name, boxes in key_frame.objects
        ],
    }


def _row(record: dict[str, Any]) -> Row:
    interval, size = record["interval"], record["image_size"]
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
    )


def _box(record: dict[str, float]) -> Box:
    return (record["x1"], record["y1"], record["x2"], record["y2"])


def _key_frame(record: dict[str, Any]) -> KeyFrame:
    objects = tuple(
        (entry["name"], tuple(map(_box, entry["boxes"]))) for entry in record["objects"]
    )
    return KeyFrame(record["time"], objects, record["path"])
