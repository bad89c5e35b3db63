"""What the loop itself costs: it is run on fakes that take a set time and answer at real size.

A fake replica samples one group at a time. Its answer is unpickled as one that came over the wire:
2,400 prompt tokens and 8 completions of 256 tokens with log-probabilities. Everything else is the
real loop, dispatcher, window, prompt source and ledger. Times are of fakes that sleep, so the
figures hold for any number of them on one core.
"""

import asyncio
import pickle
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from time import perf_counter, process_time

from o3rl.config import LoopConfig
from o3rl.data.row_order import RowOrder
from o3rl.loop.loop import Loop
from o3rl.loop.prompt_source import PromptSource
from o3rl.loop.roles import Learner, Media, Sampler, Scorers, WeightTransfer
from o3rl.persistence.ledger import Ledger
from o3rl.types import (
    FinishReason,
    FramePlan,
    Group,
    Prompt,
    Reward,
    Rollout,
    Row,
    ScoredGroup,
    Task,
    Truth,
    Version,
)

PROMPT_TOKENS, TOKENS, SAMPLES = 2400, 256, 8
ROWS = 512
WARM_STEPS = 2  # left out of a median


def payload(version: Version) -> bytes:
    """A group's rollouts and prompt tokens of real size, pickled."""
    tokens, logprobs = tuple(range(TOKENS)), (-0.5,) * TOKENS
    text = "<think>" + "word " * TOKENS + "</think>"
    rollouts = tuple(
        Rollout(0, index, tokens, logprobs, ((0, version),), FinishReason.STOP, text)
        for index in range(SAMPLES)
    )
    return pickle.dumps((rollouts, tuple(range(PROMPT_TOKENS))))


def fake_group(prompt: Prompt, body: bytes) -> Group:
    """The group that came as `body`."""
    rollouts, tokens = pickle.loads(body)
    return Group(prompt, rollouts, tokens, "digest")


@dataclass(frozen=True, slots=True)
class Rate:
    """How `replicas` fakes of a set time a group were kept busy."""

    replicas: int
    groups: int
    efficiency: float  # share of its time that a replica was at work, their mean
    controller_ms: float  # CPU milliseconds of the controller's process a group


class FakePool:
    """A pool of `replicas`: `call(prompt, version)` gives a group's pickled body after its time."""

    def __init__(self, replicas: int, call: Callable[[int, Version], Awaitable[bytes]]):
        self._free: asyncio.Queue[int] = asyncio.Queue()
        for replica in range(replicas):
            self._free.put_nowait(replica)
        self._call = call
        self._version = Version(0, 0)
        self.ends: list[list[float]] = [[] for _ in range(replicas)]

    async def sample(self, prompt: Prompt) -> Group:
        """A group, when a replica is free."""
        replica = await self._free.get()
        try:
            group = fake_group(prompt, await self._call(replica, self._version))
        finally:
            self._free.put_nowait(replica)
        self.ends[replica].append(perf_counter())
        return group

    async def hand_over(
        self, version: Version
    ) -> tuple[Mapping[str, float], Awaitable[Mapping[str, float]]]:
        """Nothing has to be loaded."""
        self._version = version
        return {}, asyncio.sleep(0, {})


class Sleepers:
    """Replicas of this process, that sleep."""

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._bodies: dict[Version, bytes] = {}

    async def __call__(self, replica: int, version: Version) -> bytes:
        del replica
        if version not in self._bodies:
            self._bodies = {version: payload(version)}
        body = self._bodies[version]
        await asyncio.sleep(self._seconds)
        return body


class _Media:
    async def prepare(self, row: Row, *, training: bool) -> tuple[FramePlan, str]:
        del training
        return FramePlan((0, 10), (0.0, 4.0), (112, 112), 8.0), row.id


class _Scorers:
    seconds = 0.0

    async def score(self, group: Group) -> tuple[Reward, ...]:
        return tuple(Reward({"ans_acc": float(r.sample % 2)}, 1.0) for r in group.rollouts_G)


