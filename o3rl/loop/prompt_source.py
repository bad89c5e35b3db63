"""Turns rows into prompts: in a seeded order, with frames planned, at a fixed progress p.

The media of the next few rows are read ahead, so that a prompt is ready when there is room for it;
prompts are handed out in the order of their rows, whichever is read first. A row whose media cannot
be read, or that is `unfit`, is skipped, counted and entered in the ledger; where the fault is the
service's and not the file's, it is read again first, later each time. When two epochs of rows
fail one after the other, nothing is left to train on, and that is an error.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from o3rl.data.row_order import RowOrder
from o3rl.loop.roles import Media
from o3rl.persistence.ledger import Ledger
from o3rl.text.truth import only_teaches
from o3rl.types import Failure, FailureKind, FramePlan, Prompt, Row

logger = logging.getLogger(__name__)

PAUSE = 1.0  # seconds before a row is read again, twice as many the next time

Unfit = Callable[[Row, FramePlan], str]  # why a row makes no prompt; empty where it does


async def prepared(
    media: Media, row: Row, *, training: bool, attempts: int, pause: float = PAUSE
) -> tuple[FramePlan, str] | Failure:
    """What `Media.prepare` gives, asked up to `attempts` times where a fault is the service's."""
    for again in range(1, attempts + 1):
        found = await media.prepare(row, training=training)
        if not isinstance(found, Failure) or found.kind is not FailureKind.SERVICE:
            return found
        logger.warning("%s: %s; tries left: %d", row.media, found.reason, attempts - again)
        if again < attempts:
            await asyncio.sleep(pause * 2 ** (again - 1))
    return found


def longer_than(tokens: int, *, side: int) -> Unfit:
    """Unfit for RL are rows that can only be taught, and those whose frames alone take more than
    `tokens`; `side` as in `FramePlan.tokens`.

    What the text adds is known to the engine, which refuses those that it makes too long.
    """

    def unfit(row: Row, plan: FramePlan) -> str:
        if reason := only_teaches(row):
            return f"fit for SFT only: {reason}"
        seen = plan.tokens(side)
        too_long = f"frames take {seen} tokens; sampling and rollouts allow a prompt {tokens}"
        return too_long if seen > tokens else ""

    return unfit


def cannot_teach(row: Row, plan: FramePlan) -> str:
    """Unfit for SFT are rows without reasoning, or of an older import that left its tags in it."""
    del plan
    if row.reasoning is None:
        return "no reasoning_process"
    return "its reasoning holds <think>: import it again" if "<think>" in row.reasoning else ""


@dataclass(frozen=True, slots=True)
class _Open:
    """A prompt that was handed out, and is neither trained nor set aside yet."""

    group: int
    row: int  # index
    epoch: int
    progress: float


@dataclass(frozen=True, slots=True)
class _Coming:
    """A row whose media are being read. `place` is the order's before it was taken."""

    row: int  # index
    epoch: int
    media: "asyncio.Task[tuple[FramePlan, str] | Failure]"
    place: dict[str, int | str]
    opened: _Open | None = None  # it was handed out before the run was resumed


class PromptSource:
    """Admits the prompts of a run. `planned` prompts are p = 1; `ahead` rows are read early, each
    up to `attempts` times where the service fails, `pause` seconds later and then twice as many.

    A run that goes on from a checkpoint first admits again what was open in it: the same rows under
    the same group numbers, at the same progress.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        order: RowOrder,
        media: Media,
        ledger: Ledger,
        *,
        planned: int,
        ahead: int = 0,
        attempts: int = 1,
        pause: float = PAUSE,
        unfit: Unfit = lambda _row, _plan: "",
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
        self._attempts = attempts
        self._pause = pause
        self._unfit = unfit
        self._admitted = 0
        self._incarnation = 0
        self._next_group = 0
        self._failed_in_a_row = 0
        self._open: dict[int, _Open] = {}
        self._again: deque[_Open] = deque()
        self._coming: deque[_Coming] = deque()
        self._turn = asyncio.Lock()

    async def next(self) -> Prompt:
        """The next prompt; raises ValueError when no row makes one any more."""
        async with self._turn:
            reason = ""
            while self._failed_in_a_row < 2 * len(self._rows):
                self._read_ahead()
                coming = self._coming[0]
                found = await coming.media
                self._coming.popleft()
                if not isinstance(found, Failure):
                    self._failed_in_a_row = 0
                    return self._handed_out(coming, *found)
                reason = found.reason
                self._failed_in_a_row += 1
                self._skip(coming, reason)
        raise ValueError(
            f"none of {len(self._rows)} rows makes a prompt; the last: {reason}; is data.media the "
            "folder that the rows' paths start from?"
        )

    def settle(self, prompt: Prompt) -> None:
        """A prompt was trained or set aside: it is not admitted again."""
        del self._open[prompt.group]

    async def close(self) -> None:
        """End what is read ahead; those rows are not taken."""
        for coming in self._coming:
            coming.media.cancel()
        await asyncio.gather(*(c.media for c in self._coming), return_exceptions=True)
        if self._coming:
            self._order.restore(self._coming[0].place)
            again = [coming.opened for coming in self._coming if coming.opened]
            self._again.extendleft(reversed(again))
            self._coming.clear()
        self._turn = asyncio.Lock()  # of no event loop yet

    def state(self) -> dict[str, Any]:
        """Plain values from which `restore` goes on; rows that are read ahead are not taken."""
        return {
            "order": self._coming[0].place if self._coming else self._order.state(),
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

    def _read_ahead(self) -> None:
        """Begin to read rows until one is coming, and `ahead` more if so many are planned."""
        while not self._coming or (
            len(self._coming) <= self._ahead
            and (self._again or self._admitted + len(self._coming) < self._planned)
        ):
            place, epoch = self._order.state(), self._order.epoch
            opened = self._again.popleft() if self._again else None
            row = opened.row if opened else self._order.take(1)[0]
            media = asyncio.create_task(self._prepare(self._rows[row]))
            self._coming.append(_Coming(row, epoch, media, place, opened))

    async def _prepare(self, row: Row) -> tuple[FramePlan, str] | Failure:
        found = await prepared(
            self._media, row, training=True, attempts=self._attempts, pause=self._pause
        )
        if isinstance(found, Failure):
            return found
        reason = self._unfit(row, found[0])
        return Failure(None, None, reason, FailureKind.PROMPT) if reason else found

    def _handed_out(self, coming: _Coming, plan: FramePlan, key: str) -> Prompt:
        """Its progress is its place among all that were handed out."""
        opened = coming.opened
        if opened is None:
            progress = min(self._admitted / self._planned, 1.0)
            opened = _Open(self._number(), coming.row, coming.epoch, progress)
            self._admitted += 1
            self._open[opened.group] = opened
        row, progress = self._rows[coming.row], opened.progress
        prompt = Prompt(opened.group, row, plan, key, progress, self._incarnation)
        self._ledger.admit(prompt, epoch=opened.epoch)
        return prompt

    def _skip(self, coming: _Coming, reason: str) -> None:
        self.skipped += 1
        row, epoch = self._rows[coming.row], coming.epoch
        if coming.opened is None:
            group = self._number()
        else:
            group, epoch = coming.opened.group, coming.opened.epoch
            del self._open[group]
        self._ledger.skip(group, row.id, reason, epoch=epoch)
        logger.warning("row %s is skipped: %s", row.id, reason)

    def _number(self) -> int:
        number, self._next_group = self._next_group, self._next_group + 1
        return number
