"""STGR files to rows: each record is accepted, or rejected with a reason that is counted.

Evidence is normalised here, once. A data set of another form joins by a function that gives records
in STGR's keys (`o3rl.data.json_records`). Whether a video can be decoded is not asked here:
`o3rl.media.probe`.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from o3rl.data.json_records import BadRecord, read_records
from o3rl.data.media_paths import MediaRoots
from o3rl.data.parquet import write_rows
from o3rl.files import write_text
from o3rl.media.decoder import MediaError, check_file, inside
from o3rl.text.reasoning import read_reasoning
from o3rl.text.truth import (
    TruthError,
    parse_answer_box,
    parse_objects,
    parse_size,
    parse_truth,
    shown,
)
from o3rl.types import Box, KeyFrame, Row, Task, Truth

LONGEST_SIDE = 2**31 - 1


@dataclass(slots=True)
class Counted:
    """How often something was seen, and the first time in words."""

    count: int
    example: str


@dataclass(slots=True)
class ImportReport:
    """What became of each record. Counts are by name of the task, source, or reason."""

    source: str
    read: int = 0
    rows: int = 0
    by_task: dict[str, int] = field(default_factory=dict)
    by_source: dict[str, int] = field(default_factory=dict)
    rejected: dict[str, Counted] = field(default_factory=dict)
    mended: dict[str, Counted] = field(default_factory=dict)


class RowError(ValueError):
    """A record that makes no row. `reason` is short and free of values, so it can be counted."""

    def __init__(self, reason: str, value: object = None):
        super().__init__(reason if value is None else f"{reason}: {shown(value)}")
        self.reason = reason


def import_file(
    source: Path,
    out: Path,
    *,
    adapter: Callable[[Path], Iterable[object]] = read_records,
    media: Path | None = None,
    source_map: Mapping[str, str] | None = None,
) -> ImportReport:
    """Write the rows of a file as a data set in `out`: STGR's JSON list or lines, or an adapter's.

    As `import_records`; raises FileNotFoundError without the file, ValueError if its list is
    damaged.
    """
    return import_records(
        adapter(source), out, name=str(source), media=media, source_map=source_map
    )


def import_records(
    records: Iterable[object],
    out: Path,
    *,
    name: str,
    media: Path | None = None,
    source_map: Mapping[str, str] | None = None,
) -> ImportReport:
    """Write the rows of records in STGR's keys as a data set in `out`, `import.json` beside it.

    Where none passes, an older data set there stays as it is. `source_map` goes before the
    published map (`o3rl.data.media_paths`). Otherwise as `accepted_rows`.
    """
    report = ImportReport(source=name)
    rows = accepted_rows(records, report, media=media, source_map=source_map)
    report.rows = write_rows(rows, out)
    if report.rows or not any(out.glob("task=*")):  # else an older data set stays, with its report
        write_text(out / "import.json", json.dumps(asdict(report), indent=1) + "\n")
    return report


def accepted_rows(
    records: Iterable[object],
    report: ImportReport,
    *,
    media: Path | None = None,
    source_map: Mapping[str, str] | None = None,
) -> Iterator[Row]:
    """The rows that pass, one by one; what became of each record is counted in `report`.

    With a media root, rows without their file are rejected. Raises ValueError at once on a wrong
    map or a media root that is no folder.
    """
    if media is not None and not media.is_dir():
        raise ValueError(f"the media root {media} is no folder")
    return _accepted(records, MediaRoots(source_map or {}), media, report)


def row_of(record: Mapping[str, Any], roots: MediaRoots) -> Row:
    """The row of one record. Raises RowError, TruthError, MediaError, each with a `reason`."""
    truth = parse_truth(
        record.get("task"),  # pyright: ignore[reportArgumentType]  # refused there if no task
        record.get("answer"),  # pyright: ignore[reportArgumentType]
        key_frames=record.get("key_frames"),
        key_items=record.get("key_items"),
        image_size=record.get("image_size"),
    )
    task = Task(record["task"])
    source = _text(record, "source", default="")
    size = _image_size(record) if task is Task.VISUAL else None
    path = _text(record, "image_path" if task is Task.VISUAL else "video_path")
    row = Row(
        id=_identifier(record),
        task=task,
        source=source,
        question=_text(record, "question"),
        media=roots.media(source, path),
        truth=_with_images(truth, source, roots),
        image_size=size,
        reasoning=read_reasoning(record.get("reasoning_process"), size).text,
    )
    _check_unicode(row)
    return row


def _accepted(
    records: Iterable[object], roots: MediaRoots, media: Path | None, report: ImportReport
) -> Iterator[Row]:
    seen: set[str] = set()
    for record in records:
        report.read += 1
        if isinstance(record, BadRecord):
            count(report.rejected, record.reason, record.where)
            continue
        where = f"record {report.read}"
        try:
            if not isinstance(record, Mapping):
                raise RowError("record is no object", record)
            where += f", id {shown(record.get('id'))}"
            row = row_of(record, roots)
            if row.id in seen:
                raise RowError("id was there before", row.id)
            if media is not None:
                _check_media(row, media)
        except (RowError, TruthError, MediaError) as error:
            count(report.rejected, error.reason, f"{where}: {error}")
            continue
        except RecursionError:
            count(report.rejected, "record is nested too deeply", where)
            continue
        seen.add(row.id)
        _count_mended(row, record, media, report)
        report.by_task[row.task.value] = report.by_task.get(row.task.value, 0) + 1
        report.by_source[row.source] = report.by_source.get(row.source, 0) + 1
        yield row


def count(counts: dict[str, Counted], reason: str, example: str) -> None:
    """One more for `reason`; the first example is kept, short and printable."""
    if reason in counts:
        counts[reason].count += 1
    else:
        counts[reason] = Counted(1, example.encode("utf-8", "backslashreplace").decode()[:300])


def _count_mended(
    row: Row, record: Mapping[str, Any], media: Path | None, report: ImportReport
) -> None:
    for reason in read_reasoning(record.get("reasoning_process"), row.image_size).mended:
        count(report.mended, reason, f"id {row.id!r}")
    for box in _boxes_as_written(row, record):
        if min(box) < 0 or max(box) > 1:
            example = f"id {row.id!r}: {shown(box)}"
            count(report.mended, "true box cut at the frame's edge", example)
            break
    for key_frame in row.truth.key_frames:
        if media is None or key_frame.path is None:
            continue
        try:
            check_file(inside(media, key_frame.path))
        except MediaError as error:
            count(
                report.mended, "key frame's image cannot be had: the video's is taken", str(error)
            )


def _boxes_as_written(row: Row, record: Mapping[str, Any]) -> Iterator[Box]:
    """The true boxes of an accepted record, normalised, before they were cut."""
    if row.task is Task.VISUAL:
        yield parse_answer_box(record["answer"], record["image_size"])
    if row.task is Task.TEMPORAL_SPATIAL:
        for frame in record["key_frames"]:
            for _, boxes in parse_objects(record["key_items"][str(frame["idx"])]):
                yield from boxes


def _check_media(row: Row, media: Path) -> None:
    try:
        check_file(inside(media, row.media))
    except MediaError as error:
        raise RowError(f"media {error.reason}", row.media) from error


def _with_images(truth: Truth, source: str, roots: MediaRoots) -> Truth:
    def placed(key_frame: KeyFrame) -> KeyFrame:
        if key_frame.path is None:
            return key_frame
        return replace(key_frame, path=roots.key_frame(source, key_frame.path))

    return replace(truth, key_frames=tuple(map(placed, truth.key_frames)))


def _identifier(record: Mapping[str, Any]) -> str:
    name = record.get("id")
    if isinstance(name, bool) or not isinstance(name, int | str) or name == "":
        raise RowError("no id", name)
    return str(name)


def _text(record: Mapping[str, Any], key: str, *, default: str | None = None) -> str:
    value = record.get(key)
    if value is None and default is not None:
        return default
    if not isinstance(value, str) or (default is None and not value.strip()):
        raise RowError(f"no {key}", value)
    return value


def _image_size(record: Mapping[str, Any]) -> tuple[int, int]:
    width, height = parse_size(record.get("image_size"))
    if max(width, height) > LONGEST_SIDE or min(width, height) < 1:
        raise RowError("image_size is no size in pixels", record.get("image_size"))
    return round(width), round(height)


def _check_unicode(row: Row) -> None:
    """Refuse lone surrogates, which no file can hold as UTF-8."""
    words = [row.id, row.source, row.question, row.media, row.truth.text, row.reasoning or ""]
    for key_frame in row.truth.key_frames:
        words += [key_frame.path or "", *(name for name, _ in key_frame.objects)]
    try:
        "".join(words).encode()
    except UnicodeEncodeError as error:
        raise RowError("record is not valid Unicode", row.id) from error
