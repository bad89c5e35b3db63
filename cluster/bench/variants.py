"""One step of learning from a group, by the variants that `bench learner` compares.

Forward and backward, gradients of all parameters, no optimiser; on the same weights:

- `shared`: what the learner runs, one row `[prompt | c1 | … | cG]`;
- `masked`: the same row by SDPA with a mask, to compare flex attention with;
- `sequential`: plain transformers, one pass per completion, `is_causal` SDPA, logits at completion
  positions only, gradients summed up;
- `batched`: the same with all copies in one batch.
"""

import gc
from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from learners.model import attention
from learners.model.packing import PackedPolicy, Segment, pack

Step = Callable[[], Tensor]


def step_of(name: str, policy: PreTrainedModel, segment: Segment) -> Step:
    """One step as a function without arguments; it gives the log-probabilities [G, C]."""
    variants = {"shared": _shared, "masked": _masked}
    variants |= {"sequential": _sequential, "batched": _batched}
    return variants[name](policy, segment, _weights(segment, policy.device))


def _shared(policy: PreTrainedModel, segment: Segment, weights_GC: Tensor) -> Step:
    packed = PackedPolicy(policy)
    batch = pack([segment]).to(policy.device)

    def step() -> Tensor:
        attention.use(policy)
        logprobs_GC, _ = packed(batch)
        (logprobs_GC * weights_GC).sum().backward()
        return logprobs_GC.detach()

    return step


def _masked(policy: PreTrainedModel, segment: Segment, weights_GC: Tensor) -> Step:
    """The shared row as one text to transformers, who sees whom given as a mask."""
    packed = PackedPolicy(policy)
    batch = pack([segment]).to(policy.device)
    seen_11LL = attention.attention_mask(batch.layout).to(policy.device)[None, None]

    def step() -> Tensor:
        policy.set_attn_implementation({"text_config": "sdpa"})
        hidden_1LH = packed.core(
            input_ids=batch.tokens_1L,
            position_ids=batch.positions_31L,
            attention_mask={"full_attention": seen_11LL},
            pixel_values=batch.pixels_ND,
            image_grid_thw=batch.grid_I3,
            use_cache=False,
        ).last_hidden_state
        hidden_NH = hidden_1LH[0].index_select(0, batch.predictor_N)
        logprobs_N, _ = packed.head(hidden_NH, batch.target_N)
        logprobs_GC = batch.scatter(logprobs_N)
        (logprobs_GC * weights_GC).sum().backward()
        return logprobs_GC.detach()

    return step


def _sequential(policy: PreTrainedModel, segment: Segment, weights_GC: Tensor) -> Step:
    inputs, targets_GC = _copies(policy, segment, 1), _targets(segment, policy.device)

    def step() -> Tensor:
        found = []
        for targets_C, weights_C in zip(targets_GC, weights_GC, strict=True):
            found.append(_plain(policy, inputs, targets_C[None], weights_C[None]))
        return torch.cat(found)

    return step


def _batched(policy: PreTrainedModel, segment: Segment, weights_GC: Tensor) -> Step:
    inputs = _copies(policy, segment, len(weights_GC))
    targets_GC = _targets(segment, policy.device)
    return lambda: _plain(policy, inputs, targets_GC, weights_GC)


def _plain(policy: Any, inputs: dict[str, Tensor], targets_BC: Tensor, weights_BC: Tensor):
    """Plain transformers over copies of the prompt; the last token of each is not read."""
    policy.set_attn_implementation({"text_config": "sdpa"})
    prompts_BP = inputs["prompts_BP"]
    tokens_BL = torch.cat([prompts_BP, targets_BC[:, :-1]], 1)
    logits_BCV = policy(
        input_ids=tokens_BL,
        pixel_values=inputs["pixels_ND"],
        image_grid_thw=inputs["grid_I3"],
        mm_token_type_ids=(tokens_BL == policy.config.image_token_id).int(),
        logits_to_keep=targets_BC.shape[1],
        use_cache=False,
    ).logits
    losses_N = torch.nn.functional.cross_entropy(
        logits_BCV.flatten(0, 1).float(), targets_BC.flatten(), reduction="none"
    )
    logprobs_BC = -losses_N.view(targets_BC.shape)
    (logprobs_BC * weights_BC).sum().backward()
    return logprobs_BC.detach()


def _copies(policy: PreTrainedModel, segment: Segment, count: int) -> dict[str, Tensor]:
    prompt = segment.prompt
    return {
        "prompts_BP": prompt.tokens_P.repeat(count, 1).to(policy.device),
        "pixels_ND": prompt.pixels_ND.repeat(count, 1).to(policy.device),
        "grid_I3": prompt.grid_I3.repeat(count, 1).to(policy.device),
    }


def _targets(segment: Segment, device: torch.device) -> Tensor:
    return torch.tensor(segment.completions_G, device=device)


def _weights(segment: Segment, device: torch.device) -> Tensor:
    """Gradients of the loss by each log-probability, as advantages of both signs give."""
    group, length = len(segment.completions_G), len(segment.completions_G[0])
    weights_G = torch.linspace(-1, 1, group + 2, device=device)[1:-1]
    return (weights_G[:, None] / length).expand(group, length)


def timed_step(step: Step, policy: PreTrainedModel) -> float:
    policy.zero_grad(set_to_none=True)
    gc.collect()
    _wait(policy.device)
    started = perf_counter()
    step()
    _wait(policy.device)
    return perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
