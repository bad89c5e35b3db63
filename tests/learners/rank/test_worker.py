"""A rank on its own: steps equal plain PyTorch ones, and what trains, skips, repeats and leaves."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from plain import TEXT, VISION
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from learners.model.policy import load_policy, load_processor
from learners.rank.inputs import Reader
from learners.rank.worker import GradientsNotFinite, RankWorker
from o3rl.config import Aggregation, ModelConfig, Objective, OldLogprobs, Publish
from o3rl.types import Version
from o3rl.weights.buckets import unpack
from o3rl.weights.versions import MemoryWeights

pytestmark = pytest.mark.usefixtures("rank_alone")
NOW = Version(0, 0)


def weights_of(worker: RankWorker) -> dict[str, torch.Tensor]:
    """What it publishes, as tensors by name."""
    memory = MemoryWeights()
    published = worker.publish(Version(0, 1), memory)
    assert published is not None
    manifest = published.manifest
    raw = [unpack(memory.payload(manifest.version, bucket.index)) for bucket in manifest.buckets]
    return {
        name: torch.frombuffer(bytearray(tensor.data), dtype=getattr(torch, tensor.dtype)).view(
            tensor.shape
        )
        for tensors in raw
        for name, tensor in tensors.items()
    }


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def plain_gspo(policy, groups, reader, fetch, clip: float) -> torch.Tensor:
    """The paper's loss by one plain forward pass a completion; mean over all sequences."""
    losses = []
    for scored in groups:
        prompt = reader.prompt(scored.group.prompt, fetch(scored.group.prompt.media_key))
        pairs = zip(scored.group.rollouts_G, scored.advantages_G, strict=True)
        for rollout, advantage in pairs:
            completion = torch.tensor(rollout.tokens_T)
            tokens = torch.cat([prompt.tokens_P, completion])[None]
            logits = policy(
                input_ids=tokens,
                pixel_values=prompt.pixels_ND,
                image_grid_thw=prompt.grid_I3,
                mm_token_type_ids=(tokens == policy.config.image_token_id).int(),
            ).logits[0, len(prompt.tokens_P) - 1 : -1]
            new = logits.log_softmax(-1).gather(1, completion[:, None])[:, 0]
            s = ((new.sum() - sum(rollout.logprobs_T)) / len(completion)).exp()
            losses.append(-min(s * advantage, s.clamp(1 - clip, 1 + clip) * advantage))
    return torch.stack(losses).mean()


@pytest.mark.e2e
@pytest.mark.parametrize("offload", [False, True], ids=["device", "offloaded"])
@pytest.mark.parametrize("zero", [2, 3])
def test_a_step_is_a_plain_adamw_step(zero, offload, settings, model, groups, fetch, reader):
    # Several passes (260 tokens each), clipping of the norm (about 5) to 1, weight decay.
    fields = {"mini_batches": 1, "tokens_per_pass": 260, "weight_decay": 0.1}
    worker = RankWorker(settings(zero=zero, optimizer_offload=offload, **fields), fetch)
    metrics = worker.update([groups])
    assert metrics["learner/passes"] > 1
    policy = load_policy(model)
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    loss = plain_gspo(policy, groups, reader, fetch, clip=0.05)
    loss.backward()
    matrices = [p for p in policy.parameters() if p.ndim > 1]
    norms_and_biases = [p for p in policy.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices}, {"params": norms_and_biases, "weight_decay": 0.0}],
        lr=1e-3,
        weight_decay=0.1,
    )
    norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
    optimizer.step()
    assert metrics["loss"] == pytest.approx(loss.item(), abs=1e-6)
    assert metrics["gradient/norm"] == pytest.approx(norm.item(), rel=1e-4)
    assert norm > 1
    learned = dict(worker._policy.named_parameters())
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            ours = gathered(learned[name])
            # Adam's first step is the gradient's sign: where that is noise, so is the step.
            clear = parameter.grad.abs() > 1e-3 * parameter.grad.abs().max()
            step, plain_step = (ours - before[name])[clear], (parameter - before[name])[clear]
            assert (step - plain_step).norm() <= 1e-3 * plain_step.norm(), name


