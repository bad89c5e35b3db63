"""metrics.jsonl: every metric of every step, one JSON object a line, whatever a server does.

It is the ground truth of a run's numbers: curves are drawn from it, and what a tracking server
has not yet got is sent from it. Where a run goes on from a checkpoint, the lines of later steps are
cut off, for those steps are trained again; otherwise the last line of a step counts. A line that a
kill cut short is dropped at the next opening.
"""

import json
import logging
import math
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MetricsRecord:
    """The metrics of one call: `time` in seconds since 1970.

    >>> Line(3, 1760000000.5, {"reward/total": 1.25})
    """

    step: int
    time: float
    metrics: dict[str, float]


class MetricsLog:
    """Appends lines to one file and reads those after an offset; safe to use from several threads.

    Raises ValueError, by name, for a metric that is no number; NaN and infinities are numbers.
    """

    def __init__(self, path: Path):
        self.path = path
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        drop_torn_line(path)
        self._file = path.open("ab", buffering=0)
        self._waiting = bytearray()  # what the disk has refused

    def append(self, line: MetricsRecord) -> None:
        """Write one line: it is in the operating system's hands when this returns.

        A disk that refuses gets it with the next one.
        """
        metrics = {name: _as_json(name, value) for name, value in line.metrics.items()}
        text = json.dumps({"step": line.step, "time": line.time, "metrics": metrics})
        with self._lock:
            self._waiting += text.encode() + b"\n"
            self._write()

    def after(self, offset: int, *, limit: int) -> tuple[list[MetricsRecord], int]:
        """At most `limit` lines from byte `offset` on, and the offset behind the last of them."""
        lines: list[MetricsRecord] = []
        for line, behind in islice(self._lines(offset), limit):
            offset = behind
            if line is not None:
                lines.append(line)
        return lines, offset

    def last_step(self, offset: int) -> int:
        """The highest step of the lines before byte `offset`; -1 without any."""
        steps = (line.step for line, behind in self._lines() if line and behind <= offset)
        return max(steps, default=-1)

    def end_of(self, step: int) -> int:
        """The offset of the first line of a later step than `step`; else the file's length."""
        end = 0
        for line, behind in self._lines():
            if line is not None and line.step > step:
                break
            end = behind
        return end

    def cut(self, offset: int) -> None:
        """Drop all lines from byte `offset` on."""
        with self._lock:
            self._waiting.clear()
            self._file.truncate(offset)

    def close(self) -> None:
        """Close the file; lines can be read still."""
        with self._lock:
            self._write()
            self._file.close()

    def _write(self) -> None:
        try:
            while self._waiting:
                del self._waiting[: self._file.write(self._waiting)]
        except OSError as error:
            log.error("%s: %d bytes wait for the disk: %s", self.path, len(self._waiting), error)

    def _lines(self, offset: int = 0) -> Iterator[tuple[MetricsRecord | None, int]]:
        """(line, offset behind it) from byte `offset` on; a broken line is None."""
        with self.path.open("rb") as file:
            file.seek(offset)
            while (raw := file.readline()).endswith(b"\n"):
                offset += len(raw)
                yield _parse(raw, self.path), offset


def read_series(path: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of each metric by name, steps rising, the last line of a step taken.

    Raises FileNotFoundError if there is no such file. Broken lines are skipped and logged.
    """
    series: dict[str, dict[int, float]] = {}
    with path.open("rb") as file:
        for raw in file:
            line = _parse(raw, path)
            if line is None:
                continue
            for name, value in line.metrics.items():
                series.setdefault(name, {})[line.step] = value
    return {name: sorted(points.items()) for name, points in series.items()}


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """Append lines, or what is whole of them where the disk refuses, which raises OSError."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
    except OSError:
        drop_torn_line(path)
        raise


def drop_torn_line(path: Path) -> None:
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        log.warning("%s: dropped %d bytes of an unfinished line", path, len(content) - whole)
        with path.open("r+b") as file:
            file.truncate(whole)


def _as_json(name: str, value: float) -> float | str:
    """JSON knows no NaN and no infinity: those are written as `"nan"`, `"inf"`, `"-inf"`."""
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"metric {name} is {value!r}; it must be a number") from error
    return number if math.isfinite(number) else str(number)


def _parse(raw: bytes, path: Path) -> MetricsRecord | None:
    try:
        record = json.loads(raw)
        metrics: Mapping[str, float | str] = record["metrics"]
        return MetricsRecord(
            int(record["step"]),
            float(record["time"]),
            {name: float(value) for name, value in metrics.items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s: skipped a broken line %r: %s", path, raw[:80], error)
        return None
