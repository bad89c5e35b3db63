"""Two ranks with unequal shares and a frozen vision tower: no collective waits for ever."""

import multiprocessing
import socket
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import pytest
import ranks

from learners.worker import RankWorker

SECONDS = 240.0  # for both ranks, which start torch and DeepSpeed anew


@pytest.mark.e2e
@pytest.mark.usefixtures("rank_alone")
def test_unequal_shares_with_a_frozen_tower(settings, model, groups, prompts, fetch):
    # Room for the longest prompt and a completion: rank 0 has many passes, rank 1 few, then none.
    limit = max(len(scored.group.prompt_tokens_T) for scored in groups) + 45
    fields = {"model": replace(model, freeze_vision=True), "zero": 3, "tokens_per_pass": limit}
    fields |= {"kl": 0.1, "seconds": SECONDS}
    calls = [
        ("update", ([groups[:3], groups[4:]], [groups[3:4], []])),
        ("sft_step", (prompts[:4], [])),
    ]
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        chosen = settings(ranks=2, **fields)
        running = [pool.submit(ranks.run, rank, port, chosen, fetch, calls) for rank in range(2)]
        together = [future.result(timeout=SECONDS) for future in running]
    assert together[0] == together[1]
    alone = RankWorker(settings(**fields), fetch)
    expected = [alone.update([groups[:4], groups[4:]]), alone.sft_step(prompts[:4])]
    for ours, theirs in zip(together[0], expected, strict=True):
        assert ours["learner/refused"] == 0
        for name in ("loss", "gradient/norm", "entropy"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-6), name
