"""Ranks as plain processes, without Ray: what each runs, importable where it is spawned."""

import os
from collections.abc import Sequence
from typing import Any

from learners.rank.settings import Fetch, LearnerSettings
from learners.rank.worker import RankWorker


def run(
    rank: int,
    port: int,
    settings: Sequence[LearnerSettings],
    fetch: Fetch,
    calls: Sequence[Sequence[tuple[str, Sequence[Any]]]],
) -> list[list[dict[str, float]]]:
    """By setting what each of its calls gave: a method and its argument for every rank."""
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "WORLD_SIZE": str(settings[0].learning.ranks),
        "LOCAL_RANK": "0",
        "DS_ACCELERATOR": "cpu",
    }
    found = []
    for chosen, its_calls in zip(settings, calls, strict=True):
        worker = RankWorker(chosen, fetch)
        found.append([getattr(worker, method)(by_rank[rank]) for method, by_rank in its_calls])
    worker.close()
    return found
