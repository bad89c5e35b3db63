"""Evaluation: every row of a set is answered, greedily or several times, and scored at p = 1.

A row whose media cannot be read, or whose answers an infrastructure fault took, has no responses;
it is counted as failed with its reason and never as a zero.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from o3rl.concurrency import gather_first_error
from o3rl.evaluation.measures import Scored
from o3rl.loop.prompt_source import prepared
from o3rl.loop.roles import Answerer, Media, Scorers
from o3rl.text.truth import only_teaches
from o3rl.types import Failure, FailureKind, Group, Prompt, Reward, Row

logger = logging.getLogger(__name__)

ATTEMPTS = 3  # of a row that an infrastructure fault took


@dataclass(frozen=True, slots=True)
class Decoding:
    """How the answers are decoded."""

    samples: int
    temperature: float


GREEDY = Decoding(1, 0.0)
SAMPLED = Decoding(4, 1.0)


@dataclass(frozen=True, slots=True)
class Answered:
    """A row with its responses; none, and a reason, if it failed."""

    row: Row
    group: Group | None
    rewards: tuple[Reward, ...]
    reason: str = ""

    @property
    def scored(self) -> tuple[Scored, ...]:
        """What `o3rl.evaluation.measures.summary` takes."""
        if self.group is None:
            return ()
        pairs = zip(self.group.rollouts_G, self.rewards, strict=True)
        return tuple(Scored(self.row, rollout.text, reward) for rollout, reward in pairs)


@dataclass(frozen=True, slots=True)
class Evaluator:
    """Answers rows with what it is given; at most `at_once` prompts are in flight."""

    media: Media
    answerer: Answerer
    scorers: Scorers
    at_once: int = 32

    async def run(
        self, rows: Sequence[Row], decoding: Decoding, advance: Callable[[], None] = lambda: None
    ) -> list[Answered]:
        """One `Answered` per row, in order; `advance` is called as each is done."""
        room = asyncio.Semaphore(self.at_once)

        async def one(number: int, row: Row) -> Answered:
            async with room:
                answered = await self._one(number, row, decoding)
            advance()
            return answered

        answered = await gather_first_error(one(i, row) for i, row in enumerate(rows))
        reasons = Counter(each.reason for each in answered if each.reason)
        for reason, count in reasons.items():
            logger.warning("%d of %d rows have no answer: %s", count, len(rows), reason)
        return answered

    async def _one(self, number: int, row: Row, decoding: Decoding) -> Answered:
        found = await prepared(self.media, row, training=False, attempts=ATTEMPTS)
        if isinstance(found, Failure):
            return Answered(row, None, (), found.reason)
        plan, key = found
        prompt = Prompt(number, row, plan, key, progress=1.0)
        group = await self._answer(prompt, decoding)
        if isinstance(group, Failure):
            return Answered(row, None, (), group.reason)
        rewards = await self.scorers.score(group)
        failed = [reward for reward in rewards if isinstance(reward, Failure)]
        if failed:
            return Answered(row, None, (), failed[0].reason)
        return Answered(row, group, tuple(r for r in rewards if isinstance(r, Reward)))

    async def _answer(self, prompt: Prompt, decoding: Decoding) -> Group | Failure:
        """Tried again where an infrastructure fault took it: models are compared on equal rows."""
        group: Group | Failure = Failure(
            prompt.group, None, "it was not asked", FailureKind.SERVICE
        )
        for attempt in range(ATTEMPTS):
            group = await self.answerer.sample_group(
                replace(prompt, attempt=attempt),
                n=decoding.samples,
                temperature=decoding.temperature,
            )
            if isinstance(group, Group) or group.final:
                break
            logger.info("row %s, attempt %d: %s", prompt.row.id, attempt, group.reason)
        return group


def spread(rows: Sequence[Row], count: int) -> list[Row]:
    """At most `count` rows that rewards can measure, the tasks in turn; the same for the same."""
    by_task: dict[str, list[Row]] = {}
    for row in rows:
        if not only_teaches(row):
            by_task.setdefault(row.task, []).append(row)
    chosen: list[Row] = []
    while len(chosen) < count and any(by_task.values()):
        chosen += [waiting.pop(0) for waiting in by_task.values() if waiting]
    return chosen[:count]
