"""What one batch of scored groups looks like, as metrics of a step.

Names: `reward/PART` (unweighted means), `reward/total`, `reward/total_without_format`;
`evidence/…` over the temporal-spatial responses (those with a claim, for time_proximity,
gated_box_iou and gate_pass), so comparable along a run; `length/…` in tokens; `group/…`. A metric
that no response of the batch can tell is absent.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from o3rl.flow import Reward, ScoredGroup, Task
from o3rl.measure import makes_claim, without_format


PART_WORDS = {
    "ans_acc": "answer",
    "ans_tiou": "answer, temporal IoU",
    "ans_viou": "answer, box IoU",
    "thk_temporal_point": "thought, points in time",
    "thk_temporal_segment": "thought, times inside",
    "thk_spatial": "thought, boxes",
    "format": "format",
}


def rollout_metrics(
    groups: Sequence[ScoredGroup], *, weights: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Metrics over all rollouts of a batch; ValueError if there is none.

    `weights` are those of the reward's parts (1 where not named).
    """
    rewards = [reward for group in groups for reward in group.rewards_G]
    if not rewards:
        raise ValueError(f"no rollouts in {len(groups)} groups")
    format_weight = (weights or {}).get("format", 1.0)
    names = sorted({name for reward in rewards for name in reward.parts})
    return {
        "reward/total": _mean([reward.total for reward in rewards]),
        "reward/total_without_format": _mean(
            [without_format(reward, format_weight) for reward in rewards]
        ),
        **{f"reward/{name}": _mean([r.parts.get(name, 0.0) for r in rewards]) for name in names},
        **evidence_metrics(groups),
        **_lengths(groups),
        **_groups(groups),
    }


def rollout_table_rows(
    groups: Sequence[ScoredGroup], *, step: int, limit: int
) -> list[dict[str, Any]]:
    """At most `limit` rollouts as rows of the tracker's table, one of each group before a second.

    Columns: step, version, group, sample, task, question, truth, text, one per reward part, total,
    advantage, finish.
    """
    rows: list[dict[str, Any]] = []
    for place in range(max((len(group.rewards_G) for group in groups), default=0)):
        rows += [_table_row(group, place, step) for group in groups if place < len(group.rewards_G)]
    return rows[:limit]


def evidence_metrics(groups: Sequence[ScoredGroup]) -> dict[str, float]:
    """How well the temporal-spatial responses cite: shares and means in [0, 1]."""
    mine = [
        reward
        for group in groups
        if group.group.prompt.row.task is Task.TEMPORAL_SPATIAL
        for reward in group.rewards_G
    ]
    claiming = [reward for reward in mine if makes_claim(reward)]
    values: dict[str, list[float]] = {
        "claim_share": [float(makes_claim(reward)) for reward in mine],
        "recall": _metric(mine, "recall"),
        "time_proximity": _metric(claiming, "point_sigma1"),
        "gated_box_iou": [reward.parts["thk_spatial"] for reward in claiming],
        "gate_pass": [
            sum(not claim.gated for claim in reward.claims) / len(reward.claims)
            for reward in claiming
        ],
    }
    return {f"evidence/{name}": _mean(found) for name, found in values.items() if found}


def _table_row(scored: ScoredGroup, place: int, step: int) -> dict[str, Any]:
    row, rollout = scored.group.prompt.row, scored.group.rollouts_G[place]
    reward = scored.rewards_G[place]
    return {
        "step": step,
        "version": str(rollout.version),
        "group": rollout.group,
        "sample": rollout.sample,
        "task": str(row.task),
        "question": row.question,
        "truth": row.truth.text,
        "text": rollout.text,
        **reward.parts,
        "total": reward.total,
        "advantage": scored.advantages_G[place],
        "finish": rollout.finish,
    }


def _metric(rewards: Sequence[Reward], name: str) -> list[float]:
    return [reward.metrics[name] for reward in rewards if name in reward.metrics]


def _lengths(groups: Sequence[ScoredGroup]) -> dict[str, float]:
    rollouts = [rollout for group in groups for rollout in group.group.rollouts_G]
    lengths = [float(len(rollout.tokens_T)) for rollout in rollouts]
    return {
        "length/mean": _mean(lengths),
        "length/max": max(lengths),
        "length/truncated": _mean([float(rollout.finish == "length") for rollout in rollouts]),
    }


def _groups(groups: Sequence[ScoredGroup]) -> dict[str, float]:
    spread = [max(r.total for r in g.rewards_G) - min(r.total for r in g.rewards_G) for g in groups]
    return {
        "group/spread": _mean(spread),
        "group/zero_spread": _mean([float(value == 0) for value in spread]),
        "group/size": _mean([float(len(group.rewards_G)) for group in groups]),
        "group/failed": float(sum(len(group.group.failures) for group in groups)),
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
