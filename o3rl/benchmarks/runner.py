"""A benchmark as a value, its run over an asker, and the result that both `run` and `score` give.

A run asks every call of every row, many rows at once, and adds each row to a log as it is done, so
that a run that was killed goes on where it was. A video that is missing and a call that failed
after its attempts leave a row with a reason: it stays in every denominator and is named. What an
asker and frames are is said by two protocols; no model, no file format, no command is known here.
"""

import asyncio
import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from o3rl.media.decoder import MediaError, inside
from o3rl.text.prompts import frame_label
from o3rl.tracking.metrics_log import append_lines, drop_torn_line
from o3rl.types import Interval, Message

logger = logging.getLogger(__name__)

SCHEMA = 1  # of a result
SCORINGS = ("ours", "official", "open_o3")
ATTEMPTS = 3  # of a call
MISSING = "video missing"

THINK = (  # as Open-o3 asks
    "You must first think about the reasoning process in the mind and then provide the user with "
    "the answer. The reasoning process and answer are enclosed within <think> </think> and "
    "<answer> </answer> tags, respectively."
)
EVIDENCE = (
    " All reasoning must be grounded in visual evidence from the video. When you mention any "
    "related object, person, or specific visual element, you must strictly follow the following "
    "format: `<obj>object_name</obj><box>bounding_box</box>at<t>time_in_seconds</t>s`."
)

Row = dict[str, Any]  # of a benchmark's file, or of a stored reply


@dataclass(frozen=True, slots=True)
class Call:
    """One question to the model about the frames of a clip."""

    name: str  # what its text is stored as
    text: str
    system: str = ""
    picture: str = ""  # one more image after the frames, handed over as its path below the media


@dataclass(frozen=True, slots=True)
class Scoring:
    """How replies are scored: by whose rules, and in which coordinates boxes are written."""

    by: str = "ours"
    convention: str = ""  # of boxes: a model type; empty: pixels of the video, as written

    def __post_init__(self):
        if self.by not in SCORINGS:
            raise ValueError(f"scoring is {self.by!r}; it must be one of {', '.join(SCORINGS)}")


@dataclass(frozen=True, slots=True)
class Scores:
    """Figures by the published names, and what was made of each row, in order."""

    figures: dict[str, Any]
    rows: list[dict[str, Any]]  # each with `read`: whether something could be read from its reply
    per_cent: bool = False  # figures are; else fractions (but `…_per_cent` and `by_…`)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How replies are decoded, and what the model sees of a video."""

    frames: int
    pixels: int  # of a frame; 0: its own size
    max_tokens: int
    temperature: float = 0.0
    repetition_penalty: float = 1.05
    fps: float = 1000.0  # frames a second, at most
    samples: int = 1


@dataclass(frozen=True, slots=True)
class Benchmark:
    """All that is particular to one benchmark."""

    name: str
    size: int  # rows of the published file
    sampling: Sampling
    read: Callable[[Path], list[Row]]
    video: Callable[[Row], str]  # a name or path below the media folder
    calls: Callable[[Row, bool], tuple[Call, ...]]  # thinking, as Open-o3 asks, or plain
    record: Callable[[Row, Mapping[str, str], str], Row]  # row, texts by call, reason: as stored
    score: Callable[[Sequence[Row], Scoring], Scores]
    span: Callable[[Row], Interval | None] = lambda row: None  # noqa: ARG005  seconds, if cut


@dataclass(frozen=True, slots=True)
class Shown:
    """The frames of a clip that the model is shown, in order, with their times and size."""

    images: Sequence[Any]
    times: Sequence[float]  # seconds from the start of the span
    size: tuple[int, int]  # width and height as the model sees them


class Frames(Protocol):
    """Reads frames. Raises OSError or ValueError where a clip cannot be read."""

    async def __call__(self, path: Path, sampling: Sampling, span: Interval | None) -> Shown:
        """At most `sampling.frames` frames of the span (None: all), first and last included."""
        ...


class Asker(Protocol):
    """A model that is asked anything."""

    async def ask(
        self, messages: Sequence[Message], images: Sequence[Any], sampling: Sampling
    ) -> Sequence[str]:
        """`sampling.samples` texts. Raises OSError or ValueError where that call failed."""
        ...


