"""The training loop: sample, score, learn, hand over the weights; again.

Written against protocols, so that it runs in milliseconds on fakes and unchanged on a cluster.
Its laws: every admitted prompt is trained exactly once or set aside with a reason; a batch is
trained on the weights that sampled it (`max_staleness` 0); within a batch, groups stream: each is
scored as soon as it is sampled, while others are still being sampled. Time limits belong to the
implementations, which know whom they wait for; none of the calls below waits for ever.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from o3rl import config
from o3rl.admission import Admission
from o3rl.advantages import group_advantages
from o3rl.flow import Failure, Group, Prompt, Reward, ScoredGroup, Version
from o3rl.ledger import TRAINED, Ledger
from o3rl.stepmetrics import ScoringTime, batch_metrics, timed
from o3rl.together import together

logger = logging.getLogger(__name__)


class Sampler(Protocol):
    """The rollout pool."""

    async def sample(self, prompt: Prompt) -> Group | Failure:
        """The group of a prompt, by the current weights; a Failure if it is to be tried again."""
        ...

    async def load(self, version: Version) -> Mapping[str, float]:
        """Every replica takes the published weights; returns seconds and bytes."""
        ...


class Scorers(Protocol):
    """The scorer pool. `seconds` is what its processes have spent on groups so far, summed."""

    @property
    def seconds(self) -> float:
        """Wall seconds, from a group's first call to its last answer."""
        ...

    async def score(self, group: Group) -> tuple[Reward | Failure, ...]:
        """One reward, or the reason for none, per rollout of the group, in order."""
        ...


class Learner(Protocol):
    """The learner group. `failures` are the groups that the latest update refused to train."""

    @property
    def failures(self) -> Sequence[Failure]:
        """By group number, with the reason."""
        ...

    async def update(self, groups: Sequence[ScoredGroup]) -> Mapping[str, float]:
        """Learn from one batch, in mini-batches; returns metrics."""
        ...

    async def publish(self, version: Version) -> Mapping[str, float]:
        """Make the weights available as `version`; returns seconds and bytes."""
        ...


class Observer(Protocol):
    """Is told what happens: tracking, checkpoints, validation, pages, the progress bar."""

    async def stepped(
        self, step: int, version: Version, groups: Sequence[ScoredGroup], metrics: dict[str, float]
    ) -> None:
        """After step `step` (from 1) made `version`; may add to `metrics`."""
        ...