@pytest.fixture(scope="module")
def qwen3(model, tmp_path_factory) -> ModelConfig:
    """The tiny policy's tokenizer and processor with a random Qwen3-VL of the same tokens."""
    folder = tmp_path_factory.mktemp("qwen3")
    load_processor(model).save_pretrained(folder)
    there = AutoConfig.from_pretrained(model.path)
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    text = TEXT | {"head_dim": 16, "vocab_size": there.text_config.vocab_size}
    text |= {"eos_token_id": None, "pad_token_id": None, "initializer_range": 0.06}
    vision = VISION | {"num_position_embeddings": 64, "deepstack_visual_indexes": [0]}
    vision |= {"patch_size": 14}
    tokens = {name: getattr(there, name) for name in names}
    torch.manual_seed(0)
    config = Qwen3VLConfig(text_config=text, vision_config=vision, **tokens)
    Qwen3VLForConditionalGeneration(config).save_pretrained(folder)
    return replace(model, path=str(folder))


@pytest.mark.e2e
@pytest.mark.parametrize("zero", [2, 3])
def test_the_other_family_goes_the_same_way(zero, qwen3, settings, groups, prompts, fetch):
    chosen = settings(model=qwen3, zero=zero, mini_batches=1, tokens_per_pass=260)
    worker = RankWorker(chosen, fetch)
    metrics = worker.update([groups])
    policy = load_policy(qwen3)
    reader = Reader.of(policy, load_processor(qwen3), style=qwen3.prompt_style, max_tokens=4096)
    loss = plain_gspo(policy, groups, reader, fetch, clip=0.05)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
    assert metrics["loss"] == pytest.approx(loss.item(), abs=1e-5)
    assert metrics["gradient/norm"] == pytest.approx(norm.item(), rel=1e-3)
    assert worker.sft_step(prompts)["loss"] > 0
    assert weights_of(worker).keys() == load_file(Path(qwen3.path) / "model.safetensors").keys()


def gathered(parameter: torch.nn.Parameter) -> torch.Tensor:
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter] if hasattr(parameter, "ds_id") else []):
        return parameter.detach().clone()


def test_passes_and_parts_change_nothing(settings, groups, fetch):
    whole = RankWorker(settings(mini_batches=1), fetch)
    # Room for the longest prompt and a completion (11 tokens at most): groups go in parts.
    limit = max(len(scored.group.prompt_tokens_T) for scored in groups) + 11
    parts = RankWorker(settings(mini_batches=1, tokens_per_pass=limit), fetch)
    one, many = whole.update([groups]), parts.update([groups])
    assert one["learner/passes"] == 1
    assert many["learner/passes"] > 3
    assert one["learner/sequences"] == many["learner/sequences"]
    assert many["loss"] == pytest.approx(one["loss"], abs=1e-6)
    assert many["gradient/norm"] == pytest.approx(one["gradient/norm"], rel=1e-4)


def test_same_seed_and_inputs_give_the_same_weights_bit_for_bit(settings, groups, prompts, fetch):
    found = []
    for _ in range(2):
        worker = RankWorker(settings(), fetch)
        worker.update([groups[:3], groups[3:]], version=NOW)
        worker.sft_step(prompts)
        found.append(weights_of(worker))
    assert_same(*found)


def test_restoring_goes_on_bit_for_bit(settings, groups, fetch, tmp_path):
    worker = RankWorker(settings(), fetch)
    worker.update([groups[:3], groups[3:]])
    worker.save(tmp_path / "state")
    worker.update([groups[:3], groups[3:]])
    restored = RankWorker(settings(), fetch)
    restored.restore(tmp_path / "state")
    assert restored.batches == 1
    restored.update([groups[:3], groups[3:]])
    assert_same(weights_of(worker), weights_of(restored))


