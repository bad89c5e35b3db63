"""The variants that are compared compute the same, and a report holds what it promises."""

import pytest
import torch

from cluster.bench import learner, variants
from cluster.bench.learner import measure
from cluster.bench.random_models import (
    BASELINES,
    Setting,
    Shape,
    build_policy,
    build_segment,
    random_config,
)

SETTING = Setting("1m", "cpu", checkpointing=True)


def test_all_variants_give_the_same_gradients():
    policy = build_policy(SETTING)
    segment = build_segment(policy, Shape(240, 9, 3))
    assert len(segment.prompt.tokens_P) == 240
    found = {}
    for name in ("shared", "masked", *BASELINES):
        policy.zero_grad()
        logprobs_GC = variants.step_of(name, policy, segment)()
        gradients = [p.grad for p in policy.parameters()]
        assert None not in gradients
        found[name] = (logprobs_GC, torch.cat([g.flatten() for g in gradients]))
    for name in ("masked", *BASELINES):
        for ours, theirs in zip(found["shared"], found[name], strict=True):
            assert (ours - theirs).norm() / theirs.norm() < 1e-5, name


def test_a_report_a_shape():
    [found] = measure([Shape(24, 5, 3)], SETTING, repeats=2, memory=False)
    assert (found["P"], found["C"], found["G"]) == (24, 5, 3)
    assert found["baseline"] in BASELINES
    assert {name: len(values) for name, values in found["seconds"].items()} == {
        "shared": 2,
        "sequential": 2,
        "batched": 2,
    }
    ratios = [
        theirs / ours
        for theirs, ours in zip(
            found["seconds"][found["baseline"]], found["seconds"]["shared"], strict=True
        )
    ]
    assert found["speedup"] == pytest.approx(sum(ratios) / 2)
    # Linear layers alone: 3·(24 + 4) tokens against 24 + 3·4 are 2.33; heads win nothing, the
    # vision tower 3.
    assert 1.5 < found["bound"] < 2.8
    assert found["memory_ratio"] is None
    assert found["tokens_per_second"].keys() == found["seconds"].keys()


def test_memory_is_counted_above_the_model():
    # At least the gradients of 1.2 M parameters; far below the libraries' hundreds of megabytes.
    peak = learner.peak_bytes("shared", Shape(240, 9, 3), SETTING)
    parameters = sum(p.numel() for p in build_policy(SETTING).parameters())
    assert 4 * parameters < peak < 2**26


@pytest.mark.parametrize("text", ["2400x256", "axbxc", "100x0x2", "4x4x4", ""])
def test_a_wrong_shape_is_named(text):
    with pytest.raises(ValueError, match=f"shape is '{text}'"):
        Shape.parse(text)


def test_sizes_are_those_of_the_family():
    with torch.device("meta"):
        counts = {
            name: sum(p.numel() for p in bench_policy(name).parameters()) for name in ("80m", "7b")
        }
    assert 50e6 < counts["80m"] < 100e6
    assert counts["7b"] == pytest.approx(8.29e9, rel=0.01)  # as published


def bench_policy(name: str):
    from transformers import Qwen2_5_VLForConditionalGeneration

    return Qwen2_5_VLForConditionalGeneration(random_config(name))
