"""The order in which rows are used: seeded, resumable, mixed by task.

A task's weight is how often each of its rows is used in an epoch: 1 once, 2 twice, 0.5 every second
epoch, 0 never. Over epochs the rows of a task are used equally often, to within one. The order is a
function of seed and epoch alone, so a place in it is two numbers. Which rows an epoch has used is
told by the ledger (`Ledger.rows_of`).
"""

import math
import random
from collections.abc import Mapping, Sequence
from hashlib import blake2b

from o3rl.data.parquet import Rows
from o3rl.types import Row, Task

LEAST_PER_EPOCH = 0.01


def order_of(rows: Sequence[Row], seed: int, *, task_weights: Mapping[str, float]) -> "RowOrder":
    """The order of `rows`; weights by the names in `Task`, in small letters as configured."""
    weights = {Task[name.upper()]: weight for name, weight in task_weights.items()}
    tasks = rows.tasks if isinstance(rows, Rows) else [row.task for row in rows]
    return RowOrder(tasks, seed, weights=weights)


def steps_of(order: "RowOrder", *, epochs: int, size: int, steps: int) -> int:
    """Batches of `size` rows in a run: `steps`, or if that is 0 what the epochs give, 1 or more."""
    return steps or max(1, int(epochs * order.per_epoch) // size)


class RowOrder:
    """Row indices, epoch after epoch. `tasks` holds the task of each row.

    Raises ValueError on no rows, on a weight that is negative or of a task that no row has, and
    where an epoch would hold hardly a row.
    """

    def __init__(
        self, tasks: Sequence[Task], seed: int, *, weights: Mapping[Task, float] | None = None
    ):
        self._weights = dict(weights or {})
        self._rows_by_task: dict[Task, list[int]] = {}
        for index, task in enumerate(tasks):
            self._rows_by_task.setdefault(task, []).append(index)
        self._check()
        self._seed = seed
        named = [(task.value, weight) for task, weight in sorted(self._weights.items())]
        said = "\n".join([*map(str, tasks), repr(named)])
        self._rows = blake2b(said.encode(), digest_size=8).hexdigest()
        self._epoch = 0
        self._position = 0
        self._order = self.rows_of(0)
        self._enter_next_while_done()

    @property
    def epoch(self) -> int:
        """The epoch that the next row belongs to, from 0."""
        return self._epoch

    @property
    def per_epoch(self) -> float:
        """Rows of an epoch, on average over epochs."""
        return sum(
            self._weights.get(task, 1.0) * len(rows) for task, rows in self._rows_by_task.items()
        )

    def take(self, count: int) -> list[int]:
        """The next `count` row indices, into further epochs if this one ends."""
        taken: list[int] = []
        while len(taken) < count:
            part = self._order[self._position : self._position + count - len(taken)]
            taken += part
            self._position += len(part)
            self._enter_next_while_done()
        return taken

    def rows_of(self, epoch: int) -> tuple[int, ...]:
        """All rows of an epoch, in their order."""
        rows = [
            row
            for task in sorted(self._rows_by_task)
            for row in self._share(task, self._rows_by_task[task], epoch)
        ]
        random.Random(f"{self._seed} epoch {epoch}").shuffle(rows)
        return tuple(rows)

    def state(self) -> dict[str, int | str]:
        """The place as plain values for a checkpoint; `rows` is a digest of tasks and weights."""
        return {
            "seed": self._seed,
            "rows": self._rows,
            "epoch": self._epoch,
            "position": self._position,
        }

    def restore(self, state: Mapping[str, int | str]) -> None:
        """Go to a place that `state` gave. ValueError if it is of other rows, weights or seed."""
        mine = self.state()
        for name, of_what in [("seed", "seed"), ("rows", "rows or task weights")]:
            if state[name] != mine[name]:
                raise ValueError(
                    f"the saved order is of another {of_what} ({state[name]!r}, this run has "
                    f"{mine[name]!r}): resume with the data and settings of the saved run"
                )
        epoch, position = int(state["epoch"]), int(state["position"])
        order = self.rows_of(epoch) if epoch >= 0 else ()
        if not 0 <= position < len(order):
            raise ValueError(f"the saved order is at row {position} of {len(order)}")
        self._epoch, self._position, self._order = epoch, position, order

    def _check(self) -> None:
        if not self._rows_by_task:
            raise ValueError("there are no rows to order; see `o3rl data import`")
        for task, weight in self._weights.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"weight of {task.value!r} is {weight!r}; it must be 0 or more")
            if task not in self._rows_by_task:
                raise ValueError(f"{task.value!r} has a weight, but no row is of that task")
        if self.per_epoch < LEAST_PER_EPOCH:
            raise ValueError(
                f"with the weights {self._weights} an epoch holds {self.per_epoch:g} rows on "
                f"average; it must be {LEAST_PER_EPOCH} or more"
            )

    def _enter_next_while_done(self) -> None:
        """Small weights can leave epochs empty: those are passed over."""
        while self._position == len(self._order):
            self._epoch, self._position = self._epoch + 1, 0
            self._order = self.rows_of(self._epoch)

    def _share(self, task: Task, rows: list[int], epoch: int) -> list[int]:
        """A task's rows of one epoch: a window that moves over seeded permutations of its rows."""
        per_epoch = self._weights.get(task, 1.0) * len(rows)
        # Rounded first, so that 10 × 0.1 rows are one.
        begin, end = (math.floor(round(at * per_epoch, 6)) for at in (epoch, epoch + 1))
        passes = [
            (number, max(begin, number * len(rows)), min(end, (number + 1) * len(rows)))
            for number in range(begin // len(rows), -(-end // len(rows)))
        ]
        share = []
        for number, first, last in passes:
            permuted = random.Random(f"{self._seed} {task.value} pass {number}").sample(
                rows, len(rows)
            )
            share += permuted[first - number * len(rows) : last - number * len(rows)]
        return share
