"""The metrics of one step, by flat slash names, from its scored groups."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import fmean
from time import perf_counter

from o3rl.types import (
    FinishReason,
    Reward,
    Rollout,
    ScoredGroup,
    Task,
    Version,
    makes_claim,
    without_format,
)


@contextmanager
def timed(name: str, metrics: dict[str, float]) -> Iterator[None]:
    """Enter the seconds that the block took as `metrics[name]`."""
    start = perf_counter()
    yield
    metrics[name] = perf_counter() - start


class ScoringTime:
    """What scoring takes of a batch, as metrics in seconds.

    `scoring/seconds`: of the scorer processes, by `spent`, their seconds at work so far.
    `scoring/tail_seconds`: of the learner's wait for the batch, what came after the last group was
    sampled; as groups are scored while others are still being sampled, and while the learner is at
    work on the batch before, that is all by which scoring lengthens a step.
    """

    def __init__(self, spent: Callable[[], float], *, clock: Callable[[], float] = perf_counter):
        self._spent, self._clock = spent, clock
        self._before = spent()
        self._last_sampled = clock()

    def sampled(self) -> None:
        """A group has come and goes to the scorers."""
        self._last_sampled = self._clock()

    def metrics(self, waited: float) -> dict[str, float]:
        """Of the batch that ends now, for which the learner `waited`; the next one begins."""
        spent = self._spent()
        worked, self._before = spent - self._before, spent
        tail = min(waited, self._clock() - self._last_sampled)
        return {"scoring/seconds": worked, "scoring/tail_seconds": tail}


class IdleTime:
    """Seconds in which nothing ran."""

    def __init__(self, *, clock: Callable[[], float] = perf_counter):
        self._clock = clock
        self._since: float | None = clock()
        self._seconds = 0.0

    def note(self, running: int) -> None:
        """So many run from now on."""
        now = self._clock()
        if self._since is not None:
            self._seconds += now - self._since
        self._since = None if running else now

    def take(self, running: int) -> float:
        """Those since the last call; so many run now."""
        self.note(running)
        seconds, self._seconds = self._seconds, 0.0
        return seconds


def batch_metrics(groups: Sequence[ScoredGroup], version: Version) -> dict[str, float]:
    """Rewards by part, what the reward logs beside them, lengths, spread, age; means over rollouts.

    A part or metric that only some tasks have is averaged over those that have it.
    """
    rewards = [reward for group in groups for reward in group.rewards_G]
    rollouts = [rollout for group in groups for rollout in group.group.rollouts_G]
    ages = [version.n - 1 - rollout.version.n for rollout in rollouts]
    return {
        "reward/total": fmean(reward.total for reward in rewards),
        **_means("reward", [reward.parts for reward in rewards]),
        **_means("evidence", [reward.metrics for reward in rewards]),
        **_claim_metrics(rewards),
        **_lengths(rollouts),
        "groups/zero_spread": fmean(not any(group.advantages_G) for group in groups),
        "groups/failures": sum(len(group.group.failures) for group in groups),
        "groups/attempts": fmean(group.group.prompt.attempt + 1 for group in groups),
        "progress": fmean(group.group.prompt.progress for group in groups),
        "stale/mean": fmean(ages),
        "stale/max": max(ages),
    }


def _means(family: str, values: Sequence[dict[str, float]]) -> dict[str, float]:
    names = sorted({name for each in values for name in each})
    return {
        f"{family}/{name}": fmean(each[name] for each in values if name in each) for name in names
    }


def _claim_metrics(rewards: Sequence[Reward]) -> dict[str, float]:
    claims = [claim for reward in rewards for claim in reward.claims]
    if not claims:
        return {}
    return {"evidence/claim_iou": fmean(claim.iou for claim in claims)}


def _lengths(rollouts: Sequence[Rollout]) -> dict[str, float]:
    return {
        "length/mean": fmean(len(rollout.tokens_T) for rollout in rollouts),
        "length/max": max(len(rollout.tokens_T) for rollout in rollouts),
        "length/truncated": fmean(rollout.finish is FinishReason.LENGTH for rollout in rollouts),
        "tokens/sampled": sum(len(rollout.tokens_T) for rollout in rollouts),
    }


def evidence_metrics(
    groups: Sequence[ScoredGroup], *, weights: Mapping[str, float] | None = None
) -> dict[str, float]:
    """`reward/total_without_format`; `evidence/time_proximity` (point reward at σ = 1 s) and
    `evidence/gated_box_iou` (spatial part), absent where no rollout makes a claim.

    `weights` are those of the reward's parts (1 where not named).
    """
    format_weight = (weights or {}).get("format", 1.0)
    rewards = [reward for group in groups for reward in group.rewards_G]
    claiming = [
        reward
        for group in groups
        if group.group.prompt.row.task is Task.TEMPORAL_SPATIAL
        for reward in group.rewards_G
        if makes_claim(reward)
    ]
    values = {
        "reward/total_without_format": [without_format(r, format_weight) for r in rewards],
        "evidence/time_proximity": [r.metrics["point_sigma1"] for r in claiming],
        "evidence/gated_box_iou": [r.parts["thk_spatial"] for r in claiming],
    }
    return {name: fmean(found) for name, found in values.items() if found}