class Loop:
    """Trains `steps` batches, and stops after the running one when `stop` was called."""

    def __init__(
        self,
        settings: config.Loop,
        admission: Admission,
        ledger: Ledger,
        *,
        sampler: Sampler,
        scorers: Scorers,
        learner: Learner,
        shuffle: Callable[[list[ScoredGroup]], list[ScoredGroup]] = list,
    ):
        self.version = Version(0, 0)
        self.step = 0
        self.set_aside = 0
        self._settings = settings
        self._admission = admission
        self._ledger = ledger
        self._sampler = sampler
        self._scorers = scorers
        self._learner = learner
        self._observers: list[Observer] = []
        self._shuffle = shuffle
        self._scoring = ScoringTime(lambda: scorers.seconds)
        self._stopping = False

    @property
    def trained(self) -> int:
        """Prompts, by the ledger."""
        return self._ledger.counts().get(TRAINED, 0)

    def observe(self, observer: Observer) -> None:
        """Tell `observer` of each step, after those that came before it."""
        self._observers.append(observer)

    def stop(self) -> None:
        """Finish the running step and return."""
        self._stopping = True

    async def run(self, steps: int) -> None:
        """Hand over the starting weights, then train until `steps` are done in all."""
        await self._hand_over({})
        while self.step < steps and not self._stopping:
            await self._train_one()

    def state(self) -> dict[str, int]:
        """Plain values from which `restore` goes on; to be taken between steps."""
        return {
            "step": self.step,
            "incarnation": self.version.incarnation,
            "n": self.version.n,
            "set_aside": self.set_aside,
        }

    def restore(self, state: Mapping[str, int]) -> None:
        """Go on where `state` was taken, as a new incarnation: no version names two weights."""
        self.step = state["step"]
        self.version = Version(state["incarnation"] + 1, state["n"])
        self.set_aside = state["set_aside"]

    async def _train_one(self) -> None:
        metrics: dict[str, float] = {}
        with timed("seconds/step", metrics):
            with timed("seconds/rollout", metrics):
                groups = await self._batch()
            metrics |= self._scoring.metrics()
            with timed("seconds/learn", metrics):
                metrics |= await self._learner.update(self._shuffle(groups))
            self.step += 1
            self.version = Version(self.version.incarnation, self.version.n + 1)
            self._enter(groups)
            await self._hand_over(metrics)
        metrics |= batch_metrics(groups, self.version)
        metrics["prompts/skipped"] = self._admission.skipped
        metrics["prompts/set_aside"] = self.set_aside
        for observer in self._observers:
            await observer.stepped(self.step, self.version, groups, metrics)

    def _enter(self, groups: Sequence[ScoredGroup]) -> None:
        """What became of each prompt of the batch, into the ledger."""
        refused = {failure.group: failure.reason for failure in self._learner.failures}
        prompts = [group.group.prompt for group in groups]
        self._ledger.train((p for p in prompts if p.group not in refused), self.version)
        for prompt in prompts:
            if prompt.group in refused:
                self._count_out(prompt, f"refused by the learner: {refused[prompt.group]}")

    async def _hand_over(self, metrics: dict[str, float]) -> None:
        with timed("seconds/sync", metrics):
            metrics |= await self._learner.publish(self.version)
            metrics |= await self._sampler.load(self.version)

    async def _batch(self) -> list[ScoredGroup]:
        """`groups` scored groups in order of their group numbers: the learner's input is the same
        whatever order they finished in."""
        groups = await together(self._one() for _ in range(self._settings.groups))
        return sorted(groups, key=lambda g: g.group.prompt.group)

    async def _one(self) -> ScoredGroup:
        """Admit prompts until one gives a group."""
        while True:
            prompt = await self._admission.next()
            while True:
                result = await self._attempt(prompt)
                if isinstance(result, ScoredGroup):
                    return result
                if prompt.attempt + 1 >= self._settings.max_attempts:
                    self._set_aside(prompt, result.reason)
                    break
                prompt = replace(prompt, attempt=prompt.attempt + 1)
                self._ledger.retry(prompt, result.reason)
                logger.warning("prompt %d again: %s", prompt.group, result.reason)

    def _set_aside(self, prompt: Prompt, reason: str) -> None:
        logger.warning(
            "prompt %d (row %s) is set aside after %d attempts: %s",
            prompt.group,
            prompt.row.id,
            prompt.attempt + 1,
            reason,
        )
        self._count_out(prompt, reason)

    def _count_out(self, prompt: Prompt, reason: str) -> None:
        """Into the ledger; RuntimeError when more were set aside than trained."""
        self.set_aside += 1
        self._ledger.set_aside(prompt, reason)
        limit = max(self._settings.groups, 8)
        if self.set_aside >= limit and self.set_aside > self.trained:
            raise RuntimeError(
                f"{self.set_aside} prompts were set aside and fewer trained; the last: {reason}"
            )

    async def _attempt(self, prompt: Prompt) -> ScoredGroup | Failure:
        group = await self._sampler.sample(prompt)
        if isinstance(group, Failure):
            return group
        if group.prompt.attempt != prompt.attempt:
            return Failure(prompt.group, -1, f"an answer to attempt {group.prompt.attempt} came")
        versions = {version for rollout in group.rollouts_G for _, version in rollout.spans}
        if versions - {self.version}:
            others = ", ".join(str(version) for version in sorted(versions - {self.version}))
            return Failure(
                prompt.group, -1, f"sampled by version {others}; {self.version} is the current one"
            )
        self._scoring.sampled()
        return scored(group, await self._scorers.score(group), self._settings.min_group)


def scored(
    group: Group, rewards: Sequence[Reward | Failure], min_group: int
) -> ScoredGroup | Failure:
    """The group with advantages over its surviving siblings, or a Failure if too few survive."""
    pairs = zip(group.rollouts_G, rewards, strict=True)
    kept = [(rollout, reward) for rollout, reward in pairs if isinstance(reward, Reward)]
    failures = (*group.failures, *(r for r in rewards if isinstance(r, Failure)))
    if len(kept) < min_group:
        reasons = "; ".join(sorted({failure.reason for failure in failures}))
        return Failure(
            group.prompt.group, -1, f"{len(kept)} of {len(rewards)} rollouts survive: {reasons}"
        )
    rollouts, survivors = zip(*kept, strict=True)
    return ScoredGroup(
        replace(group, rollouts_G=rollouts, failures=failures),
        survivors,
        group_advantages([reward.total for reward in survivors]),
    )
