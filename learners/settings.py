"""What a learner is made from; light, for who starts it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from learners.schedule import Optimisation
from o3rl.config import Learning, Model

Fetch = Callable[[str], np.ndarray]
"""Frames by media key, uint8 [F, H, W, 3]; MediaError or TimeoutError if they cannot be had."""


@dataclass(frozen=True, slots=True)
class LearnerSettings:
    """All that a rank is made from; the same on every rank."""

    model: Model
    learning: Learning
    optimisation: Optimisation
    seed: int
    on_gpu: bool
    shares_gpu: bool = False  # with an engine, by turns