def test_what_cannot_be_restored_is_named(settings, fetch, tmp_path):
    RankWorker(settings(zero=2), fetch).save(tmp_path / "state")
    other = RankWorker(settings(zero=3), fetch)
    with pytest.raises(ValueError, match=r"saved with learning.zero=2, this run has 3"):
        other.restore(tmp_path / "state")
    layout = tmp_path / "state" / "layout.json"
    current = layout.read_text()
    layout.write_text(current.replace(', "parameter_groups": 2', ""))  # as of before there were two
    with pytest.raises(
        ValueError, match=r"with 1 groups of parameters in the optimiser, this run has 2 "
    ):
        RankWorker(settings(zero=2), fetch).restore(tmp_path / "state")
    layout.write_text(current)
    layout.write_text(layout.read_text().replace('"learning.ranks": 1', '"learning.ranks": 2'))
    for part in (tmp_path / "state").rglob("*optim_states.pt"):
        part.unlink()
    with pytest.raises(ValueError, match=r"cannot be cut for another number of ranks: .+; resume"):
        RankWorker(settings(zero=2), fetch).restore(tmp_path / "state")
    with pytest.raises(FileNotFoundError, match="no learner state"):
        other.restore(tmp_path / "nowhere")


def test_untouched_policy_shows_its_noise_and_ratio_one(settings, groups, fetch):
    worker = RankWorker(settings(mini_batches=1), fetch)
    metrics = worker.update([groups], version=NOW)
    assert metrics["noise/median"] <= metrics["noise/p95"] < 1e-5
    assert metrics["ratio/mean"] == pytest.approx(1.0, abs=1e-5)
    assert metrics["ratio/clipped"] == 0
    again = worker.update([groups], version=Version(0, 1))
    assert "noise/median" not in again  # nothing here was sampled by version 0.1
    assert again["ratio/outside"] > 0


@pytest.mark.parametrize("since", [0, 1])  # 0: only the prompt was read by older weights
def test_the_tail_of_what_older_weights_began_shows_what_their_cache_did(
    settings, groups, fetch, since
):
    def spanning(scored):
        spans = ((0, Version(0, -1)), (since, NOW))
        rollouts = [replace(rollout, spans=spans) for rollout in scored.group.rollouts_G]
        first, *others = rollouts
        wrong = tuple(value - 1.0 for value in first.logprobs_T[:since]) + first.logprobs_T[since:]
        rollouts = (replace(first, logprobs_T=wrong), *others)  # before the update: not looked at
        return replace(scored, group=replace(scored.group, rollouts_G=rollouts))

    worker = RankWorker(settings(mini_batches=1), fetch)
    metrics = worker.update([list(map(spanning, groups))], version=NOW)
    assert metrics["spanning/median"] <= metrics["spanning/p95"] < 1e-5
    assert "noise/median" not in metrics


def test_recomputed_old_values_make_the_first_ratio_one_and_weigh_the_rest(settings, groups, fetch):
    worker = RankWorker(settings(old_logprobs=OldLogprobs.recomputed), fetch)
    worker.update([groups[:3], groups[3:]])
    metrics = worker.update([groups[:3]], version=NOW)
    assert metrics["ratio/mean"] == pytest.approx(1.0, abs=1e-5)
    assert metrics["noise/median"] > 1e-3  # the weights have moved since version 0.0 sampled
    assert metrics["ratio/factor"] != pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_kl_to_the_starting_model_is_zero_at_first_and_then_grows(
    lora_rank, settings, model, groups, fetch
):
    adapted = replace(model, lora_rank=lora_rank)
    worker = RankWorker(settings(model=adapted, kl=0.1, mini_batches=1), fetch)
    first = worker.update([groups])
    second = worker.update([groups])
    assert first["kl"] == pytest.approx(0, abs=1e-6)
    assert second["kl"] > 1e-6


