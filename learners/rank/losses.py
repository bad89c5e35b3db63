"""The objectives as pure functions of named arrays: GSPO, GRPO and their KL term.

Losses come back per sequence, never averaged: the learner divides their sum by the number of
sequences of the whole mini-batch over all ranks, so that neither packing nor ranks change an
update.
Sequences are rows (`_B`), tokens columns (`_T`); masked entries may hold anything finite.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

FACTOR_CAP = 2.0  # upper bound of the importance factor of recomputed old log-probabilities


@dataclass(frozen=True, slots=True)
class SequenceLosses:
    """Losses with their graph, and detached statistics of each sequence.

    `ratio_B` is the sequence ratio. `clipped_B` is the share of a sequence (GSPO: 0 or 1, GRPO: of
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


def grpo_loss(
    new_BT: Tensor,
    old_BT: Tensor,
    *,
    mask_BT: Tensor,
    advantage_B: Tensor,
    clip: tuple[float, float],
) -> SequenceLosses:
    """GRPO (arXiv 2402.03300, eq. 3, without its KL): one ratio per token, mean over a sequence."""
    _check(new_BT, old_BT, mask_BT, advantage_B)
    difference_BT = (new_BT - old_BT).masked_fill(~mask_BT, 0.0)
    ratio_BT = difference_BT.exp()
    bounded_BT = ratio_BT.clamp(1 - clip[0], 1 + clip[1])
    plain_BT, held_BT = ratio_BT * advantage_B[:, None], bounded_BT * advantage_B[:, None]
    return SequenceLosses(
        losses_B=-mean_over_tokens(torch.minimum(plain_BT, held_BT), mask_BT),
        ratio_B=mean_over_tokens(difference_BT, mask_BT).exp().detach(),
        clipped_B=mean_over_tokens((held_BT < plain_BT).to(new_BT.dtype), mask_BT),
        outside_B=mean_over_tokens((bounded_BT != ratio_BT).to(new_BT.dtype), mask_BT),
    )


def k3(new_BT: Tensor, reference_BT: Tensor, *, mask_BT: Tensor) -> Tensor:
    """KL(π_θ ‖ π_ref) per sequence by the estimator k3: r − 1 − log r, r = π_ref/π_θ, token mean.

    Schulman, "Approximating KL divergence" (2020); never negative.
    """
    gap_BT = (reference_BT - new_BT).masked_fill(~mask_BT, 0.0)
    return mean_over_tokens(gap_BT.exp() - 1 - gap_BT, mask_BT)


def importance_factor(
    recomputed_BT: Tensor, sampler_BT: Tensor, *, mask_BT: Tensor, cap: float = FACTOR_CAP
) -> Tensor:
    """π_recomputed/π_sampler of each sequence: length-normalised, cut at `cap`, detached."""
    return sequence_log_ratio(recomputed_BT, sampler_BT, mask_BT=mask_BT).exp().clamp(max=cap)


def sequence_log_ratio(new_BT: Tensor, old_BT: Tensor, *, mask_BT: Tensor) -> Tensor:
    """log s of each sequence, detached; of an untouched policy it is the engine's noise."""
    return mean_over_tokens(new_BT.detach() - old_BT.detach(), mask_BT)


def mean_over_tokens(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean of the unmasked entries of each row; 0 for a row without any."""
    return values_BT.masked_fill(~mask_BT, 0.0).sum(1) / mask_BT.sum(1).clamp(min=1)


def _check(new_BT: Tensor, old_BT: Tensor, mask_BT: Tensor, advantage_B: Tensor) -> None:
    assert new_BT.shape == old_BT.shape == mask_BT.shape, (new_BT.shape, old_BT.shape)
    assert advantage_B.shape == new_BT.shape[:1], (advantage_B.shape, new_BT.shape)
    assert mask_BT.dtype is torch.bool, mask_BT.dtype
    assert not old_BT.requires_grad
