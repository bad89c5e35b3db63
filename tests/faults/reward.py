"""A custom reward that is no number where a question asks for it: `make faults` uses it."""

import math

from o3rl.types import Reward, Row

NO_NUMBER = "[reward is no number]"


def reward(text: str, row: Row, rewards: Reward) -> float:
    """NaN for a question that holds `NO_NUMBER`, else 0."""
    del text, rewards
    return math.nan if NO_NUMBER in row.question else 0.0
