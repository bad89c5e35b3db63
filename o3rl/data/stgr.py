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

from o3rl.data.doubts import Conventions, doubts_of
from o3rl.data.json_records import BadRecord
from o3rl.data.media_paths import MediaRoots
from o3rl.data.parquet import write_rows
from o3rl.data.record_files import read_records
from o3rl.files import write_text
from o3rl.media.decoder import MediaError, check_file, inside
from o3rl.text.answers import TruthError, answer_text, options_of, shown
from o3rl.text.control_tokens import inert_row
from o3rl.text.reasoning import read_reasoning
from o3rl.text.truth import NO_BOX, only_teaches, parse_size, parse_truth
from o3rl.types import KeyFrame, Row, Task, Truth

LONGEST_SIDE = 2**31 - 1
OPTIONS = ("options", "choices")  # keys of their own, where the question does not hold them
LISTED = "options of a key of their own put below the question"
INERT = "control tokens in text made inert"
RENAMED = "id is another source's too: the source put before it"

Unearned = Callable[[Row], Iterable[str]]  # parts for which a row's own target earns nothing


@dataclass(slots=True)
class Counted:
    """How often something was seen, and the first time in words."""

    count: int
    example: str


@dataclass(slots=True)
class ImportReport:
    """What became of each record. Counts are by name of the task, source, or reason.

    Rows that are `sft_only` or `doubted` are kept, as mended ones are. `advice` is of the file.
    """

    source: str
    read: int = 0
    rows: int = 0
    by_task: dict[str, int] = field(default_factory=dict)
    by_source: dict[str, int] = field(default_factory=dict)
    rejected: dict[str, Counted] = field(default_factory=dict)
    mended: dict[str, Counted] = field(default_factory=dict)
    doubted: dict[str, Counted] = field(default_factory=dict)
    sft_only: dict[str, Counted] = field(default_factory=dict)
    advice: list[str] = field(default_factory=list)


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
    unearned: Unearned | None = None,
) -> ImportReport:
    """Write the rows of a file as a data set in `out`: a file in STGR's keys, or an adapter's.

    As `import_records`; raises FileNotFoundError without the file, ValueError if its list is
    damaged.
    """
    return import_records(
        adapter(source),
        out,
        name=str(source),
        media=media,
        source_map=source_map,
        unearned=unearned,
    )


def import_records(
    records: Iterable[object],
    out: Path,
    *,
    name: str,
    media: Path | None = None,
    source_map: Mapping[str, str] | None = None,
    unearned: Unearned | None = None,
) -> ImportReport:
    """Write the rows of records in STGR's keys as a data set in `out`, `import.json` beside it.

    Where none passes, an older data set there stays as it is. `source_map` goes before the
    published map (`o3rl.data.media_paths`). Otherwise as `accepted_rows`.
    """
    report = ImportReport(source=name)
    rows = accepted_rows(records, report, media=media, source_map=source_map, unearned=unearned)
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
    unearned: Unearned | None = None,
) -> Iterator[Row]:
    """The rows that pass, one by one; what became of each record is counted in `report`.

    With a media root, rows without their file are rejected; with `unearned`, rows are doubted whose
    own target earns nothing for a part. Raises ValueError at once on a wrong
    map or a media root that is no folder.
    """
    if media is not None and not media.is_dir():
        raise ValueError(f"the media root {media} is no folder")
    return _accepted(records, _Import(report, MediaRoots(source_map or {}), media, unearned))


def row_of(record: Mapping[str, Any], roots: MediaRoots, mended: list[str] | None = None) -> Row:
    """The row of one record; what had to be mended is appended to `mended`, by reason.

    Raises RowError, TruthError, MediaError, each with a `reason`.
    """
    mended = [] if mended is None else mended
    task = _task(record.get("task"))
    question, options = _question(record, task, mended)
    visual = task is Task.VISUAL
    truth = _truth(record, task, options, mended)
    size = _image_size(record, needed=truth.box is not None) if visual else None
    source = _text(record, "source", default="")
    path = _text(record, "image_path" if visual else "video_path")
    reasoning = read_reasoning(record.get("reasoning_process"), size)
    mended += reasoning.mended
    row = Row(
        id=_identifier(record),
        task=task,
        source=source,
        question=question,
        media=roots.media(source, path),
        truth=_with_images(truth, source, roots),
        image_size=size,
        reasoning=reasoning.text,
    )
    if row.reasoning is None and (reason := only_teaches(row)):
        raise RowError(reason, truth.text)
    _check_unicode(row)
    plain = inert_row(row)
    mended += [INERT] if plain is not row else []
    return plain


