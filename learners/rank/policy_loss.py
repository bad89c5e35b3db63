"""The loss of a pack's rows, put together from `losses`; pure, and no DeepSpeed in sight.

Clip by the objective, correction of a recomputed π_old, KL: what a rank divides by, how many passes
it makes and where gradients go is `worker`'s.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from learners.model.packing import Pack
from learners.rank.losses import (
    SequenceLosses,
    aggregated,
    cispo_loss,
    grpo_loss,
    gspo_loss,
    gspo_token_loss,
    importance_factor,
    k3,
    mean_over_tokens,
    sequence_log_ratio,
    token_importance_factor,
)
from learners.rank.training_rows import TrainingRow, padded
from o3rl.config import Correction, LearningConfig, Objective, OldLogprobs

OBJECTIVES: dict[Objective, Callable[..., SequenceLosses]] = {
    Objective.gspo: gspo_loss,
    Objective.gspo_token: gspo_token_loss,
    Objective.grpo: grpo_loss,
    Objective.cispo: cispo_loss,
}


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """Losses with their graph, and detached statistics; an entry a sequence in each."""

    losses_S: Tensor
    statistics: dict[str, Tensor]


def policy_loss(
    rows_B: Sequence[TrainingRow],
    batch: Pack,
    logprobs_ST: Tensor,
    learning: LearningConfig,
    *,
    longest: int = 1,
) -> PolicyLoss:
    """Of the rows that `batch` packs, by the log-probabilities of the weights that are trained.

    `longest` completions count whole where `learning.aggregation` is constant_length.
    """
    mask_ST, device = batch.mask_ST, logprobs_ST.device
    old_ST = padded(rows_B, "old_G", device=device)
    factor_ST, factor_S = _factors(rows_B, old_ST, mask_ST, learning)
    weights = {} if factor_ST is None else {"factor_BT": factor_ST}
    terms = OBJECTIVES[learning.objective](
        logprobs_ST,
        old_ST,
        mask_BT=mask_ST,
        advantage_B=_joined(rows_B, "advantages_G", device=device),
        clip=learning.clip,
        **weights,
    )
    losses_S = terms.losses_B
    statistics = {"ratio": terms.ratio_B, "clipped": terms.clipped_B, "outside": terms.outside_B}
    if factor_S is not None:
        statistics["factor"] = factor_S
        losses_S = losses_S if weights else losses_S * factor_S
    if learning.kl:
        kl_S = k3(logprobs_ST, padded(rows_B, "reference_G", device=device), mask_BT=mask_ST)
        statistics["kl"] = kl_S.detach()
        losses_S = losses_S + learning.kl * kl_S
    statistics["loss"] = losses_S.detach()  # means over tokens, however they are added up
    losses_S = aggregated(losses_S, mask_ST, learning.aggregation, longest=longest)
    return PolicyLoss(losses_S, statistics)


def engine_noise(
    rows_B: Sequence[TrainingRow], batch: Pack, logprobs_ST: Tensor
) -> dict[str, Tensor]:
    """|log s| over the tokens that the current weights sampled, by their two engines.

    `spanning` where older weights began the completion: the sampler read a cache that they made.
    """
    device = logprobs_ST.device
    fresh_S = _joined(rows_B, "fresh_G", device=device)
    spans_S = _joined(rows_B, "spans_G", device=device)
    places_T = torch.arange(batch.mask_ST.shape[1], device=device)
    fresh_ST = batch.mask_ST & (places_T >= fresh_S[:, None])
    sampler_ST = padded(rows_B, "sampler_G", device=device)
    gaps_S = sequence_log_ratio(logprobs_ST, sampler_ST, mask_BT=fresh_ST).abs()
    has_S = fresh_ST.any(1)
    return {"noise": gaps_S[has_S & (spans_S == 1)], "spanning": gaps_S[has_S & (spans_S > 1)]}


def _factors(
    rows_B: Sequence[TrainingRow], old_ST: Tensor, mask_ST: Tensor, learning: LearningConfig
) -> tuple[Tensor | None, Tensor | None]:
    """What a recomputed π_old is weighed by: of tokens where it is by token, and of sequences."""
    corrects = learning.correction is not Correction.none
    if learning.old_logprobs is OldLogprobs.sampler or not corrects:
        return None, None
    sampler_ST = padded(rows_B, "sampler_G", device=old_ST.device)
    if learning.correction is Correction.sequence:
        return None, importance_factor(old_ST, sampler_ST, mask_BT=mask_ST)
    factor_ST = token_importance_factor(old_ST, sampler_ST, mask_BT=mask_ST)
    return factor_ST, mean_over_tokens(factor_ST, mask_ST)


def _joined(rows_B: Sequence[TrainingRow], name: str, *, device: torch.device) -> Tensor:
    return torch.tensor([value for row in rows_B for value in getattr(row, name)], device=device)
