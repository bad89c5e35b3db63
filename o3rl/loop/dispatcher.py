"""The stream of groups: prompts are admitted, sampled, scored, tried again; as many as there is
room for in the staleness window, while the learner is at work on others.

    admission ─► prompt ─► sampler ─► group ─► scorers ─► scored group ─► window ─► batch
                   ▲ again: a fault, too few survivors, a straggler      (the next prompt, when
                   └─── at most `max_attempts`, if not final ───────┘     that was the last try)

Laws: every admitted prompt ends in a batch or is set aside with a reason (a group without spread
too, where `refill_zero_spread` gives its place to the next prompt); an answer to a superseded
attempt is thrown away; no batch holds a group older than `max_staleness`. Time limits belong to
sampler and scorers, which know whom they wait for; the wait for stragglers is bounded here.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from o3rl import config
from o3rl.loop.advantages import scored
from o3rl.loop.prompt_source import PromptSource
from o3rl.loop.roles import Sampler, Scorers
from o3rl.loop.staleness import StalenessWindow
from o3rl.loop.step_metrics import IdleTime, ScoringTime
from o3rl.persistence.ledger import TRAINED, Ledger
from o3rl.types import Failure, FailureKind, Group, Prompt, ScoredGroup, Version

logger = logging.getLogger(__name__)

NO_SPREAD = "no advantage in it: it teaches nothing, and another prompt took its place"


@dataclass(slots=True)
class _Attempt:
    """A sampling that runs; `ended` says why it was ended from outside."""

    task: asyncio.Task[ScoredGroup | Failure]
    started: float  # by the event loop's clock
    ended: str = ""


class Dispatcher:
    """Scored groups in batches. Use it from one event loop; `close` it."""

    def __init__(
        self,
        settings: config.LoopConfig,
        admission: PromptSource,
        ledger: Ledger,
        *,
        sampler: Sampler,
        scorers: Scorers,
        longest: int,
    ):
        """`longest`: tokens that a completion may have."""
        self.set_aside = 0
        self.refilled = 0  # groups without spread that gave their place to another prompt
        self.stragglers = 0  # attempts that were ended because they would have grown too old
        self.straggler_seconds = 0.0  # that those had run
        self._longest = longest
        self.scoring = ScoringTime(lambda: scorers.seconds)
        self._settings = settings
        self._admission = admission
        self._ledger = ledger
        self._sampler = sampler
        self._scorers = scorers
        self._window = StalenessWindow(settings.groups, settings.max_staleness)
        self._serving = Version(0, 0)
        self._coming = Version(0, 0)
        self._idle = IdleTime()
        self._places: set[asyncio.Task[None]] = set()
        self._attempts: dict[int, _Attempt] = {}
        self._changed = asyncio.Event()

    @property
    def running(self) -> int:
        """Prompts being sampled or scored."""
        return self._window.running

    @property
    def ready(self) -> int:
        """Scored groups that wait for the learner."""
        return self._window.ready

    def metrics(self) -> dict[str, float]:
        """Of the window at this moment, and what was given up so far.

        `queue/idle_seconds`: since the last call, in which no prompt was being sampled or scored.
        """
        return {
            "queue/idle_seconds": self._idle.take(self.running),
            "queue/running": self.running,
            "queue/ready": self.ready,
            "queue/stragglers": self.stragglers,
            "queue/straggler_seconds": self.straggler_seconds,
            "prompts/skipped": self._admission.skipped,
            "prompts/set_aside": self.set_aside,
            "prompts/no_spread": self.refilled,
        }

    def expect(self, version: Version) -> None:
        """Some replicas may sample by `version` from now on."""
        self._coming = version

    def serve(self, version: Version) -> None:
        """What is started from now on is sampled by `version`, or by a later one."""
        self._serving = version

    def fill(self, needed: int) -> None:
        """Start prompts wherever there is room, if so many are `needed` in all."""
        for _ in range(self._window.occupy(needed)):
            place = asyncio.create_task(self._place())
            self._places.add(place)
            place.add_done_callback(lambda _: self._changed.set())

    async def batch(self, version: Version) -> list[ScoredGroup]:
        """The next batch, for the step on the weights `version`. Raises what a place raised.

        When a batch is ready but taking it would let running groups grow too old, those are waited
        for `straggler_seconds`; then they are ended, and their prompts start afresh.
        """
        now = asyncio.get_running_loop().time
        patience: float | None = None  # until then
        while True:
            self._raise_faults()
            late = self._window.late(version.n)
            if self._window.ready < self._settings.groups:
                patience = None
            elif not late:
                return self._window.take()
            elif patience is None:
                patience = now() + self._settings.straggler_seconds
            elif now() >= patience:
                self._end(late)
                patience = None
            await self._change(None if patience is None else patience - now())

    def trained(self, prompts: Sequence[Prompt], refused: dict[int, str], version: Version) -> None:
        """Enter the batch that the step to `version` has trained, less those that it refused."""
        self._window.trained()
        self._ledger.train((p for p in prompts if p.group not in refused), version)
        for prompt in prompts:
            self._admission.settle(prompt)
            if prompt.group in refused:
                self._count_out(prompt, f"refused by the learner: {refused[prompt.group]}")

    async def close(self) -> None:
        """End what runs; those prompts stay admitted and untrained."""
        for place in self._places:
            place.cancel()
        await asyncio.gather(*self._places, return_exceptions=True)
        self._places.clear()
        await self._admission.close()
        self._changed = asyncio.Event()  # of no event loop yet

    async def _place(self) -> None:
        """One place of the window: prompts are admitted until one gives a group to keep."""
        refills = self._settings.refill_zero_spread
        while True:
            prompt = await self._admission.next()
            group = await self._tried(prompt)
            if group is None:
                continue
            if any(group.advantages_G) or not refills:
                self._window.finish(group, _oldest(group.group))
                self._idle.note(self.running)
                return
            refills -= 1
            self.refilled += 1
            self._leave(prompt)
            self._admission.settle(prompt)
            self._ledger.set_aside(prompt, NO_SPREAD)

    async def _tried(self, prompt: Prompt) -> ScoredGroup | None:
        """Attempts until one gives a group; None if none did, and the prompt is set aside."""
        while True:
            result = await self._attempt(prompt)
            if isinstance(result, ScoredGroup):
                return result
            self._leave(prompt)
            if result.final or prompt.attempt + 1 >= self._settings.max_attempts:
                self._set_aside(prompt, result.reason)
                return None
            prompt = replace(prompt, attempt=prompt.attempt + 1)
            self._ledger.retry(prompt, result.reason)
            logger.warning("prompt %d again: %s", prompt.group, result.reason)

    def _leave(self, prompt: Prompt) -> None:
        """It runs no more, and there is no group of it."""
        self._window.drop(prompt.group)
        self._idle.note(self.running)
        self._changed.set()

    async def _attempt(self, prompt: Prompt) -> ScoredGroup | Failure:
        """Sample and score once; a Failure where it was ended from outside."""
        self._window.start(prompt.group, self._serving.n)
        self._idle.note(self.running)
        self._changed.set()
        now = asyncio.get_running_loop().time()
        attempt = _Attempt(asyncio.create_task(self._scored(prompt, self._serving)), now)
        self._attempts[prompt.group] = attempt
        try:
            return await attempt.task
        except asyncio.CancelledError:
            place = asyncio.current_task()
            if place is None or place.cancelling():  # it is the place that is to end
                raise
            return Failure(prompt.group, None, attempt.ended, FailureKind.AGE)
        finally:
            del self._attempts[prompt.group]

    async def _scored(self, prompt: Prompt, started: Version) -> ScoredGroup | Failure:
        group = await self._sampler.sample(prompt)
        if isinstance(group, Failure):
            return group
        if group.prompt.attempt != prompt.attempt:
            return Failure(
                prompt.group,
                None,
                f"an answer to attempt {group.prompt.attempt} came",
                FailureKind.SERVICE,
            )
        if failure := self._refused(group, started):
            return failure
        self.scoring.sampled()
        rewards = await self._scorers.score(group)
        return scored(group, rewards, self._settings, longest=self._longest)

    def _refused(self, group: Group, started: Version) -> Failure | None:
        """A Failure for tokens of other weights than served since it started, or are to serve."""
        now = max(self._serving, self._coming)
        versions = {version for rollout in group.rollouts_G for _, version in rollout.spans}
        others = sorted(version for version in versions if not started <= version <= now)
        if not others:
            return None
        names = ", ".join(map(str, others))
        return Failure(
            group.prompt.group,
            None,
            f"sampled by version {names}; {started} to {now} were served",
            FailureKind.AGE,
        )

    def _end(self, late: Sequence[int]) -> None:
        for number in late:
            if number in self._attempts:
                limit = self._settings.straggler_seconds
                attempt = self._attempts[number]
                ran = asyncio.get_running_loop().time() - attempt.started
                attempt.ended = (
                    f"the learner waited {limit:g} s for it, and it would be too old; "
                    f"it had run {ran:.1f} s"
                )
                if attempt.task.cancel():
                    self.stragglers += 1
                    self.straggler_seconds += ran

    def _set_aside(self, prompt: Prompt, reason: str) -> None:
        logger.warning(
            "prompt %d (row %s) is set aside after %d attempts: %s",
            prompt.group,
            prompt.row.id,
            prompt.attempt + 1,
            reason,
        )
        self._admission.settle(prompt)
        self._count_out(prompt, reason)

    def _count_out(self, prompt: Prompt, reason: str) -> None:
        """Into the ledger; RuntimeError when more were set aside than trained."""
        self.set_aside += 1
        self._ledger.set_aside(prompt, reason)
        limit = max(self._settings.groups, 8)
        if self.set_aside >= limit and self.set_aside > self._ledger.counts().get(TRAINED, 0):
            raise RuntimeError(
                f"{self.set_aside} prompts were set aside and fewer trained; the last: {reason}"
            )

    def _raise_faults(self) -> None:
        for place in [each for each in self._places if each.done()]:
            self._places.discard(place)
            place.result()

    async def _change(self, seconds: float | None) -> None:
        """Until a place is done, at most `seconds`."""
        self._changed.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            pass


def _oldest(group: Group) -> int:
    return min(version.n for rollout in group.rollouts_G for _, version in rollout.spans)
