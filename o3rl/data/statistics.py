"""How long, how many: the numbers of a data set's rows, by task.

Words are what blanks separate. Durations are those of the videos, a row each. Boxes are counted and
measured a key frame, or for visual QA the one of the answer.
"""

from array import array
from dataclasses import dataclass

import numpy as np

from o3rl.text.boxes import box_area
from o3rl.types import Row, Task

ALL = "all tasks"
SERIES = (
    "question words",
    "answer words",
    "reasoning words",
    "video seconds",
    "interval seconds",
    "key frames",
    "objects a key frame",
    "boxes a key frame",
    "box area",  # share of the frame
)


@dataclass(frozen=True, slots=True)
class Spread:
    """A series in short."""

    count: int
    mean: float
    least: float
    median: float
    p95: float
    most: float


class Stats:
    """Collects rows; `spreads` is what they come to."""

    def __init__(self) -> None:
        self._values: dict[tuple[Task, str], array] = {}

    def add(self, row: Row) -> None:
        """One row."""
        truth = row.truth
        self._put(row, "question words", len(row.question.split()))
        self._put(row, "answer words", len(truth.text.split()))
        if row.reasoning is not None:
            self._put(row, "reasoning words", len(row.reasoning.split()))
        if truth.interval is not None:
            self._put(row, "interval seconds", truth.interval[1] - truth.interval[0])
        if truth.box is not None:
            self._put(row, "box area", box_area(truth.box))
        if truth.key_frames:
            self._put(row, "key frames", len(truth.key_frames))
        for key_frame in truth.key_frames:
            boxes = [box for _, each in key_frame.objects for box in each]
            self._put(row, "objects a key frame", len(key_frame.objects))
            self._put(row, "boxes a key frame", len(boxes))
            for box in boxes:
                self._put(row, "box area", box_area(box))

    def add_duration(self, task: Task, seconds: float) -> None:
        """The duration of a row's video."""
        self._values.setdefault((task, "video seconds"), array("d")).append(seconds)

    def spreads(self) -> dict[str, dict[str, Spread]]:
        """By task, and of all, the series that have values."""
        found: dict[str, dict[str, Spread]] = {}
        seen = {task for task, _ in self._values}
        for task in (task for task in Task if task in seen):
            series = {name: self._values.get((task, name)) for name in SERIES}
            found[task.value] = {name: _spread(values) for name, values in series.items() if values}
        found[ALL] = {}
        for name in SERIES:
            together = array("d")
            for task in Task:
                together.extend(self._values.get((task, name), ()))
            if together:
                found[ALL][name] = _spread(together)
        return found

    def _put(self, row: Row, series: str, value: float) -> None:
        self._values.setdefault((row.task, series), array("d")).append(value)


def _spread(values: array) -> Spread:
    numbers = np.frombuffer(values, dtype=np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # a data set may hold times of 1e308 s
        median, p95 = np.percentile(numbers, (50, 95))
        found = (numbers.mean(), numbers.min(), median, p95, numbers.max())
    return Spread(len(numbers), *(round(float(np.nan_to_num(number)), 4) for number in found))