class _Learner:
    failures = ()

    def __init__(self, seconds: float):
        self._seconds = seconds

    async def update(self, groups: Sequence[ScoredGroup]) -> Mapping[str, float]:
        del groups
        await asyncio.sleep(self._seconds)
        return {}


class Steps:
    """An observer that keeps the seconds of each step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def stepped(
        self, step: int, version: Version, groups: Sequence[ScoredGroup], metrics: dict[str, float]
    ) -> None:
        """One step."""
        del step, version, groups
        self.seconds.append(metrics["seconds/step"])


def make_loop(
    settings: LoopConfig,
    rows: Sequence[Row],
    media: Media,
    *,
    steps: int,
    sampler: Sampler,
    scorers: Scorers,
    learner: Learner,
    weights: WeightTransfer,
) -> tuple[Loop, Steps]:
    """The real loop on these services, and what keeps the time of its steps."""
    ledger, planned = Ledger(), steps * settings.groups
    order = RowOrder([row.task for row in rows], 0)
    source = PromptSource(rows, order, media, ledger, planned=planned, ahead=settings.groups)
    loop = Loop(
        settings,
        source,
        ledger,
        sampler=sampler,
        scorers=scorers,
        learner=learner,
        weights=weights,
        longest=TOKENS,
    )
    watched = Steps()
    loop.observe(watched)
    return loop, watched


def fake_loop(
    sampler: FakePool, *, groups: int, steps: int, staleness: int, learn_seconds: float
) -> tuple[Loop, Steps]:
    """The same where all services are fakes."""
    rows = [
        Row(f"row-{i}", Task.MCQ, "bench", "Which?", f"{i}.mp4", Truth("A", letter="A"))
        for i in range(ROWS)
    ]
    return make_loop(
        LoopConfig(groups=groups, max_staleness=staleness),
        rows,
        _Media(),
        steps=steps,
        sampler=sampler,
        scorers=_Scorers(),
        learner=_Learner(learn_seconds),
        weights=sampler,
    )


async def rate(sampler: FakePool, replicas: int, *, seconds: float, rounds: int) -> Rate:
    """Time at work against linear: every replica is given `rounds` groups and more, one by one.

    The time between two answers of a replica is its own `seconds`, and what it waited for work.
    """
    groups = max(4, replicas)
    steps = -(-replicas * (rounds + 2) // groups)
    loop, _ = fake_loop(sampler, groups=groups, steps=steps, staleness=1, learn_seconds=0.0)
    began = process_time()
    await loop.run(steps)
    spent = process_time() - began
    ends = [times[: rounds + 1] for times in sampler.ends]
    if starved := sum(len(times) < 2 for times in ends):
        raise RuntimeError(f"{starved} of {replicas} replicas were given less than two groups")
    cycle = fmean((times[-1] - times[0]) / (len(times) - 1) for times in ends)
    done = steps * groups
    return Rate(replicas, done, seconds / cycle, 1000 * spent / done)


@dataclass(frozen=True, slots=True)
class Overlap:
    """A step against the longer one of its two halves, with versions up to `staleness` apart."""

    staleness: int
    rollout_seconds: float
    learn_seconds: float
    step_seconds: float

    @property
    def ratio(self) -> float:
        """1 where the shorter half hides behind the longer one."""
        return self.step_seconds / max(self.rollout_seconds, self.learn_seconds)


async def overlap(*, staleness: int, groups: int, seconds: float, steps: int) -> Overlap:
    """Balanced fakes: sampling a batch takes as long as learning from it."""
    sampler = FakePool(groups, Sleepers(seconds))
    loop, watched = fake_loop(
        sampler, groups=groups, steps=steps, staleness=staleness, learn_seconds=seconds
    )
    await loop.run(steps)
    return Overlap(staleness, seconds, seconds, median(watched.seconds[WARM_STEPS:]))
