"""What a data set holds and what is wrong with it: rows, media, duplicates, benchmarks in it.

    rows ──► Checker.see ──► Checker.media ──► probes ──► Checker.probed ──► Check

Pure bookkeeping: `o3rl.data.check` reads the rows, `o3rl.media.probe` the media.
"""

import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from o3rl.data.contamination import Contamination, contamination
from o3rl.data.parquet import each_row
from o3rl.data.record_files import read_records
from o3rl.data.statistics import Spread, Stats
from o3rl.data.stgr import Counted, ImportReport, accepted_rows, count
from o3rl.media.decoder import NOT_THERE
from o3rl.media.probe import Medium, Probe
from o3rl.types import Row, Task

SLACK = 0.5  # seconds by which evidence may lie behind the end of its video
KEPT_PER_TASK = 64  # rows from which a sample is drawn
SAME_ID = "same id"
SAME_QUESTION = "same media and question"


@dataclass(slots=True)
class BadMedia:
    """Files that cannot be read for one reason, and the rows that need them."""

    files: int
    rows: int
    example: str


@dataclass(slots=True)
class MediaReport:
    """What probing found. `doubts` are rows whose evidence does not fit their media."""

    files: int = 0
    readable: int = 0
    rows_without: int = 0  # rows that a run will skip
    bad: dict[str, BadMedia] = field(default_factory=dict)
    doubts: dict[str, Counted] = field(default_factory=dict)


@dataclass(slots=True)
class Check:
    """The whole report. Counts are by name; `media` is None where no media root was given."""

    source: str
    read: int
    rows: int
    by_task: dict[str, int]
    by_source: dict[str, int]
    rejected: dict[str, Counted]
    mended: dict[str, Counted]
    doubted: dict[str, Counted]
    sft_only: dict[str, Counted]
    advice: list[str]
    media: MediaReport | None
    duplicates: dict[str, Counted]
    benchmarks: dict[str, Contamination]
    stats: dict[str, dict[str, Spread]]


@dataclass(frozen=True, slots=True)
class _Use:
    """A row's use of a file, and what must fit it: times in seconds, size in pixels."""

    row: str
    task: Task
    last_key_frame: float = -1.0
    interval_end: float = -1.0
    image_size: tuple[int, int] | None = None
    is_key_frame: bool = False  # the file is a key frame's own image


