"""Ranks with adversarial shares, without Ray: no collective waits for ever, and the sums agree."""

import multiprocessing
import socket
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import ranks

from learners.worker import LearnerSettings, RankWorker

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("rank_alone")]
SECONDS = 240.0  # for all ranks, which start torch and DeepSpeed anew
Calls = Sequence[tuple[str, Sequence[Any]]]
Found = list[dict[str, float]]


def together(settings: Sequence[LearnerSettings], fetch: Any, calls: Calls) -> list[list[Found]]:
    """By rank and setting, what each call gave."""
    count = settings[0].learning.ranks
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=context) as pool:
        running = [
            pool.submit(ranks.run, rank, port, settings, fetch, calls) for rank in range(count)
        ]
        return [future.result(timeout=SECONDS) for future in running]


def assert_alike(ours: Found, theirs: Found) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert one["learner/refused"] == 0
        for name in ("loss", "gradient/norm", "entropy", "learner/sequences"):
            assert one[name] == pytest.approx(other[name], rel=1e-3, abs=1e-6), name


def test_unequal_shares_with_a_frozen_tower(settings, model, groups, prompts, fetch):
    # Room for the longest prompt and a completion: rank 0 has many passes, rank 1 few, then none.
    limit = max(len(scored.group.prompt_tokens_T) for scored in groups) + 45
    fields = {"model": replace(model, freeze_vision=True), "zero": 3, "tokens_per_pass": limit}
    fields |= {"kl": 0.1, "seconds": SECONDS}
    calls = [
        ("update", ([groups[:3], groups[4:]], [groups[3:4], []])),
        ("sft_step", (prompts[:4], [])),
    ]
    [[first], [second]] = together([settings(ranks=2, **fields)], fetch, calls)
    assert first == second
    alone = RankWorker(settings(**fields), fetch)
    assert_alike(first, [alone.update([groups[:4], groups[4:]]), alone.sft_step(prompts[:4])])


def test_four_ranks_with_every_kind_of_share(settings, groups, picture, prompts, fetch):
    """Long and short videos, a picture alone, a rank with all of a mini-batch, ranks with none."""
    limit = max(len(scored.group.prompt_tokens_T) for scored in groups) + 45
    fields = {"tokens_per_pass": limit, "old_logprobs": "recomputed", "seconds": SECONDS}
    batch = [[*groups, picture], groups[:2]]
    calls = [
        (
            "update",
            (
                [[groups[0], groups[1], groups[2]], []],
                [[groups[3]], []],
                [[], groups[:2]],
                [[groups[4], groups[5], picture], []],
            ),
        ),
        ("sft_step", ([], prompts[:1], [], prompts[1:])),
        ("update", ([[], [picture]], [[], []], [[], []], [[picture], []])),
    ]
    chosen = [settings(ranks=4, zero=zero, **fields) for zero in (2, 3)]
    by_rank = together(chosen, fetch, calls)
    assert all(found == by_rank[0] for found in by_rank)
    alone = RankWorker(settings(**fields), fetch)
    expected = [
        alone.update(batch),
        alone.sft_step(prompts),
        alone.update([[picture], [picture]]),
    ]
    for found in by_rank[0]:
        assert_alike(found, expected)
