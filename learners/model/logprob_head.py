"""Log-probabilities from hidden states without the matrix of all logits.

Logits [N, V] of N tokens over V words are made a chunk of tokens at a time, once for the values and
once more for the gradient. Where all of them fit in one chunk they are kept from one to the other,
for which there is room then, and are computed once.

Weights in bfloat16 are multiplied into float32: rounded to bfloat16, logits would give a token's
log-probability an error of 0.03, and the gradient one of 1 %. On a GPU the product itself does so;
on a CPU, which has none such, both sides become float32 first.

Peak memory beside weights and hidden states, at `chunk` = max(1, logits_at_once / V) tokens, where
`learning.logits_mib` sets logits_at_once:

    2 · 4 · min(N, chunk) · V bytes: logits and their softmax, float32
    2 more · min(N, chunk) · V where the weights are bfloat16: the gradient of the logits
    and the gradients: V · H of the weight if it is trained (in float32 where chunks of it are added
    up), N · H of the hidden states

against 3 · 4 · N · V where all logits, their log-softmax and its gradient exist.
"""

import torch
from torch import Tensor, nn

LOGITS_AT_ONCE = 2**27  # elements: 512 MiB in float32


class LogprobHead(nn.Module):
    """log softmax(W·h / temperature) at the target, and the entropy, chunk by chunk.

    A module of its own with the weight as its parameter, because ZeRO-3 gathers parameters by
    module, and because every rank must call it once a pass, whatever the number of its chunks.
    """

    def __init__(self, weight_VH: Tensor, *, logits_at_once: int, temperature: float = 1.0):
        super().__init__()
        self.weight = weight_VH
        self.temperature = temperature
        self.chunk = max(1, logits_at_once // weight_VH.shape[0])

    def forward(self, hidden_NH: Tensor, target_N: Tensor) -> tuple[Tensor, Tensor]:
        """Float32, [N] each; only the log-probabilities carry a gradient.

        Without gradients nobody reads entropies, and they are left out: [0].
        """
        logprobs_N, entropy_N = _ChunkedLogprobs.apply(  # pyright: ignore
            hidden_NH, self.weight, target_N, self.chunk, self.temperature, torch.is_grad_enabled()
        )
        return logprobs_N, entropy_N


def product(left: Tensor, right: Tensor) -> Tensor:
    """left @ right in float32, whatever their type."""
    if left.dtype is torch.bfloat16 and left.is_cuda:
        return torch.mm(left, right, out_dtype=torch.float32)
    return left.float() @ right.float()


def _logits(hidden_NH: Tensor, weight_VH: Tensor, temperature: float) -> Tensor:
    logits_NV = product(hidden_NH, weight_VH.T)
    return logits_NV if temperature == 1 else logits_NV.div_(temperature)


def _added(total: Tensor | None, left: Tensor, right: Tensor) -> Tensor:
    """total + left @ right, in float32."""
    if total is None:
        return product(left, right)
    return (
        total.addmm_(left, right) if left.dtype is total.dtype else total.add_(product(left, right))
    )


class _ChunkedLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_NH, weight_VH, target_N, chunk, temperature, with_entropy):
        logprobs, normalisers = [], []
        entropies = [hidden_NH.new_empty(0, dtype=torch.float32)]
        kept = None
        for hidden, target in zip(hidden_NH.split(chunk), target_N.split(chunk), strict=True):
            logits = _logits(hidden, weight_VH, temperature)
            normaliser = logits.logsumexp(-1)
            logprobs.append(logits.gather(-1, target[:, None])[:, 0] - normaliser)
            normalisers.append(normaliser)
            keeps = len(hidden_NH) <= chunk and any(ctx.needs_input_grad)
            if with_entropy or keeps:
                share = (logits - normaliser[:, None]).exp_()
                kept = share if keeps else None
                entropies.append(normaliser - logits.mul_(share).sum(-1))
                del share
            del logits
        ctx.chunk, ctx.temperature = chunk, temperature
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
        weight_gradient = None
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
                logits = _logits(hidden, weight_VH, ctx.temperature)
                by_logits = logits.sub_(normaliser[:, None]).exp_().mul_(-gradient[:, None])
            by_logits.scatter_add_(1, target[:, None], gradient[:, None])
            if ctx.temperature != 1:
                by_logits.div_(ctx.temperature)
            by_logits = by_logits.to(weight_VH.dtype)
            hidden_gradients.append(product(by_logits, weight_VH).to(hidden.dtype))
            if ctx.needs_input_grad[1]:
                weight_gradient = _added(weight_gradient, by_logits.T, hidden)
        if weight_gradient is not None:
            weight_gradient = weight_gradient.to(weight_VH.dtype)
        return torch.cat(hidden_gradients), weight_gradient, None, None, None, None
