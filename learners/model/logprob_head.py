"""Log-probabilities from hidden states without the matrix of all logits.

Logits [N, V] of N tokens over V words are made a chunk of tokens at a time, once for the values and
once more for the gradient. Where all of them fit in one chunk they are kept from one to the other,
for which there is room then, and are computed once.

Peak memory beside weights and hidden states, at `chunk` = max(1, logits_at_once / V) tokens, where
`learning.logits_mib` sets logits_at_once:

    2 · 4 · min(N, chunk) · V bytes: logits and their softmax, float32
    2 more · min(N, chunk) · V where the weights are bfloat16: the product, before it is float32
    and the gradients: V · H of the weight if it is trained, N · H of the hidden states

against 3 · 4 · N · V where all logits, their log-softmax and its gradient exist.
"""

import torch
from torch import Tensor, nn

LOGITS_AT_ONCE = 2**27  # elements: 512 MiB in float32


class LogprobHead(nn.Module):
    """log softmax(W·h) at the target, and the entropy, chunk by chunk.

    A module of its own with the weight as its parameter, because ZeRO-3 gathers parameters by
    module, and because every rank must call it once a pass, whatever the number of its chunks.
    """

    def __init__(self, weight_VH: Tensor, *, logits_at_once: int):
        super().__init__()
        self.weight = weight_VH
        self.chunk = max(1, logits_at_once // weight_VH.shape[0])

    def forward(self, hidden_NH: Tensor, target_N: Tensor) -> tuple[Tensor, Tensor]:
        """Float32, [N] each; only the log-probabilities carry a gradient."""
        logprobs_N, entropy_N = _ChunkedLogprobs.apply(  # pyright: ignore
            hidden_NH, self.weight, target_N, self.chunk
        )
        return logprobs_N, entropy_N


class _ChunkedLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_NH, weight_VH, target_N, chunk):
        logprobs, entropies, normalisers = [], [], []
        kept = None
        for hidden, target in zip(hidden_NH.split(chunk), target_N.split(chunk), strict=True):
            logits = (hidden @ weight_VH.T).float()
            normaliser = logits.logsumexp(-1)
            logprobs.append(logits.gather(-1, target[:, None])[:, 0] - normaliser)
            normalisers.append(normaliser)
            share = (logits - normaliser[:, None]).exp_()
            entropies.append(normaliser - logits.mul_(share).sum(-1))
            if len(hidden_NH) <= chunk and any(ctx.needs_input_grad):
                kept = share
            del logits, share
        ctx.chunk = chunk
        ctx.save_for_backward(hidden_NH, weight_VH, target_N, torch.cat(normalisers), kept)
        entropy_N = torch.cat(entropies)
        ctx.mark_non_differentiable(entropy_N)
        return torch.cat(logprobs), entropy_N

    @staticmethod
    def backward(ctx, *gradients):
        """∂ log p(target) / ∂ logits = onehot(target) − softmax."""
        hidden_NH, weight_VH, target_N, normaliser_N, kept = ctx.saved_tensors
        chunk = ctx.chunk
        hidden_gradients = []
        trains_weight = ctx.needs_input_grad[1]
        weight_gradient = torch.zeros_like(weight_VH) if trains_weight else None
        for hidden, target, normaliser, gradient in zip(
            hidden_NH.split(chunk),
            target_N.split(chunk),
            normaliser_N.split(chunk),
            gradients[0].split(chunk),
            strict=True,
        ):
            if kept is not None:
                by_logits = kept * -gradient[:, None]
            else:
                logits = (hidden @ weight_VH.T).float()
                by_logits = logits.sub_(normaliser[:, None]).exp_().mul_(-gradient[:, None])
            by_logits.scatter_add_(1, target[:, None], gradient[:, None])
            by_logits = by_logits.to(weight_VH.dtype)
            hidden_gradients.append(by_logits @ weight_VH)
            if weight_gradient is not None:
                weight_gradient.addmm_(by_logits.T, hidden)
        return torch.cat(hidden_gradients), weight_gradient, None, None
