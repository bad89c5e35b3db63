"""Ranks with adversarial shares, without Ray: no collective waits for ever, and the sums agree."""

import multiprocessing
import socket
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ranks
import torch
from safetensors.torch import load_file

from learners.rank import deepspeed_engine
from learners.rank.settings import LearnerSettings
from learners.rank.worker import RankWorker

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("rank_alone")]
SECONDS = 240.0  # for all ranks, which start torch and DeepSpeed anew
Calls = Sequence[tuple[str, Sequence[Any]]]
Found = list[dict[str, float]]


def together(
    settings: Sequence[LearnerSettings], fetch: Any, calls: Sequence[Calls]
) -> list[list[Found]]:
    """By rank and setting, what each call gave; a setting has its own calls."""
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


def assert_alike(ours: Found, theirs: Found, *, within: float = 1e-3) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert one["learner/refused"] == 0
        for name in ("loss", "gradient/norm", "entropy", "learner/sequences"):
            assert one[name] == pytest.approx(other[name], rel=within, abs=1e-6), name


def test_unequal_shares_of_every_kind_of_model(settings, model, groups, prompts, fetch):
    # Room for the longest prompt and a completion: rank 0 has many passes, rank 1 few, then none.
    limit = max(len(scored.group.prompt_tokens_T) for scored in groups) + 45
    fields = {"zero": 3, "tokens_per_pass": limit, "kl": 0.1, "seconds": SECONDS}
    calls = [
        ("update", ([groups[:3], groups[4:]], [groups[3:4], []])),
        ("sft_step", (prompts[:4], [])),
    ]
    exact = {"freeze_vision": True}
    adapted = {"lora_rank": 2, "gradient_checkpointing": True}
    as_published = {"dtype": "bfloat16", "gradient_checkpointing": True}
    models = [replace(model, **kind) for kind in (exact, adapted, as_published)]
    chosen = [settings(ranks=2, model=kind, **fields) for kind in models]
    first, second = together(chosen, fetch, [calls] * len(chosen))
    assert first == second
    for found, kind in zip(first, models, strict=True):
        alone = RankWorker(settings(model=kind, **fields), fetch)
        expected = [alone.update([groups[:4], groups[4:]]), alone.sft_step(prompts[:4])]
        assert_alike(found, expected, within=0.03 if kind.dtype == "bfloat16" else 1e-3)


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
    by_rank = together(chosen, fetch, [calls] * len(chosen))
    assert all(found == by_rank[0] for found in by_rank)
    alone = RankWorker(settings(**fields), fetch)
    expected = [
        alone.update(batch),
        alone.sft_step(prompts),
        alone.update([[picture], [picture]]),
    ]
    for found in by_rank[0]:
        assert_alike(found, expected)


def test_a_state_goes_on_with_another_number_of_ranks(
    settings, groups, fetch, tmp_path, monkeypatch
):
    """One rank and two take over from each other, under both stages: the weights are right."""
    first, second = [groups[:2], groups[2:4]], [groups[1:3], groups[4:6]]
    fields = {"seconds": SECONDS, "rate": 1e-3}
    before, expected = {}, {}
    for zero in (2, 3):
        straight = RankWorker(settings(zero=zero, **fields), fetch)
        straight.update(first)
        straight.save(tmp_path / f"{zero}" / "of-one")
        before[zero] = weights(straight, tmp_path / f"{zero}" / "before")
        straight.update(second)
        expected[zero] = weights(straight, tmp_path / f"{zero}" / "straight")

    def halves(mini_batches):
        return [part[:1] for part in mini_batches], [part[1:] for part in mini_batches]

    def calls(folder: Path) -> Calls:
        return [
            ("update", halves(first)),
            ("save", [folder / "of-two"] * 2),
            ("restore", [folder / "of-one"] * 2),
            ("update", halves(second)),
            ("export", [folder / "two-after-one"] * 2),
        ]

    chosen = [settings(ranks=2, zero=zero, **fields) for zero in (2, 3)]
    together(chosen, fetch, [calls(tmp_path / f"{zero}") for zero in (2, 3)])

    in_pieces(monkeypatch)  # as a large model's is
    for zero in (2, 3):
        folder = tmp_path / f"{zero}"
        alone = RankWorker(settings(zero=zero, **fields), fetch)
        alone.restore(folder / "of-two")
        assert alone.batches == 1
        alone.update(second)
        one_after_two = weights(alone, folder / "one-after-two")
        two_after_one = load_file(folder / "two-after-one" / "model.safetensors")
        moved = distance(before[zero], expected[zero])
        for found in (one_after_two, two_after_one):
            # Adam makes a whole step of a gradient of nothing but rounding.
            assert distance(found, expected[zero]) < 0.02 * moved
        assert not list(folder.rglob("universal-*"))


def in_pieces(monkeypatch) -> None:
    """Let ZeRO-3 keep the optimiser's state in several groups of parameters."""
    config = deepspeed_engine._config

    def cut(*arguments: Any, **keywords: Any) -> dict[str, Any]:
        found = config(*arguments, **keywords)
        return found | {
            "zero_optimization": {**found["zero_optimization"], "sub_group_size": 10**5}
        }

    monkeypatch.setattr(deepspeed_engine, "_config", cut)


def weights(worker: RankWorker, folder: Path) -> dict[str, torch.Tensor]:
    worker.export(folder)
    return load_file(folder / "model.safetensors")


def distance(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    assert first.keys() == second.keys()
    squares = ((first[name] - second[name]).square().sum() for name in first)
    return float(sum(squares)) ** 0.5
