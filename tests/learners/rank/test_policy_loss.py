"""The loss of packed rows by hand: no model, no DeepSpeed, two rows of three completions."""

import math

import pytest
import torch

from learners.model.packing import Pack, PromptInputs, Segment, pack
from learners.rank.policy_loss import engine_noise, policy_loss
from learners.rank.training_rows import TrainingRow
from learners.rank.update_metrics import UpdateMetrics, summarise_ranks
from o3rl.config import Aggregation, Correction, LearningConfig, Objective, OldLogprobs

LN2, LN4 = math.log(2.0), math.log(4.0)
CLIP = {"clip_low": 0.2, "clip_high": 0.2}
# Completions of 2, 1 and 3 tokens; what the trained weights say of them.
NEW_ST = torch.tensor([[LN4, 0.0, 9.0], [0.0, 9.0, 9.0], [LN2, 0.0, -LN2]])


def rows(**of_second: tuple) -> list[TrainingRow]:
    """All log-probabilities of others 0, advantages 1, −1 and 3, all sampled by these weights."""
    prompt = PromptInputs(
        tokens_P=torch.tensor([1, 2]),
        positions_3P=torch.arange(2).expand(3, 2),
        pixels_ND=torch.zeros(4, 8),
        grid_I3=torch.tensor([[1, 2, 2]]),
    )
    zeros = [torch.zeros(length) for length in (2, 1, 3)]
    first = TrainingRow(
        Segment(prompt, ((5, 6), (7,))),
        advantages_G=(1.0, -1.0),
        sampler_G=tuple(zeros[:2]),
        old_G=tuple(zeros[:2]),
        reference_G=tuple(zeros[:2]),
        fresh_G=(0, 0),
        spans_G=(1, 1),
    )
    values = {"sampler_G": (zeros[2],), "old_G": (zeros[2],), "reference_G": (zeros[2],)}
    values |= {"fresh_G": (0,), "spans_G": (1,), "advantages_G": (3.0,)} | of_second
    return [first, TrainingRow(Segment(prompt, ((8, 9, 4),)), **values)]


def packed(rows_B: list[TrainingRow]) -> Pack:
    return pack([row.segment for row in rows_B])


def test_gspo_of_two_rows():
    # s = exp(ln 4 / 2) = 2, cut at 1.2 for A = 1; exp(0) = 1 with A = −1; exp(0 / 3) = 1 with 3.
    rows_B = rows()
    loss = policy_loss(rows_B, packed(rows_B), NEW_ST, LearningConfig(**CLIP))
    assert loss.losses_S.tolist() == pytest.approx([-1.2, 1.0, -3.0])
    assert loss.statistics["ratio"].tolist() == pytest.approx([2.0, 1.0, 1.0])
    assert loss.statistics["clipped"].tolist() == [1.0, 0.0, 0.0]
    assert loss.statistics["loss"].tolist() == loss.losses_S.tolist()
    assert loss.statistics.keys() == {"ratio", "clipped", "outside", "loss"}


def test_grpo_of_two_rows():
    # (1.2 + 1)/2 = 1.1 for A = 1; 1 for −1; ratios 2 → 1.2, 1, ½ (the smaller one stays): 2.7/3·3.
    rows_B = rows()
    learning = LearningConfig(objective=Objective.grpo, **CLIP)
    loss = policy_loss(rows_B, packed(rows_B), NEW_ST, learning)
    assert loss.losses_S.tolist() == pytest.approx([-1.1, 1.0, -2.7])


def test_kl_and_the_factor_of_recomputed_values():
    # π_old/π_sampler of the second row: ln 1.5 a token, factor 1.5; s = 1/1.5, outside of the clip
    # but free for A = 3: −3/1.5·1.5 = −3. Reference equal to π_θ in the second row: KL 0; first row
    # by k3 of π_ref = 1: r = 1/4, ¼ − 1 + ln 4 = 0.636294 over two tokens, and 0.
    old_G = (torch.full((3,), math.log(1.5)),)
    rows_B = rows(old_G=old_G, reference_G=(NEW_ST[2],))
    learning = LearningConfig(old_logprobs=OldLogprobs.recomputed, kl=0.1, **CLIP)
    loss = policy_loss(rows_B, packed(rows_B), NEW_ST, learning)
    assert loss.statistics["factor"].tolist() == pytest.approx([1.0, 1.0, 1.5])
    assert loss.statistics["kl"].tolist() == pytest.approx([0.318147, 0.0, 0.0], abs=1e-6)
    assert loss.losses_S.tolist() == pytest.approx([-1.2 + 0.0318147, 1.0, -3.0])