@dataclass(slots=True)
class _Import:
    """One import: what each record is held to, and what was seen so far."""

    report: ImportReport
    roots: MediaRoots
    media: Path | None
    unearned: Unearned | None
    sources: dict[str, str] = field(default_factory=dict)  # by id
    files: dict[str, str] = field(default_factory=dict)  # why not, by path; empty if it is there

    def row(self, record: object, where: str) -> Row | None:
        """The row of a record, all about it counted; None if it was rejected, with its reason."""
        report, mended = self.report, []
        try:
            if not isinstance(record, (dict, Mapping)):
                raise RowError("record is no object", record)
            row = self._named(row_of(record, self.roots, mended), mended)
            if self.media is not None and (reason := self._missing(row.media)):
                raise RowError(f"media {reason}", row.media)
        except (RowError, TruthError, MediaError) as error:
            named = f", id {shown(record.get('id'))}" if isinstance(record, Mapping) else ""
            count(report.rejected, error.reason, f"{where}{named}: {error}")
            return None
        except RecursionError:
            count(report.rejected, "record is nested too deeply", where)
            return None
        for reason in dict.fromkeys(mended):
            count(report.mended, reason, f"id {row.id!r}")
        self._count_images(row)
        self._doubt(row)
        report.by_task[row.task.value] = report.by_task.get(row.task.value, 0) + 1
        report.by_source[row.source] = report.by_source.get(row.source, 0) + 1
        return row

    def _named(self, row: Row, mended: list[str]) -> Row:
        """The row under an id that no other has. Raises RowError if its source had it before."""
        if self.sources.get(row.id, row.source) != row.source:
            row = replace(row, id=f"{row.source}/{row.id}")
            mended.append(RENAMED)
        if row.id in self.sources:
            raise RowError("id was there before", row.id)
        self.sources[row.id] = row.source
        return row

    def _missing(self, path: str) -> str:
        """Why a file cannot be had, each looked up once; empty if it can."""
        assert self.media is not None
        if path not in self.files:
            try:
                check_file(inside(self.media, path))
                self.files[path] = ""
            except MediaError as error:
                self.files[path] = error.reason
        return self.files[path]

    def _count_images(self, row: Row) -> None:
        for key_frame in row.truth.key_frames if self.media is not None else ():
            if key_frame.path is not None and (reason := self._missing(key_frame.path)):
                replaced = "key frame's image cannot be had: the video's is taken"
                count(self.report.mended, replaced, f"{key_frame.path}: {reason}")

    def _doubt(self, row: Row) -> None:
        report = self.report
        for reason, value in doubts_of(row):
            count(report.doubted, reason, f"id {row.id!r}: {shown(value)}")
        if reason := only_teaches(row):
            count(report.sft_only, reason, f"id {row.id!r}: {shown(row.truth.text)}")
        for part in self.unearned(row) if self.unearned else ():
            count(report.doubted, f"its own target earns nothing for {part}", f"id {row.id!r}")


def _accepted(records: Iterable[object], each: _Import) -> Iterator[Row]:
    conventions, report = Conventions(), each.report
    for record in records:
        report.read += 1
        if isinstance(record, BadRecord):
            count(report.rejected, record.reason, record.where)
            continue
        if isinstance(record, (dict, Mapping)):
            conventions.see(record)
        row = each.row(record, f"record {report.read}")
        if row is not None:
            yield row
    report.advice = conventions.advice()


def count(counts: dict[str, Counted], reason: str, example: str) -> None:
    """One more for `reason`; the first example is kept, short and printable."""
    if reason in counts:
        counts[reason].count += 1
    else:
        counts[reason] = Counted(1, example.encode("utf-8", "backslashreplace").decode()[:300])


def _task(name: object) -> Task:
    try:
        return Task(name)
    except ValueError:
        raise TruthError("unknown task", name) from None


def _question(
    record: Mapping[str, Any], task: Task, mended: list[str]
) -> tuple[str, dict[str, str]]:
    """The question, with options that have a key of their own below it; their texts by letter."""
    question = _text(record, "question")
    if task not in (Task.MCQ, Task.TEMPORAL_MCQ):
        return question, {}
    own = next((record[key] for key in OPTIONS if record.get(key) is not None), None)
    options = options_of(own, question)
    if own is not None and not all(text in question for text in options.values()):
        lines = (f"{letter}. {text}" for letter, text in options.items())
        question = "\n".join([question, *lines])
        mended.append(LISTED)
    return question, options


def _truth(
    record: Mapping[str, Any], task: Task, options: dict[str, str], mended: list[str]
) -> Truth:
    """As `parse_truth`; what lacks a box is text to be taught, if there is reasoning to it."""
    answer = record.get("answer")
    try:
        return parse_truth(
            task,
            answer,
            key_frames=record.get("key_frames"),
            key_items=record.get("key_items"),
            image_size=record.get("image_size"),
            options=options,
            mended=mended,
        )
    except TruthError as error:
        if error.reason != NO_BOX or "<box>" in str(answer):
            raise
        return Truth(answer_text(task, answer, mended))


def _with_images(truth: Truth, source: str, roots: MediaRoots) -> Truth:
    if not truth.key_frames:
        return truth

    def placed(key_frame: KeyFrame) -> KeyFrame:
        if key_frame.path is None:
            return key_frame
        path = roots.key_frame(source, key_frame.path)
        return KeyFrame(key_frame.time, key_frame.objects, path)

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


def _image_size(record: Mapping[str, Any], *, needed: bool) -> tuple[int, int] | None:
    if not (needed or record.get("image_size") or "<box>" in str(record.get("reasoning_process"))):
        return None
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