def test_token_mean_divides_by_the_tokens_of_all_passes(settings, groups, fetch):
    # Untouched weights: ratio 1, so the gradient is that of −Σ A·log π_θ over the tokens.
    fields = {"mini_batches": 1, "objective": Objective.grpo, "max_grad_norm": 1e9}
    mean = RankWorker(settings(**fields), fetch).update([groups])
    by_token = RankWorker(settings(aggregation=Aggregation.token_mean, **fields), fetch)
    limit = max(len(scored.group.prompt_tokens_T) for scored in groups) + 11
    cut = RankWorker(
        settings(aggregation=Aggregation.token_mean, tokens_per_pass=limit, **fields), fetch
    )
    whole, parts = by_token.update([groups]), cut.update([groups])
    assert parts["learner/passes"] > 3
    assert parts["gradient/norm"] == pytest.approx(whole["gradient/norm"], rel=1e-4)
    assert whole["gradient/norm"] != pytest.approx(mean["gradient/norm"], rel=1e-2)


@pytest.mark.parametrize("objective", [Objective.grpo, Objective.gspo_token, Objective.cispo])
def test_other_objectives_train_too(objective, settings, groups, fetch):
    worker = RankWorker(settings(objective=objective), fetch)
    metrics = worker.update([groups[:3], groups[3:]], version=NOW)
    assert metrics["learner/steps"] == 2
    assert 0 < metrics["ratio/outside"] < 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("offload", [False, True], ids=["device", "offloaded"])
@pytest.mark.parametrize("zero", [2, 3])
def test_a_gradient_that_is_not_finite_skips_the_step(
    zero, offload, dtype, settings, model, groups, fetch
):
    bad = replace(groups[0], advantages_G=(math.nan,) * len(groups[0].advantages_G))
    chosen = settings(model=replace(model, dtype=dtype), zero=zero, optimizer_offload=offload)
    worker = RankWorker(chosen, fetch)
    before = weights_of(worker)
    metrics = worker.update([[bad, groups[1]]])
    assert metrics["learner/skipped_steps"] == 1
    assert metrics["learner/steps"] == 0
    assert_same(before, weights_of(worker))
    worker.update([groups[:3], groups[3:]])
    fresh = RankWorker(chosen, fetch)
    fresh.update([groups[:3], groups[3:]])
    assert_same(weights_of(worker), weights_of(fresh))


def test_gradients_that_stay_not_finite_end_the_run_and_name_their_group(settings, groups, fetch):
    bad = replace(groups[1], advantages_G=(math.nan,) * len(groups[1].advantages_G))
    worker = RankWorker(settings(max_skipped=3), fetch)
    worker.update([[groups[0], bad], [groups[2]]])  # one step in between is finite
    worker.update([[groups[0], bad], [bad]])
    said = r"3 steps in a row was not finite, the last one's made by group 1 \(row row-1\);"
    with pytest.raises(GradientsNotFinite, match=said):
        worker.update([[groups[0], bad, groups[2]]])


@pytest.mark.parametrize("zero", [2, 3])
def test_offloading_changes_next_to_no_weight_in_bfloat16(zero, settings, model, groups, fetch):
    fields = {"model": replace(model, dtype="bfloat16"), "zero": zero, "tokens_per_pass": 260}
    found = []
    for offload in (False, True):
        worker = RankWorker(settings(optimizer_offload=offload, **fields), fetch)
        metrics = worker.update([groups[:3], groups[3:]])
        assert metrics["learner/passes"] > 2
        found.append(weights_of(worker))
    device, host = found
    differ = sum(int((device[name] != host[name]).sum()) for name in device)
    assert differ <= 1e-5 * sum(tensor.numel() for tensor in device.values()), "a rounding or two"


def test_refused_groups_are_counted_and_leave_the_normaliser(settings, groups, fetch):
    broken = replace(groups[0], group=replace(groups[0].group, frames_digest="0" * 16))
    worker, plain = RankWorker(settings(), fetch), RankWorker(settings(), fetch)
    metrics, expected = worker.update([[broken, groups[1]]]), plain.update([[groups[1]]])
    assert metrics["learner/refused"] == 1
    assert [failure.group for failure in worker.failures] == [0]
    assert metrics["loss"] == expected["loss"]
    assert_same(weights_of(worker), weights_of(plain))
    empty = worker.update([[broken]])
    assert empty["learner/steps"] == 0
    assert "loss" not in empty


