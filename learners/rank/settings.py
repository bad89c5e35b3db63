"""What a learner is made from; light, for who starts it."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from o3rl.config import LearningConfig, ModelConfig, Schedule, SftConfig


@dataclass(frozen=True, slots=True)
class Optimisation:
    """How AdamW runs over `batches` batches; the same for RL and SFT.

    >>> Optimisation(1e-6, Schedule.cosine, 0, 0.01, 1.0, batches=100)
    """

    rate: float
    schedule: Schedule
    warmup: int
    weight_decay: float
    max_grad_norm: float
    batches: int
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def __post_init__(self):
        if self.batches < 1:
            raise ValueError(f"batches is {self.batches}; a schedule needs 1 or more")

    @classmethod
    def of_learning(cls, learning: LearningConfig, *, batches: int) -> "Optimisation":
        """That of RL."""
        return cls(
            learning.rate,
            learning.schedule,
            learning.warmup,
            learning.weight_decay,
            learning.max_grad_norm,
            batches,
            (learning.beta1, learning.beta2),
            learning.eps,
        )

    @classmethod
    def of_sft(cls, sft: SftConfig, *, batches: int) -> "Optimisation":
        """That of the cold start."""
        return cls(sft.rate, sft.schedule, sft.warmup, sft.weight_decay, sft.max_grad_norm, batches)

    def rate_at(self, batch: int) -> float:
        """The rate of batch number `batch`, from 0: linear warm-up, then the schedule towards 0.

        Warm-up gives the first batch rate/(warmup + 1); past the last batch the rate is 0, or for a
        constant schedule stays.
        """
        if batch < self.warmup:
            return self.rate * (batch + 1) / (self.warmup + 1)
        if self.schedule is Schedule.constant:
            return self.rate
        span = max(1, self.batches - self.warmup)
        done = min(1.0, (batch - self.warmup) / span)
        if self.schedule is Schedule.linear:
            return self.rate * (1 - done)
        return self.rate * (1 + math.cos(math.pi * done)) / 2


Fetch = Callable[[str], np.ndarray]
"""Frames by media key, uint8 [F, H, W, 3]; MediaError or TimeoutError if they cannot be had."""


@dataclass(frozen=True, slots=True)
class LearnerSettings:
    """All that a rank is made from; the same on every rank."""

    model: ModelConfig
    learning: LearningConfig
    optimisation: Optimisation
    seed: int
    on_gpu: bool
    shares_gpu: bool = False  # with an engine, by turns
    temperature: float = 1.0  # of the distribution that rollouts are sampled from
    longest: int = 1  # completion, in tokens: what constant_length divides by
