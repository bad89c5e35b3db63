"""Custom rewards for the tests: one as a user would write it, and the ways to go wrong."""

import os
import time

from o3rl.types import Reward, Row


def brevity(text: str, row: Row, rewards: Reward) -> float:  # noqa: ARG001
    """1 for up to 100 words, then falling as 100/words; nothing without an answer that counts."""
    words = len(text.split())
    return 0.0 if rewards.parts["ans_acc"] == 0 else min(1.0, 100 / max(words, 1))


def poison(text: str, row: Row, rewards: Reward) -> float:  # noqa: ARG001
    """Does to its process what the text says; else 0."""
    if "die" in text:
        os._exit(1)
    if "hang" in text:
        time.sleep(3600)
    if "raise" in text:
        raise KeyError(row.id)
    return float("nan") if "nan" in text else 0.25