def result(
    name: str,
    size: int | None,
    records: Sequence[Row],
    scores: Scores,
    *,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """The JSON of a result: whose rules, which judge, how many rows were expected, there, read.

    The figures stand beside them under the names that the benchmark's own code prints. `size` is
    the published number of rows; None: any. What is infinite is the text `inf`.
    """
    reasons = Counter(map(_reason, records))
    return _written(
        {
            "schema": SCHEMA,
            "benchmark": name,
            **settings,
            "unit": "per cent" if scores.per_cent else "fraction",
            "counts": {
                "expected": len(records) if size is None else size,
                "given": len(records),
                "subset": size is not None and len(records) != size,
                "read": sum(row["read"] for row in scores.rows),
                "without_reply": {reason: n for reason, n in reasons.items() if reason},
            },
            "named": [_named(record) for record in records if _reason(record)],
            **scores.figures,
            "per_row": scores.rows,
        }
    )


def _reason(record: Row) -> str:
    return record.get("reason") or (MISSING if record.get("video_missing") else "")


def _written(value: Any, depth: int = 12) -> Any:
    """With numbers that JSON does not know as text, and no deeper than anything means."""
    if isinstance(value, dict | list | tuple) and depth == 0:
        return "…"
    if isinstance(value, dict):
        return {str(key): _written(each, depth - 1) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_written(each, depth - 1) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _named(record: Row) -> str:
    about = {**record, **record.get("row", {})}
    keys = (key for key in ("vid", "video", "path", "id", "question_id") if about.get(key))
    return f"{about.get(next(keys, ''), 'a row')}: {_reason(record)}"


def read_list(path: Path) -> list[Row]:
    """A JSON list of objects. ValueError says what is none."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(rows, list):
        raise ValueError(f"{path} holds no JSON list")
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ValueError(f"{path}, row {number}: {row!r:.80} is no JSON object")
    return rows


def load_rows(benchmark: Benchmark, path: Path, *, subset: bool = False) -> list[Row]:
    """The rows of a benchmark's file. ValueError unless all are there, or `subset` is meant."""
    rows = benchmark.read(path)
    if len(rows) != benchmark.size and not subset:
        raise ValueError(
            f"{path} holds {len(rows)} rows; {benchmark.name} has {benchmark.size}. "
            "Fetch the file again, or say that a subset is meant"
        )
    return rows


@dataclass
class Runner:
    """Asks the calls of rows and keeps their records in `log`, one JSON object a line."""

    benchmark: Benchmark
    asker: Asker
    frames: Frames
    media: Path
    log: Path
    model: str = ""  # whose replies these are; a log of another's is refused
    think: bool = True
    at_once: int = 16
    _find: Callable[[str], Path | None] = field(init=False)

    async def run(
        self, rows: Sequence[Row], advance: Callable[[], None] = lambda: None
    ) -> list[Row]:
        """The record of every row, in order; what the log has is not asked again.

        Raises ValueError where the log is of other rows.
        """
        settings = settings_of(self.model, self.think, self.benchmark.sampling)
        drop_torn_line(self.log)
        done = read_log(self.log, rows, settings)
        self._find = find_videos(self.media)
        room = asyncio.Semaphore(self.at_once)
        self.log.parent.mkdir(parents=True, exist_ok=True)

        async def one(number: int) -> None:
            async with room:
                done[number] = await self._one(rows[number])
                _append(self.log, number, rows[number], settings, done[number])
                advance()

        async with asyncio.TaskGroup() as group:
            for number in range(len(rows)):
                if number in done:
                    advance()
                else:
                    group.create_task(one(number))
        return [done[number] for number in range(len(rows))]

    async def _one(self, row: Row) -> Row:
        record, texts = self.benchmark.record, {}
        path = self._find(self.benchmark.video(row))
        if path is None:
            return record(row, {}, MISSING)
        try:
            shown = await self.frames(path, self.benchmark.sampling, self.benchmark.span(row))
        except (OSError, ValueError) as error:
            return record(row, {}, f"video unreadable: {error}")
        failed = ""
        for call in self.benchmark.calls(row, self.think):  # in turn: they share the frames' prefix
            text = await self._call(call, shown)
            if text is None:
                failed = failed or f"call {call.name} failed {ATTEMPTS} times"
            else:
                texts[call.name] = text
        return record(row, texts, failed) | {"input_size": list(shown.size)}

    async def _call(self, call: Call, shown: Shown) -> str | None:
        messages = chat(call, shown.times)
        try:
            picture = [inside(self.media, call.picture)] if call.picture else []
        except MediaError as error:
            logger.warning("call %s: %s", call.name, error)
            return None
        images = [*shown.images, *picture]
        for attempt in range(ATTEMPTS):
            try:
                return (await self.asker.ask(messages, images, self.benchmark.sampling))[0]
            except (OSError, ValueError) as error:
                logger.warning("call %s, attempt %d: %s", call.name, attempt + 1, error)
        return None


def chat(call: Call, times: Sequence[float]) -> list[Message]:
    """The chat messages of a call: each frame under its line, a picture, then the text."""
    content: list[dict[str, Any]] = []
    for number, time in enumerate(times, 1):
        content += [{"type": "text", "text": f"{frame_label(number, time)} "}, {"type": "image"}]
    if call.picture:
        content.append({"type": "image"})
    content.append({"type": "text", "text": call.text})
    system = [{"role": "system", "content": call.system}] if call.system else []
    return [*system, {"role": "user", "content": content}]


def settings_of(model: str, think: bool, sampling: Sampling) -> str:
    """What must be the same for a log to be gone on with."""
    return f"{model}, {'thinking' if think else 'plain'}, {sampling}"


def find_videos(media: Path) -> Callable[[str], Path | None]:
    """Finds a video at its own place below the media folder, or anywhere below it by its name."""
    names = {path.name: path for path in sorted(media.rglob("*")) if path.is_file()}

    def find(video: str) -> Path | None:
        path = media / video
        return path if path.is_file() else names.get(Path(video).name)

    return find


def read_log(log: Path, rows: Sequence[Row], settings: str) -> dict[int, Row]:
    """The records that a log has, by row number; a line cut short by a kill is asked again.

    Raises ValueError where it is of other rows, or of another model or sampling.
    """
    done: dict[int, Row] = {}
    for line in log.read_text(encoding="utf-8").splitlines() if log.exists() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        number = entry["number"]
        wanted = [_about(rows[number]), settings] if number < len(rows) else []
        if [entry["about"], entry["settings"]] != wanted:
            raise ValueError(
                f"{log} is the log of other rows or settings ({entry['settings']}, row {number}); "
                "name another folder"
            )
        if not entry["record"].get("reason"):
            done[number] = entry["record"]
    return done


def _append(log: Path, number: int, row: Row, settings: str, record: Row) -> None:
    entry = {"number": number, "about": _about(row), "settings": settings, "record": record}
    append_lines(log, [json.dumps(entry)])


def _about(row: Row) -> str:
    return "|".join(str(row.get(key, "")) for key in ("vid", "video", "path", "id", "question"))