def test_recomputed_values_can_be_weighed_by_token_or_not_at_all():
    # Second row: π_old/π_sampler is 4, cut at 2, and 1, 1; ratios 2/4, 1 and ½, all left as they
    # are by A = 3 (below 1 the smaller term stays): (2·½ + 1 + ½)/3·3 = 2.5; 2 without weights.
    rows_B = rows(old_G=(torch.tensor([LN4, 0.0, 0.0]),))
    new_ST = NEW_ST
    fields = {"objective": Objective.grpo, "old_logprobs": OldLogprobs.recomputed, **CLIP}
    by_token = LearningConfig(correction=Correction.token, **fields)
    loss = policy_loss(rows_B, packed(rows_B), new_ST, by_token)
    assert loss.losses_S.tolist() == pytest.approx([-1.1, 1.0, -2.5])
    assert loss.statistics["factor"].tolist() == pytest.approx([1.0, 1.0, 4 / 3])
    plain = LearningConfig(correction=Correction.none, **fields)
    loss = policy_loss(rows_B, packed(rows_B), new_ST, plain)
    assert loss.losses_S.tolist() == pytest.approx([-1.1, 1.0, -2.0])
    assert "factor" not in loss.statistics


def test_the_sum_that_is_asked_for():
    # GSPO's −1.2, 1 and −3, of 2, 1 and 3 tokens; at most 4.
    rows_B = rows()
    learning = LearningConfig(aggregation=Aggregation.constant_length, **CLIP)
    loss = policy_loss(rows_B, packed(rows_B), NEW_ST, learning, longest=4)
    assert loss.losses_S.tolist() == pytest.approx([-0.6, 0.25, -2.25])
    assert loss.statistics["loss"].tolist() == pytest.approx([-1.2, 1.0, -3.0])


def test_the_graph_leads_to_the_log_probabilities_and_nowhere_else():
    # A clipped sequence has no gradient; the free one −A·s/T a token: 1/1 for A = −1, −3/3.
    new_ST = NEW_ST.clone().requires_grad_()
    rows_B = rows()
    loss = policy_loss(rows_B, packed(rows_B), new_ST, LearningConfig(**CLIP))
    loss.losses_S.sum().backward()
    assert new_ST.grad is not None
    torch.testing.assert_close(
        new_ST.grad, torch.tensor([[0.0, 0, 0], [1, 0, 0], [-1, -1, -1]]), atol=1e-6, rtol=0
    )
    assert not any(values.requires_grad for values in loss.statistics.values())


def test_noise_is_of_what_the_current_weights_sampled():
    # First row, whole: ln 4 / 2 and 0. Second: older weights began it, the last token is theirs.
    rows_B = rows(fresh_G=(2,), spans_G=(2,))
    noise = engine_noise(rows_B, packed(rows_B), NEW_ST)
    assert noise["noise"].tolist() == pytest.approx([LN2, 0.0])
    assert noise["spanning"].tolist() == pytest.approx([LN2])
    rows_B = rows(fresh_G=(3,))  # no token of it
    assert len(engine_noise(rows_B, packed(rows_B), NEW_ST)["noise"]) == 2


def test_statistics_of_several_ranks_are_one_summary():
    first, second = UpdateMetrics(), UpdateMetrics()
    first.note(ratio=torch.tensor([1.0, 2.0]), noise=torch.tensor([0.1]), read_seconds=3.0)
    first.note(trained_tokens=torch.tensor([4, 6]), read_tokens=20.0)
    second.note(ratio=torch.tensor([3.0]), noise=torch.tensor([0.5, 0.3]), read_seconds=1.0)
    second.note(noise=torch.tensor([]))
    metrics = summarise_ranks([first.collected(), second.collected()])
    assert metrics["ratio/mean"] == 2.0
    assert (metrics["ratio/min"], metrics["ratio/max"]) == (1.0, 3.0)
    assert metrics["noise/median"] == pytest.approx(0.3)
    assert (metrics["learner/sequences"], metrics["learner/tokens"]) == (2, 10)
    assert (metrics["learner/passes"], metrics["learner/read_seconds"]) == (1, 3.0)
    assert not any(name in metrics for name in ("kl", "loss", "spanning/median"))
