"""What a batch shows beside the plain means of its rewards: evidence of claiming rollouts, a table.

`evidence_metrics` is over the rollouts of temporal-spatial prompts that make a claim, so that its
numbers can be compared along a run and with `report.json`.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

from o3rl.types import Claim, ScoredGroup


def rollout_table_rows(
    groups: Sequence[ScoredGroup], *, step: int, limit: int
) -> list[dict[str, Any]]:
    """At most `limit` rollouts as rows of the tracker's table, one of each group before a second.

    Columns: step, version, group, sample, task, question, truth, text, one per reward part, total,
    advantage, finish, claims (JSON, see `claims_json`).
    """
    rows: list[dict[str, Any]] = []
    for place in range(max((len(group.rewards_G) for group in groups), default=0)):
        rows += [_table_row(group, place, step) for group in groups if place < len(group.rewards_G)]
    return rows[:limit]


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
        "claims": claims_json(reward.claims),
    }


def claims_json(claims: Sequence[Claim]) -> str:
    """Each claim's object, time, boxes (normalised), nearest key frame's time, distance to it in
    seconds, whether it passed the temporal gate, and IoU before that, as a JSON list.

    Key frame and distance are null where the row has none, and so is any number that is not finite.
    """
    said = [
        {
            "object": claim.name,
            "time": _finite(claim.time),
            "boxes": [[_finite(edge) for edge in box] for box in claim.boxes],
            "key_time": claim.key_time,
            "distance": _finite(claim.distance),
            "passed": not claim.gated,
            "iou": claim.iou,
        }
        for claim in claims
    ]
    return json.dumps(said, ensure_ascii=False, allow_nan=False)


def _finite(value: float | None) -> float | None:
    """What JSON can hold; a model may write any number."""
    return value if value is not None and math.isfinite(value) else None
