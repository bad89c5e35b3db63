"""What tells of an update: statistics noted pass by pass, joined over ranks, and their summary."""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

MEANS = {
    "loss": "loss",
    "token_loss": "loss",  # SFT, one entry a target token
    "ratio": "ratio/mean",
    "clipped": "ratio/clipped",
    "outside": "ratio/outside",
    "factor": "ratio/factor",
    "entropy": "entropy",
    "kl": "kl",
}


class UpdateMetrics:
    """One rank's statistics of a batch by name: an entry a sequence, token, pass or mini-batch.

    They stay on their device until `collected`, so that no pass waits for them.
    """

    def __init__(self) -> None:
        self._noted: dict[str, list[Tensor]] = defaultdict(list)

    def note(self, **values: Tensor | float) -> None:
        """Add entries, of one dimension or a single number each."""
        for name, value in values.items():
            self._noted[name].append(torch.as_tensor(value).detach().reshape(-1))

    def collected(self) -> dict[str, list[float]]:
        """All entries by name, in the order in which they were noted."""
        return {name: torch.cat(values).tolist() for name, values in self._noted.items()}


def summarise_ranks(by_rank: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, float]:
    """Metrics of all ranks by flat names; a statistic without an entry is left out, never zero."""
    entries: dict[str, list[float]] = defaultdict(list)
    for rank in by_rank:
        for name, values in rank.items():
            entries[name] += values
    metrics = {
        "learner/sequences": float(len(entries["trained_tokens"])),
        "learner/tokens": sum(entries["trained_tokens"]),
        "learner/read_tokens": sum(entries["read_tokens"]),
        "learner/passes": float(len(entries["read_tokens"])),
    }
    metrics |= {
        shown: statistics.fmean(entries[name]) for name, shown in MEANS.items() if entries[name]
    }
    if entries["ratio"]:
        metrics["ratio/max"] = max(entries["ratio"])
        metrics["ratio/min"] = min(entries["ratio"])
    for name in ("noise", "spanning"):
        if entries[name]:
            metrics[f"{name}/median"] = statistics.median(entries[name])
            metrics[f"{name}/p95"] = float(np.percentile(entries[name], 95))
    if entries["read_seconds"]:
        metrics["learner/read_seconds"] = max(entries["read_seconds"])
    return metrics
