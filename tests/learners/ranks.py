"""Ranks as plain processes, without Ray: what each runs, importable where it is spawned."""

import os
from collections.abc import Sequence
from typing import Any

from learners.inputs import Fetch
from learners.worker import LearnerSettings, RankWorker


def run(
    rank: int,
    port: int,
    settings: Sequence[LearnerSettings],
    fetch: Fetch,
    calls: Sequence[tuple[str, Sequence[Any]]],
) -> list[list[dict[str, float]]]:
    """By setting the metrics of each call, given as a method and its argument for every rank."""
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "WORLD_SIZE": str(settings[0].learning.ranks),
        "LOCAL_RANK": "0",
        "DS_ACCELERATOR": "cpu",
    }
    found = []
    for chosen in settings:
        worker = RankWorker(chosen, fetch)
        found.append([getattr(worker, method)(by_rank[rank]) for method, by_rank in calls])
    worker.close()
    return found
