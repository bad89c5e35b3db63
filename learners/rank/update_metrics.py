"""What tells of an update: statistics of each sequence, joined over ranks, and their summary."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np


@dataclass(slots=True)
class Tally:
    """Numbers of one rank, or after `joined` of all; lists hold one entry a sequence or step."""

    loss: list[float] = field(default_factory=list)
    ratio: list[float] = field(default_factory=list)
    clipped: list[float] = field(default_factory=list)
    outside: list[float] = field(default_factory=list)
    entropy: list[float] = field(default_factory=list)
    kl: list[float] = field(default_factory=list)
    factor: list[float] = field(default_factory=list)
    noise: list[float] = field(default_factory=list)  # |log s| where the policy is untouched
    spanning: list[float] = field(default_factory=list)  # the same where older weights began
    trained_tokens: list[float] = field(default_factory=list)
    read_tokens: list[float] = field(default_factory=list)  # one entry a pass
    token_loss: list[float] = field(default_factory=list)  # SFT, one entry a target token
    read_seconds: list[float] = field(default_factory=list)

    @classmethod
    def joined(cls, tallies: Sequence["Tally"]) -> "Tally":
        """All entries, rank by rank."""
        return cls(
            **{
                f.name: [x for tally in tallies for x in getattr(tally, f.name)]
                for f in fields(cls)
            }
        )

    def metrics(self) -> dict[str, float]:
        """Flat names; a statistic without a single entry is left out, never zero."""
        found = {
            "learner/sequences": float(len(self.trained_tokens)),
            "learner/tokens": sum(self.trained_tokens),
            "learner/read_tokens": sum(self.read_tokens),
            "learner/passes": float(len(self.read_tokens)),
        }
        for name, values in (
            ("loss", self.loss or self.token_loss),
            ("ratio/mean", self.ratio),
            ("ratio/clipped", self.clipped),
            ("ratio/outside", self.outside),
            ("ratio/factor", self.factor),
            ("entropy", self.entropy),
            ("kl", self.kl),
        ):
            if values:
                found[name] = statistics.fmean(values)
        if self.ratio:
            found["ratio/max"] = max(self.ratio)
            found["ratio/min"] = min(self.ratio)
        for name, values in (("noise", self.noise), ("spanning", self.spanning)):
            if values:
                found[f"{name}/median"] = statistics.median(values)
                found[f"{name}/p95"] = float(np.percentile(values, 95))
        if self.read_seconds:
            found["learner/read_seconds"] = max(self.read_seconds)
        return found