def test_sft_learns_its_rows(settings, prompts, fetch):
    worker = RankWorker(settings(), fetch)
    steps = [worker.sft_step(prompts) for _ in range(12)]
    assert steps[-1]["loss"] < 0.8 * steps[0]["loss"]
    assert steps[0]["learner/passes"] == 1  # all rows in one pack


def test_sft_loss_is_the_mean_over_target_tokens(settings, prompts, fetch, reader, model):
    metrics = RankWorker(settings(), fetch).sft_step(prompts[:2])
    policy, negatives = load_policy(model), []
    for prompt in prompts[:2]:
        segment = reader.row(prompt, fetch)
        tokens = torch.cat([segment.prompt.tokens_P, torch.tensor(segment.completions_G[0])])[None]
        labels = tokens.clone()
        labels[0, : len(segment.prompt.tokens_P)] = -100
        output = policy(
            input_ids=tokens,
            pixel_values=segment.prompt.pixels_ND,
            image_grid_thw=segment.prompt.grid_I3,
            mm_token_type_ids=(tokens == policy.config.image_token_id).int(),
        )
        shifted = output.logits[0, :-1].log_softmax(-1)
        kept = labels[0, 1:] != -100
        chosen = shifted[kept].gather(1, labels[0, 1:][kept][:, None])
        negatives.append(-chosen.detach().flatten())
    assert metrics["loss"] == pytest.approx(torch.cat(negatives).mean().item(), abs=1e-5)


@pytest.mark.parametrize("zero", [2, 3])
def test_frozen_vision_stays_and_the_rest_learns(zero, settings, model, groups, prompts, fetch):
    # With KL and recomputed log-probabilities a prompt goes through the model three times, in
    # parts, and once through the vision tower; the dummy's picture is seen before.
    limit = max(len(scored.group.prompt_tokens_T) for scored in groups) + 11
    fields = {"kl": 0.1, "old_logprobs": OldLogprobs.recomputed, "tokens_per_pass": limit}
    frozen = replace(model, freeze_vision=True)
    worker = RankWorker(settings(model=frozen, zero=zero, **fields), fetch)
    seen: list[int] = []
    tower = worker._policy.get_submodule("model.visual")
    tower.register_forward_hook(
        lambda _, __, kwargs, ___: seen.append(len(kwargs["grid_thw"])), with_kwargs=True
    )
    before = weights_of(worker)
    worker.update([groups[:3], groups[3:]])
    pictures = sum(len(scored.group.prompt.plan.times_F) for scored in groups)
    assert sum(seen) == pictures
    worker.sft_step(prompts)
    refused = {failure.group for failure in worker.failures}  # too long for this limit
    taught = [prompt for prompt in prompts if prompt.group not in refused]
    assert taught
    assert sum(seen) == pictures + sum(len(prompt.plan.times_F) for prompt in taught)
    after = weights_of(worker)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert not any(name.startswith("visual.") for name in changed)


@pytest.mark.parametrize("zero", [2, 3])
def test_lora_trains_adapters_only_and_leaves_merged(
    zero, settings, model, groups, fetch, reader, tmp_path
):
    worker = RankWorker(settings(model=replace(model, lora_rank=2), zero=zero), fetch)
    before = weights_of(worker)
    worker.update([groups[:3], groups[3:]])
    after = weights_of(worker)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "layers" in name and "proj.weight" in name}
    worker.export(tmp_path / "merged")
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged")
    rows, *_ = worker._read_groups(groups[:1], None)
    ours, _ = worker._engine(worker._pack(rows))
    theirs = torch.exp(-plain_gspo(merged, [flat(groups[0])], reader, fetch, clip=0.9))
    # With advantage 1 and log π_old = 0 the plain loss is −exp(mean log π); compare one completion.
    length = len(rows[0].segment.completions_G[0])
    assert theirs.log().item() == pytest.approx(math.exp(ours[0].sum().item() / length), abs=1e-5)