class Checker:
    """Sees rows, then probes of their media; `report` is what they come to.

    `seed` draws the sample.
    """

    def __init__(self, seed: int = 0):
        self._random = random.Random(seed)
        self._stats = Stats()
        self._by_task: dict[str, int] = {}
        self._by_source: dict[str, int] = {}
        self._uses: dict[Medium, list[_Use]] = {}
        self._asked: dict[bytes, str] = {}
        self._duplicates: dict[str, Counted] = {}
        self._kept: dict[Task, list[Row]] = {}
        self._media: MediaReport | None = None
        self._unreadable: set[str] = set()

    def see(self, row: Row) -> None:
        """Count one row."""
        self._by_task[row.task.value] = self._by_task.get(row.task.value, 0) + 1
        self._by_source[row.source] = self._by_source.get(row.source, 0) + 1
        self._stats.add(row)
        self._keep(row)
        asked = blake2b(f"{row.media}\n{row.question.strip()}".encode(), digest_size=12).digest()
        if asked in self._asked:
            also = f"{row.id} asks the same of {row.media} as {self._asked[asked]}"
            count(self._duplicates, SAME_QUESTION, also)
        else:
            self._asked[asked] = row.id
        self._uses.setdefault(Medium(row.media, row.task is Task.VISUAL), []).append(_use(row))
        for key_frame in row.truth.key_frames:
            if key_frame.path is not None:
                image = Medium(key_frame.path, True)
                self._uses.setdefault(image, []).append(_Use(row.id, row.task, is_key_frame=True))

    def media(self) -> list[Medium]:
        """The files that the rows need, each once."""
        return list(self._uses)

    def probed(self, probe: Probe) -> None:
        """Take up what is known of one of them."""
        if self._media is None:
            self._media = MediaReport()
        uses = self._uses[probe.medium]
        self._media.files += 1
        if not probe.reason:
            self._media.readable += 1
            self._fit(probe, uses)
            return
        is_key_frame = all(use.is_key_frame for use in uses)
        reason = f"key frame's image: {probe.reason}" if is_key_frame else probe.reason
        if not (is_key_frame and probe.reason in NOT_THERE):
            self._unreadable |= {use.row for use in uses}
        bad = self._media.bad.setdefault(reason, BadMedia(0, 0, probe.medium.path))
        bad.files += 1
        bad.rows += len(uses)

    def sample(self, count: int) -> list[Row]:
        """At most `count` rows whose media can be read, spread over the tasks."""
        good = {
            task: [row for row in rows if row.id not in self._unreadable]
            for task, rows in self._kept.items()
        }
        turns = max((len(rows) for rows in good.values()), default=0)
        found = [good[task][turn] for turn in range(turns) for task in Task
                 if turn < len(good.get(task, ()))]  # fmt: skip
        return sorted(found[:count], key=lambda row: list(Task).index(row.task))

    def report(
        self, imported: ImportReport, *, benchmarks: Mapping[str, Sequence[str]] | None = None
    ) -> Check:
        """All of it; `imported` is of the rows that were seen, to its end."""
        rows = sum(self._by_task.values())
        rows_by_media = {
            medium.path: sum(not use.is_key_frame for use in uses)
            for medium, uses in self._uses.items()
            if not all(use.is_key_frame for use in uses)
        }
        duplicates = dict(self._duplicates)
        if "id was there before" in imported.rejected:
            duplicates[SAME_ID] = imported.rejected["id was there before"]
        if self._media is not None:
            self._media.rows_without = len(self._unreadable)
        return Check(
            source=imported.source,
            read=imported.read or rows,
            rows=rows,
            by_task={task.value: self._by_task[task.value] for task in Task
                     if task.value in self._by_task},
            by_source=dict(sorted(self._by_source.items(), key=lambda each: -each[1])),
            rejected=_most_first(imported.rejected),
            mended=_most_first(imported.mended),
            doubted=_most_first(imported.doubted),
            sft_only=_most_first(imported.sft_only),
            advice=imported.advice,
            media=self._media,
            duplicates=duplicates,
            benchmarks={
                name: contamination(ids, rows_by_media) for name, ids in (benchmarks or {}).items()
            },
            stats=self._stats.spreads(),
        )  # fmt: skip

    def _keep(self, row: Row) -> None:
        """Every row of a task is kept with the same chance (reservoir sampling)."""
        kept, seen = self._kept.setdefault(row.task, []), self._by_task[row.task.value]
        if len(kept) < KEPT_PER_TASK:
            kept.insert(self._random.randrange(len(kept) + 1), row)
        elif (place := self._random.randrange(seen)) < KEPT_PER_TASK:
            kept[place] = row

    def _fit(self, probe: Probe, uses: Sequence[_Use]) -> None:
        """Does the evidence of these rows lie within their file?"""
        assert self._media is not None
        doubts, end = self._media.doubts, probe.duration + SLACK
        for reason, said in probe.doubts:
            count(doubts, reason, f"{probe.medium.path}: {said}")
        for use in uses:
            where = f"{use.row}, {probe.medium.path} of {probe.duration:.1f} s"
            if use.is_key_frame:
                continue
            if not probe.medium.is_image:
                self._stats.add_duration(use.task, probe.duration)
            if use.last_key_frame > end and not probe.medium.is_image:
                said = f"{where}: key frame at {use.last_key_frame:g} s"
                count(doubts, "key frame behind the end of the video", said)
            if use.interval_end > end and not probe.medium.is_image:
                said = f"{where}: interval to {use.interval_end:g} s"
                count(doubts, "interval ends behind the end of the video", said)
            if use.image_size not in (None, (probe.width, probe.height)):
                said = f"{use.row}: {use.image_size}, the image has {(probe.width, probe.height)}"
                count(doubts, "image_size is not that of the image", said)


def _use(row: Row) -> _Use:
    times = [key_frame.time for key_frame in row.truth.key_frames]
    return _Use(
        row.id,
        row.task,
        max(times, default=-1.0),
        row.truth.interval[1] if row.truth.interval else -1.0,
        row.image_size,
    )


def _most_first(counts: Mapping[str, Counted]) -> dict[str, Counted]:
    return dict(sorted(counts.items(), key=lambda each: -each[1].count))


def open_rows(
    source: Path,
    *,
    adapter: Callable[[Path], Iterable[object]] | None = None,
    source_map: Mapping[str, str] | None = None,
) -> tuple[Iterator[Row], ImportReport]:
    """The rows of `source`, one by one, and the report that is complete when they are used up.

    A folder is a data set, and its report that of its import; a file, or what `adapter` makes of
    it, goes through what import asks of it. Raises as `import_file` and `read_rows`.
    """
    if source.is_dir() and adapter is None:
        return each_row(source), _report_of_import(source)
    report = ImportReport(source=str(source))
    records = (adapter or read_records)(source)
    return _counted(accepted_rows(records, report, source_map=source_map), report), report


def _counted(rows: Iterator[Row], report: ImportReport) -> Iterator[Row]:
    for row in rows:
        report.rows += 1
        yield row


def _report_of_import(folder: Path) -> ImportReport:
    """What `import.json` beside the rows says; empty but for the name where it is not there."""
    path = folder / "import.json"
    if not path.is_file():
        return ImportReport(source=str(folder))
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        for name in {"rejected", "mended", "doubted", "sft_only"} & said.keys():
            said[name] = {reason: Counted(**counted) for reason, counted in said[name].items()}
        return ImportReport(**said)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path} is no report of an import ({error}): run `o3rl data import` again"
        ) from error
