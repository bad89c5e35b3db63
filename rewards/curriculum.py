"""The width σ of the temporal reward: wide at first so that a near miss pays, then narrow."""

from o3rl.config import Rewards


def sigma(progress: float, rewards: Rewards) -> float:
    """σ in seconds at progress p in [0, 1]: linear from `sigma_start`, `sigma_end` from its p on.

    With the defaults σ = 4·(1 − p) while p < 3/4, then 1. A fixed σ is `sigma_start = sigma_end`.
    """
    if progress >= rewards.sigma_end_at:
        return rewards.sigma_end
    span = rewards.sigma_start - rewards.sigma_end
    return rewards.sigma_start - span * progress / rewards.sigma_end_at
