"""What the thought is worth: its times against key frames or interval, its claims against boxes.

Each reward is a function of numbers that `claims` and `grammar` found; each value lies in [0, 1].
Times and σ in seconds.
"""

import math
from collections.abc import Sequence

from o3rl.config import RewardsConfig
from o3rl.text.grammar import time_mentions
from o3rl.types import Interval, KeyFrame
from rewards.parts.claims import Judged


def mentioned_times(thought: str) -> list[float]:
    """The times of all `<t>…</t>s`; none at all if one of them is no number, such as 2.3.4."""
    try:
        return [float(mention) for mention in time_mentions(thought)]
    except ValueError:
        return []


def proximity(time: float, key_times: Sequence[float], sigma: float) -> float:
    """exp(−d²/(2σ²)), d the distance to the nearest key frame."""
    distance = min(abs(time - key_time) for key_time in key_times) / sigma
    return math.exp(-distance * distance / 2)


def point(
    times: Sequence[float], key_times: Sequence[float], sigma: float, _seen: Sequence[float] = ()
) -> float:
    """Mean proximity of all mentions; 0 without mentions or key frames."""
    if not times or not key_times:
        return 0.0
    return sum(proximity(time, key_times, sigma) for time in times) / len(times)


def segment(times: Sequence[float], interval: Interval, _seen: Sequence[float] = ()) -> float:
    """Share of mentions inside the interval, ends included."""
    if not times:
        return 0.0
    return sum(interval[0] <= time <= interval[1] for time in times) / len(times)


def mean_over_claims(
    claims: Sequence[Judged], _key_frames: Sequence[KeyFrame], _mentions: int
) -> float:
    """Spatial, as published: the sum over claims that passed, divided by all that parse.

    0 if a key frame so reached has no boxes: there the published code raises.
    """
    if not claims or any(claim.passed and not claim.passed.objects for claim in claims):
        return 0.0
    return _sum_of_passed(claims) / len(claims)


def mean_over_mentions(
    claims: Sequence[Judged], _key_frames: Sequence[KeyFrame], mentions: int
) -> float:
    """Spatial, as in the paper: the same sum, divided by all time mentions of the thought.

    A claim whose time is written unlike a mention (`-1`, `1e2`) counts as one more.
    """
    return _sum_of_passed(claims) / max(mentions, len(claims)) if claims else 0.0


def best_box(ious: Sequence[float]) -> float:
    """Spatial, visual QA: the best of all boxes of the thought."""
    return max(ious, default=0.0)


def _sum_of_passed(claims: Sequence[Judged]) -> float:
    return sum(claim.iou for claim in claims if claim.passed is not None)


def sigma(progress: float, rewards: RewardsConfig) -> float:
    """σ in seconds at progress p in [0, 1]: linear from `sigma_start`, `sigma_end` from its p on.

    With the defaults σ = 4·(1 − p) while p < 3/4, then 1. A fixed σ is `sigma_start = sigma_end`.
    """
    if progress >= rewards.sigma_end_at:
        return rewards.sigma_end
    span = rewards.sigma_start - rewards.sigma_end
    return rewards.sigma_start - span * progress / rewards.sigma_end_at
