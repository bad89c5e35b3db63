"""Turns rows into prompts: in a seeded order, with frames planned, at a fixed progress p.

The media of the next few rows are read ahead, so that a prompt is ready when there is room for it.
A row whose media cannot be read is skipped, counted and entered in the ledger; the next one takes
its place. When two epochs of rows fail one after the other, nothing is left to train on, and that
is an error.
"""

import asyncio
import logging
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from o3rl.flow import Failure, FramePlan, Prompt, Row
from o3rl.ledger import Ledger
from o3rl.order import RowOrder

logger = logging.getLogger(__name__)

IN_FLIGHT = 64  # rows that may fail while good ones are still being read, where there are few rows


class Media(Protocol):
    """Plans and decodes the frames of a row, once, where rollouts and learner can read them."""

    async def prepare(self, row: Row, *, training: bool) -> tuple[FramePlan, str] | Failure:
        """(plan, key of the decoded frames), or why the media cannot be read."""
        ...


@dataclass(frozen=True, slots=True)
class _Open:
    """A row that was taken, and is neither trained nor skipped nor set aside yet."""

    group: int
    row: int  # index
    epoch: int
    progress: float


class Admission:
    """Admits the prompts of a run. `planned` prompts are p = 1; `ahead` are read before their turn.

    A run that goes on from a checkpoint first admits again what was open in it: the same rows under
    the same group numbers, at the same progress.
    """

    def __init__(
        self,
        rows: list[Row],
        order: RowOrder,
        media: Media,
        ledger: Ledger,
        *,
        planned: int,
        ahead: int = 0,
    ):
        if not rows:
            raise ValueError("there are no rows to train on")
        if planned < 1:
            raise ValueError(f"{planned} prompts are planned; a run needs 1 or more")
        self.skipped = 0
        self._rows = rows
        self._order = order
        self._media = media
        self._ledger = ledger
        self._planned = planned
        self._ahead = ahead
        self._coming: deque[asyncio.Task[tuple[Prompt, int]]] = deque()
        self._admitted = 0
        self._incarnation = 0
        self._next_group = 0
        self._failed_in_a_row = 0
        self._open: dict[int, _Open] = {}
        self._again: deque[_Open] = deque()

    async def next(self) -> Prompt:
        """The next prompt; raises ValueError when nothing can be read any more.

        Its progress is its place among the calls: it does not depend on which video is read first.
        """
        coming = self._coming.popleft() if self._coming else self._begin()
        while len(self._coming) < self._ahead and (self._again or self._admitted < self._planned):
            self._coming.append(self._begin())
        prompt, epoch = await coming
        self._ledger.admit(prompt, epoch=epoch)
        return prompt

    async def close(self) -> None:
        """End what is read ahead."""
        for coming in self._coming:
            coming.cancel()
        await asyncio.gather(*self._coming, return_exceptions=True)
        self._coming.clear()

    def settle(self, prompt: Prompt) -> None:
        """A prompt was trained or set aside: it is not admitted again."""
        del self._open[prompt.group]

    def state(self) -> dict[str, Any]:
        """Plain values from which `restore` goes on."""
        return {
            "order": self._order.state(),
            "admitted": self._admitted,
            "incarnation": self._incarnation,
            "next_group": self._next_group,
            "skipped": self.skipped,
            "open": [asdict(self._open[group]) for group in sorted(self._open)],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken, as a new incarnation."""
        self._order.restore(state["order"])
        self._incarnation = state["incarnation"] + 1
        self._admitted = state["admitted"]
        self._next_group = state["next_group"]
        self.skipped = state["skipped"]
        self._open = {each["group"]: _Open(**each) for each in state["open"]}
        self._again = deque(self._open.values())
        self._ledger.reopen(self._open)

    def _begin(self) -> "asyncio.Task[tuple[Prompt, int]]":
        """Take the next place, and read its media."""
        opened = self._again.popleft() if self._again else self._take(self._advance())
        self._open[opened.group] = opened
        return asyncio.create_task(self._prepared(opened))

    async def _prepared(self, opened: _Open) -> tuple[Prompt, int]:
        """The prompt of a place and its row's epoch: of the first row that can be read."""
        reason = ""
        while self._failed_in_a_row < 2 * len(self._rows) + IN_FLIGHT:
            row = self._rows[opened.row]
            prepared = await self._media.prepare(row, training=True)
            if not isinstance(prepared, Failure):
                self._failed_in_a_row = 0
                plan, key = prepared
                progress, incarnation = opened.progress, self._incarnation
                return Prompt(opened.group, row, plan, key, progress, incarnation), opened.epoch
            reason = prepared.reason
            self.skipped += 1
            self._failed_in_a_row += 1
            self._ledger.skip(opened.group, row.id, reason, epoch=opened.epoch)
            logger.warning("row %s is skipped: %s", row.id, reason)
            del self._open[opened.group]
            opened = self._take(opened.progress)
            self._open[opened.group] = opened
        raise ValueError(
            f"none of the media of {len(self._rows)} rows can be read; the last: {reason}; is "
            "data.media the folder that the rows' paths start from?"
        )

    def _advance(self) -> float:
        """The progress of the next place."""
        progress = min(self._admitted / self._planned, 1.0)
        self._admitted += 1
        return progress

    def _take(self, progress: float) -> _Open:
        """The next row of the order, under the next group number."""
        epoch = self._order.epoch
        [row] = self._order.take(1)
        group, self._next_group = self._next_group, self._next_group + 1
        return _Open(group, row, epoch, progress)