def flat(scored):
    """The group's first completion alone, with advantage 1 and log π_old = 0."""
    rollout = scored.group.rollouts_G[0]
    zero = replace(rollout, logprobs_T=(0.0,) * len(rollout.logprobs_T))
    return replace(
        scored,
        group=replace(scored.group, rollouts_G=(zero,)),
        rewards_G=scored.rewards_G[:1],
        advantages_G=(1.0,),
    )


@pytest.mark.parametrize("zero", [2, 3])
def test_published_and_exported_weights_are_the_same_plain_ones(
    zero, settings, groups, fetch, folder, tmp_path
):
    worker = RankWorker(settings(zero=zero), fetch)
    shipped = load_file(folder / "model.safetensors")
    assert_same(weights_of(worker), shipped)
    worker.update([groups[:3], groups[3:]])
    worker.export(tmp_path / "export")
    exported = load_file(tmp_path / "export" / "model.safetensors")
    assert_same(weights_of(worker), exported)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "export")
    learned = dict(worker._policy.named_parameters())
    for name, parameter in loaded.named_parameters():
        assert torch.equal(parameter, gathered(learned[name])), name
    processor = AutoProcessor.from_pretrained(tmp_path / "export")
    assert processor.chat_template == worker._processor.chat_template


def test_large_exports_are_cut_into_shards(settings, fetch, tmp_path):
    from learners.weights.export import export

    worker = RankWorker(settings(), fetch)
    export(worker._policy, worker._processor, tmp_path, limit=2**20)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    for name, parameter in worker._policy.named_parameters():
        assert torch.equal(parameter, loaded.get_parameter(name)), name


def test_bfloat16_keeps_float32_masters_and_frequencies(settings, model, groups, fetch):
    worker = RankWorker(settings(model=replace(model, dtype="bfloat16")), fetch)
    before = weights_of(worker)
    assert {tensor.dtype for tensor in before.values()} == {torch.bfloat16}
    frequencies = worker._policy.get_submodule("model.language_model.rotary_emb").inv_freq
    assert frequencies.dtype is torch.float32
    metrics = worker.update([groups[:3], groups[3:]])
    assert metrics["learner/steps"] == 2
    after = weights_of(worker)
    assert any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("zero", [2, 3])
def test_what_changed_in_bfloat16_at_a_small_rate_is_little_and_the_same_weights(
    zero, settings, model, groups, fetch
):
    chosen = settings(
        model=replace(model, dtype="bfloat16"), zero=zero, publish=Publish.changes, rate=1e-6
    )
    worker = RankWorker(chosen, fetch)
    by_changes = MemoryWeights()
    first = worker.publish(Version(0, 1), by_changes)
    assert first is not None
    assert (first.changed, first.sent) == (None, first.manifest.size)
    worker.update([groups[:3], groups[3:]])
    second = worker.publish(Version(0, 2), by_changes)
    assert second is not None
    assert second.changed is not None
    assert 0 < second.changed < 0.2
    assert second.sent < second.manifest.size / 2
    whole = MemoryWeights()  # does not hold the version that changed
    third = worker.publish(Version(0, 3), whole)
    assert third is not None
    assert (third.changed, third.sent) == (0, third.manifest.size)
    assert second.manifest.digest == third.manifest.digest
    for bucket in second.manifest.buckets:
        sent = by_changes.payload(Version(0, 2), bucket.index)
        assert sent == whole.payload(Version(0, 3), bucket.index)


def test_nothing_to_train_is_refused():
    from learners.rank.deepspeed_engine import build_engine

    frozen = torch.nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to train"):
        build_engine(frozen, None, optimisation=None, bfloat16=False)


def test_norms_and_biases_do_not_decay():
    from learners.rank.deepspeed_engine import decay_groups

    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    groups = decay_groups(list(module.parameters()), 0.1)
    assert [(len(g["params"]), g["weight_decay"]) for g in groups] == [(1, 0.1), (3, 0.0)]
    assert len(decay_groups([module[0].weight], 0.1)) == 1
