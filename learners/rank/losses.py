"""The objectives as pure functions of named arrays, their KL term, corrections and sums.

Losses come back per sequence, never averaged: the learner divides their sum by the number of
sequences of the whole mini-batch over all ranks, so that neither packing nor ranks change an
update.
Sequences are rows (`_B`), tokens columns (`_T`); masked entries may hold anything finite.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from o3rl.config import Aggregation

FACTOR_CAP = 2.0  # upper bound of the importance factor of recomputed old log-probabilities


@dataclass(frozen=True, slots=True)
class SequenceLosses:
    """Losses with their graph, and detached statistics of each sequence.

    `ratio_B` is the sequence ratio. `clipped_B` is the share of a sequence (GSPO: 0 or 1, else of
    its tokens) where the clip is active, that is where it takes the gradient away; `outside_B`
    where the ratio lies outside of the clip range, whatever the advantage's sign.
    """

    losses_B: Tensor
    ratio_B: Tensor
    clipped_B: Tensor
    outside_B: Tensor


def gspo_loss(
    new_BT: Tensor,
    old_BT: Tensor,
    *,
    mask_BT: Tensor,
    advantage_B: Tensor,
    clip: tuple[float, float],
) -> SequenceLosses:
    """GSPO (arXiv 2507.18071): min(s·A, clip(s, 1 − ε_low, 1 + ε_high)·A), negated, per sequence.

    s = exp(mean over tokens of log π_θ − log π_old). A row without a token has ratio 1.
    """
    _check(new_BT, old_BT, mask_BT, advantage_B)
    ratio_B = mean_over_tokens(new_BT - old_BT, mask_BT).exp()
    bounded_B = ratio_B.clamp(1 - clip[0], 1 + clip[1])
    plain_B, held_B = ratio_B * advantage_B, bounded_B * advantage_B
    return SequenceLosses(
        losses_B=-torch.minimum(plain_B, held_B),
        ratio_B=ratio_B.detach(),
        clipped_B=(held_B < plain_B).detach().to(new_BT.dtype),
        outside_B=(bounded_B != ratio_B).detach().to(new_BT.dtype),
    )


def gspo_token_loss(
    new_BT: Tensor,
    old_BT: Tensor,
    *,
    mask_BT: Tensor,
    advantage_B: Tensor,
    clip: tuple[float, float],
    factor_BT: Tensor | None = None,
) -> SequenceLosses:
    """GSPO-token (arXiv 2507.18071): s_t = sg[s]·π_θ/sg[π_θ], clipped by token, mean over them.

    Its value is GSPO's, and so is its gradient but for `factor_BT`, which weighs tokens.
    """
    _check(new_BT, old_BT, mask_BT, advantage_B)
    new_BT = new_BT.masked_fill(~mask_BT, 0.0)
    log_ratio_B = sequence_log_ratio(new_BT, old_BT, mask_BT=mask_BT)
    log_ratio_BT = log_ratio_B[:, None] + new_BT - new_BT.detach()
    return _token_terms(log_ratio_BT, mask_BT, advantage_B, clip, factor_BT)


def grpo_loss(
    new_BT: Tensor,
    old_BT: Tensor,
    *,
    mask_BT: Tensor,
    advantage_B: Tensor,
    clip: tuple[float, float],
    factor_BT: Tensor | None = None,
) -> SequenceLosses:
    """GRPO (arXiv 2402.03300, eq. 3, without its KL): one ratio per token, mean over a sequence."""
    _check(new_BT, old_BT, mask_BT, advantage_B)
    log_ratio_BT = (new_BT - old_BT).masked_fill(~mask_BT, 0.0)
    return _token_terms(log_ratio_BT, mask_BT, advantage_B, clip, factor_BT)


def cispo_loss(
    new_BT: Tensor,
    old_BT: Tensor,
    *,
    mask_BT: Tensor,
    advantage_B: Tensor,
    clip: tuple[float, float],
    factor_BT: Tensor | None = None,
) -> SequenceLosses:
    """CISPO (MiniMax-M1, arXiv 2506.13585, eq. 4): −sg[clip(r)]·A·log π_θ, mean over a sequence.

    The paper's mean is over all tokens (`aggregated`). No token loses its gradient: `clipped_B` is
    the share whose weight is cut.
    """
    _check(new_BT, old_BT, mask_BT, advantage_B)
    log_ratio_BT = (new_BT - old_BT).detach().masked_fill(~mask_BT, 0.0)
    ratio_BT = log_ratio_BT.exp()
    bounded_BT = ratio_BT.clamp(1 - clip[0], 1 + clip[1])
    weight_BT = bounded_BT if factor_BT is None else bounded_BT * factor_BT
    outside_B = mean_over_tokens((bounded_BT != ratio_BT).to(new_BT.dtype), mask_BT)
    return SequenceLosses(
        losses_B=-mean_over_tokens(weight_BT * new_BT, mask_BT) * advantage_B,
        ratio_B=mean_over_tokens(log_ratio_BT, mask_BT).exp(),
        clipped_B=outside_B,
        outside_B=outside_B,
    )


def aggregated(
    losses_B: Tensor, mask_BT: Tensor, aggregation: Aggregation, *, longest: int
) -> Tensor:
    """A sequence's part of a mini-batch's loss, from its mean over tokens.

    To be divided by the mini-batch's sequences, or by its tokens for token_mean (DAPO, arXiv
    2503.14476). constant_length (Dr. GRPO, arXiv 2503.20783): tokens' sum over `longest`.
    """
    if aggregation is Aggregation.sequence_mean:
        return losses_B
    sums_B = losses_B * mask_BT.sum(1)
    return sums_B if aggregation is Aggregation.token_mean else sums_B / longest


def k3(new_BT: Tensor, reference_BT: Tensor, *, mask_BT: Tensor) -> Tensor:
    """KL(π_θ ‖ π_ref) per sequence by the estimator k3: r − 1 − log r, r = π_ref/π_θ, token mean.

    Schulman, "Approximating KL divergence" (2020); never negative.
    """
    gap_BT = (reference_BT - new_BT).masked_fill(~mask_BT, 0.0)
    return mean_over_tokens(gap_BT.exp() - 1 - gap_BT, mask_BT)


def importance_factor(recomputed_BT: Tensor, sampler_BT: Tensor, *, mask_BT: Tensor) -> Tensor:
    """π_recomputed/π_sampler of each sequence: length-normalised, cut at FACTOR_CAP, detached."""
    gap_B = sequence_log_ratio(recomputed_BT, sampler_BT, mask_BT=mask_BT)
    return gap_B.exp().clamp(max=FACTOR_CAP)


def token_importance_factor(
    recomputed_BT: Tensor, sampler_BT: Tensor, *, mask_BT: Tensor
) -> Tensor:
    """The same of each token (truncated importance sampling, Yao et al. 2025); 1 where masked."""
    gap_BT = (recomputed_BT - sampler_BT).detach().masked_fill(~mask_BT, 0.0)
    return gap_BT.exp().clamp(max=FACTOR_CAP)


def sequence_log_ratio(new_BT: Tensor, old_BT: Tensor, *, mask_BT: Tensor) -> Tensor:
    """log s of each sequence, detached; of an untouched policy it is the engine's noise."""
    return mean_over_tokens(new_BT.detach() - old_BT.detach(), mask_BT)


