"""From the rewards of one group to its advantages."""

from collections.abc import Sequence
from statistics import fmean, stdev


def group_advantages(totals_G: Sequence[float]) -> tuple[float, ...]:
    """A = (r − mean) / (std + 1e-4), std unbiased; a group without spread teaches nothing: zeros.

    The form of the released Open-o3 Video code (from GRPO). Raises ValueError for fewer than two.
    """
    if len(totals_G) < 2:
        raise ValueError(f"a group of {len(totals_G)} rollouts has no advantages; it needs 2")
    if max(totals_G) == min(totals_G):
        return (0.0,) * len(totals_G)
    mean, spread = fmean(totals_G), stdev(totals_G)
    return tuple((total - mean) / (spread + 1e-4) for total in totals_G)
