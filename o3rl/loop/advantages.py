"""From the rewards of one group to its advantages."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean, stdev

from o3rl.config import Advantages, LoopConfig, Truncated
from o3rl.types import Failure, FailureKind, FinishReason, Group, Reward, Rollout, ScoredGroup


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
    settings: LoopConfig,
    *,
    longest: int,
) -> ScoredGroup | Failure:
    """The group with advantages over its surviving siblings, or a Failure if too few survive.

    A completion has at most `longest` tokens. The rewards stay what the scorers gave.
    """
    pairs = zip(group.rollouts_G, rewards, strict=True)
    kept = [(rollout, reward) for rollout, reward in pairs if isinstance(reward, Reward)]
    failures = (*group.failures, *(r for r in rewards if isinstance(r, Failure)))
    if len(kept) < settings.min_group:
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
        _advantages(rollouts, [reward.total for reward in survivors], settings, longest),
    )


def length_penalty(tokens: int, *, longest: int, soft: int) -> float:
    """Soft overlong punishment (DAPO, arXiv 2503.14476): 0 up to `longest` − `soft` tokens, from
    there a straight line to −1 at `longest`."""
    return -min(1.0, max(0.0, (tokens - (longest - soft)) / soft))


def _advantages(
    rollouts_G: Sequence[Rollout], totals_G: Sequence[float], settings: LoopConfig, longest: int
) -> tuple[float, ...]:
    """By what truncated completions are worth."""
    if settings.truncated is Truncated.penalised:
        soft = settings.soft_tokens
        totals_G = [
            total + length_penalty(len(rollout.tokens_T), longest=longest, soft=soft)
            for rollout, total in zip(rollouts_G, totals_G, strict=True)
        ]
    advantages_G = group_advantages(totals_G, settings.advantages)
    if settings.truncated is not Truncated.masked:
        return advantages_G
    return tuple(
        0.0 if rollout.finish is FinishReason.LENGTH else advantage
        for rollout, advantage in zip(rollouts_G, advantages_G, strict=True)
    )