def mean_over_tokens(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean of the unmasked entries of each row; 0 for a row without any."""
    return values_BT.masked_fill(~mask_BT, 0.0).sum(1) / mask_BT.sum(1).clamp(min=1)


def _token_terms(
    log_ratio_BT: Tensor,
    mask_BT: Tensor,
    advantage_B: Tensor,
    clip: tuple[float, float],
    factor_BT: Tensor | None,
) -> SequenceLosses:
    """min(r·A, clip(r)·A) of each token, negated, weighed; the mean over a sequence."""
    ratio_BT = log_ratio_BT.exp()
    bounded_BT = ratio_BT.clamp(1 - clip[0], 1 + clip[1])
    plain_BT, held_BT = ratio_BT * advantage_B[:, None], bounded_BT * advantage_B[:, None]
    terms_BT = torch.minimum(plain_BT, held_BT)
    terms_BT = terms_BT if factor_BT is None else terms_BT * factor_BT
    return SequenceLosses(
        losses_B=-mean_over_tokens(terms_BT, mask_BT),
        ratio_B=mean_over_tokens(log_ratio_BT, mask_BT).exp().detach(),
        clipped_B=mean_over_tokens((held_BT < plain_BT).to(plain_BT.dtype), mask_BT),
        outside_B=mean_over_tokens((bounded_BT != ratio_BT).to(plain_BT.dtype), mask_BT),
    )


def _check(new_BT: Tensor, old_BT: Tensor, mask_BT: Tensor, advantage_B: Tensor) -> None:
    assert new_BT.shape == old_BT.shape == mask_BT.shape, (new_BT.shape, old_BT.shape)
    assert advantage_B.shape == new_BT.shape[:1], (advantage_B.shape, new_BT.shape)
    assert mask_BT.dtype is torch.bool, mask_BT.dtype
    assert not old_BT.requires_grad
