"""`make faults`: runs whose processes are killed and frozen all the time, and what they leave.

    trial: a kind and a moment are drawn ─► its process is struck then ─► the run trains on
    run:   as many trials as its steps allow ─► it ends ─► `audit` reads what it left

A trial is over when the strike has shown (`strikes` says how each does) and a step that began
after it was trained. A driver that ends is started again with `--again`. The engine has no model
(`tests.faults.fake_engine`); all else is real. Rows of the data make trouble too (`ENDS`).
"""

import json
import random
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from tests.faults.audit import ENDS
from tests.faults.moments import MOMENTS
from tests.faults.site import Site
from tests.faults.strikes import KINDS
from tests.faults.struck_run import ChaosError, Data, StruckRun, Trial

__all__ = ["KINDS", "Chaos", "ChaosError", "Data", "Trial", "prepared"]


class Chaos:
    """Strikes runs below `folder`. The same seed draws the same kinds and moments.

    `calm` are the seconds of steps that no strike touched, of the runs that came to their end.
    """

    def __init__(self, site: Site, data: Data, *, seed: int):
        self.calm: list[float] = []
        self._site, self._data = site, data
        self._random = random.Random(seed)
        self._runs = 0

    def trials(self, kinds: Sequence[str], count: int) -> Iterator[Trial]:
        """`count` of them; kinds and moments each in turn, in an order of its own each time.

        A strike that a run's end overtakes is made again in the next one. Raises ChaosError naming
        the run's folder, which is left as it is.
        """
        todo = list(islice(zip(self._shuffled(kinds), self._shuffled(MOMENTS), strict=True), count))
        while todo:
            self._runs += 1
            before = len(todo)
            run = StruckRun(self._site, self._data, number=self._runs, luck=self._random)
            yield from run.trials(todo)
            self.calm += run.calm
            if len(todo) == before:
                raise ChaosError(f"{run.folder}: it ended before {todo[0][0]!r} had shown")

    def _shuffled(self, names: Sequence[str]) -> Iterator[str]:
        while True:
            yield from self._random.sample(names, len(names))


def prepared(folder: Path, *, videos: int, marks: Sequence[str] = tuple(ENDS)) -> Data:
    """Rows and media of synthetic videos below `folder`, one row for each of `marks` among them."""
    from o3rl.data.parquet import read_rows
    from o3rl.data.stgr import import_file
    from o3rl.synth.dataset import Size, write_dataset
    from o3rl.synth.questions import Teacher

    data = folder / "data"
    for _ in write_dataset(data, Size(videos, 3, 1, 1), seed=0, teacher=Teacher()):
        pass
    file = data / "STGR-RL.json"
    records = json.loads(file.read_text())
    for record, mark in zip(records, marks, strict=False):
        record["question"] += f" {mark}"
    file.write_text(json.dumps(records))
    import_file(file, folder / "rows", media=data / "media")
    rows = read_rows(str(folder / "rows"))
    marked = {row.id: mark for row in rows for mark in marks if mark in row.question}
    ids = frozenset(row.id for row in rows)
    return Data("tiny", folder / "rows", data / "media", ids, marked)
