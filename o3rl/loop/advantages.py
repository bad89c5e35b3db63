"""From the rewards of one group to its advantages."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean, stdev

from o3rl.config import Advantages
from o3rl.types import Failure, FailureKind, Group, Reward, ScoredGroup


def group_advantages(
    totals_G: Sequence[float], form: Advantages = Advantages.scaled
) -> tuple[float, ...]:
    """Distances from the mean; a group without spread teaches nothing: zeros.

    scaled: (r − mean) / (std + 1e-4), std unbiased, as the released Open-o3 Video code has it (from
    GRPO, arXiv 2402.03300). mean_only: r − mean (Dr. GRPO, arXiv 2503.20783). leave_one_out: r less
    the mean of the others (RLOO, arXiv 2402.14740), which is (r − mean)·G/(G − 1). Raises
    ValueError for fewer than two.
    """
    if len(totals_G) < 2:
        raise ValueError(f"a group of {len(totals_G)} rollouts has no advantages; it needs 2")
    if max(totals_G) == min(totals_G):
        return (0.0,) * len(totals_G)
    mean, count = fmean(totals_G), len(totals_G)
    scale = {
        Advantages.scaled: 1 / (stdev(totals_G) + 1e-4),
        Advantages.mean_only: 1.0,
        Advantages.leave_one_out: count / (count - 1),
    }[form]
    return tuple((total - mean) * scale for total in totals_G)


def scored(
    group: Group,
    rewards: Sequence[Reward | Failure],
    min_group: int,
    form: Advantages = Advantages.scaled,
) -> ScoredGroup | Failure:
    """The group with advantages over its surviving siblings, or a Failure if too few survive."""
    pairs = zip(group.rollouts_G, rewards, strict=True)
    kept = [(rollout, reward) for rollout, reward in pairs if isinstance(reward, Reward)]
    failures = (*group.failures, *(r for r in rewards if isinstance(r, Failure)))
    if len(kept) < min_group:
        reasons = "; ".join(sorted({failure.reason for failure in failures}))
        return Failure(
            group.prompt.group,
            None,
            f"{len(kept)} of {len(rewards)} rollouts survive: {reasons}",
            FailureKind.COMPLETION,
        )
    rollouts, survivors = zip(*kept, strict=True)
    return ScoredGroup(
        replace(group, rollouts_G=rollouts, failures=failures),
        survivors,
        group_advantages([reward.total for reward in survivors], form),
    )
