"""Formulas against counted parameters, against what autograd saves, and against a measured peak."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import plain
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from cluster.bench import variants
from cluster.bench.random_models import Setting, Shape, build_policy, build_segment, random_config
from learners.model.architecture import Architecture
from learners.model.memory import (
    Pass,
    _text_layer,
    _vision_layer,
    pass_memory,
    rank_memory,
    step_peak,
)
from learners.model.packing import PackedPolicy, pack
from o3rl.config import LearningConfig, ModelConfig, load

# As the publisher's config.json has it: flat, not nested.
SEVEN_B = {
    "model_type": "qwen2_5_vl",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
    "vision_config": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "in_chans": 3,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    },
}


@pytest.mark.parametrize("family", plain.FAMILIES)
def test_parameters_are_counted_exactly(family):
    policy = plain.build(family, seed=0)
    sizes = Architecture.of(policy.config.to_dict())
    tower = policy.get_submodule("model.visual")
    assert sizes.parameters == sum(p.numel() for p in policy.parameters())
    assert sizes.vision_parameters == sum(p.numel() for p in tower.parameters())


def test_the_older_form_of_a_config_gives_the_same():
    sizes = Architecture.of(SEVEN_B)
    assert sizes == Architecture.of(random_config("7b").to_dict())
    assert sizes.parameters == 8_292_166_656  # as published
    # Rank 1: a row and a column of each of seven matrices: 28·(2·(3584 + 3584) + 2·(3584 + 512)
    # + 3·(3584 + 18944)) = 28·90112.
    assert sizes.adapters(1) == 2_523_136


def test_an_unknown_family_is_named():
    with pytest.raises(ValueError, match="model_type is 'llama'"):
        Architecture.of({"model_type": "llama"})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", plain.FAMILIES)
def test_what_a_layer_keeps(family, dtype):
    policy = plain.build(family, seed=0).to(dtype)
    segment = plain.random_segment(policy, np.random.default_rng(0))
    batch = pack([segment])
    batch = replace(batch, pixels_ND=batch.pixels_ND.to(dtype))
    kept = saved_by_layer(policy, lambda: PackedPolicy(policy)(batch))
    sizes, each = Architecture.of(policy.config.to_dict()), dtype.itemsize
    tokens, patches = batch.tokens_1L.shape[1], len(batch.pixels_ND)
    by_token = [bytes_ / tokens for name, bytes_ in kept.items() if "language" in name]
    by_patch = [bytes_ / patches for name, bytes_ in kept.items() if "visual" in name]
    # The first layer also keeps what all of them read, the cosines of a small tower above all.
    assert by_token[1:] == pytest.approx([_text_layer(sizes, each)] * 2, rel=0.04)
    assert by_patch[1:] == pytest.approx([_vision_layer(sizes, each)], rel=0.07)


def saved_by_layer(policy: torch.nn.Module, forward: Any) -> dict[str, int]:
    """Bytes that each layer's forward pass adds to what autograd keeps, parameters left out."""
    parameters = {p.untyped_storage().data_ptr() for p in policy.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}
    before: dict[str, int] = {}
    found: dict[str, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage
        return tensor

    def total() -> int:
        return sum(storage.nbytes() for storage in kept.values())

    for name, module in policy.named_modules():
        if name.split(".")[-2:-1] in (["layers"], ["blocks"]):
            module.register_forward_pre_hook(
                lambda *_, name=name: before.__setitem__(name, total())
            )
            module.register_forward_hook(
                lambda *_, name=name: found.__setitem__(name, total() - before[name])
            )
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward()
    return found


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_peak_of_a_step(checkpointing):
    setting = Setting("1m", "cpu", checkpointing)
    policy = build_policy(setting)
    segment = build_segment(policy, Shape(356, 64, 8))
    step = variants.step_of("shared", policy, segment)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    events = [
        event
        for event in profiled.profiler.kineto_results.events()  # pyright: ignore
        if event.name() == "[memory]"
    ]
    held = np.cumsum([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())])
    sizes = Architecture.of(policy.config.to_dict())
    model = ModelConfig(dtype="float32", gradient_checkpointing=checkpointing)
    largest = Pass(segment.tokens, 8 * 64, len(segment.prompt.pixels_ND))
    formula = step_peak(sizes, pass_memory(sizes, model, largest, logits_mib=512))
    assert formula == pytest.approx(int(held.max()), rel=0.1)


def test_a_rank_holds_its_share():
    sizes = Architecture.of(SEVEN_B)
    model, largest = ModelConfig(), Pass(1, 1, 4)
    two = rank_memory(sizes, model, LearningConfig(ranks=4), largest=largest)
    three = rank_memory(sizes, model, LearningConfig(ranks=4, zero=3, kl=0.1), largest=largest)
    count = 8_292_166_656
    assert (two.weights, two.gathered, two.reference) == (2 * count, 0, 0)
    assert (three.weights, three.gathered) == (count // 2, 2 * 10**9)
    assert three.reference == 2 * count
    head = 152064 * 3584  # more than a bucket: reduced alone
    for found, gradients in ((two, count), (three, 2 * count)):
        assert (found.masters, found.moments, found.gradients) == (count, 2 * count, gradients)
        assert found.buckets == 6 * head
        assert (found.host, found.sums) == (0, 0)
    offloaded = rank_memory(
        sizes, model, LearningConfig(ranks=4, optimizer_offload=True), largest=largest
    )
    assert offloaded.host == 4 * count
    assert offloaded.sums == count + 2 * head
    assert offloaded.device == two.device - 4 * count + offloaded.sums
    exact = rank_memory(
        sizes, ModelConfig(dtype="float32"), LearningConfig(ranks=4), largest=largest
    )
    assert exact.gradients == 2 * count


def test_adapters_train_little():
    found = rank_memory(Architecture.of(SEVEN_B), ModelConfig(lora_rank=32), LearningConfig(kl=0.1))
    assert found.masters == 4 * 32 * 2_523_136
    assert found.reference == 0  # adapters switched off are the reference


def test_the_published_recipe_fits():
    run = load(Path("configs/qwen2_5_vl_7b_8gpu.yaml"))
    found = rank_memory(Architecture.of(SEVEN_B), run.model, run.learning)
    # 80 GB, of which a tenth for the allocator's holes and 2 GB for CUDA and NCCL.
    assert 50e9 < found.device < 0.9 * 80e9 - 2e9
