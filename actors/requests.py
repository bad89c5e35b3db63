"""What goes to vLLM for one sample, and what comes back as a rollout."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from vllm import SamplingParams, TokensPrompt
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind

from o3rl.flow import Failure, Prompt, Rollout, Version
from o3rl.weights import Bucket

_FORBIDDEN = -100.0  # added to a logit: never sampled


def request(
    prompt: Prompt, tokens: Sequence[int], frames: np.ndarray, *, version: Version
) -> TokensPrompt:
    """One prompt for vLLM; siblings share its images by name and its prefix by salt.

    `tokens` hold one image placeholder a frame, which vLLM expands. The salt keeps prompt caches of
    different weights apart.
    """
    return TokensPrompt(
        prompt_token_ids=list(tokens),
        multi_modal_data={"image": [Image.fromarray(frame) for frame in frames]},
        multi_modal_uuids={"image": [f"{prompt.media_key}:{f}" for f in range(len(frames))]},
        cache_salt=str(version),
    )


def parameters(
    *, temperature: float, top_p: float, max_tokens: int, seed: int, forbidden: Sequence[int]
) -> SamplingParams:
    """For one sample; the log-probability of each sampled token comes with it."""
    return SamplingParams(
        temperature=temperature,
        top_p=top_p if temperature > 0 else 1.0,
        max_tokens=max_tokens,
        seed=seed,
        logprobs=0,
        logit_bias=dict.fromkeys(forbidden, _FORBIDDEN),
        detokenize=False,  # once, at the end, by us
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def rollout(
    prompt: Prompt, index: int, output: CompletionOutput, *, started: Version, text: str
) -> Rollout | Failure:
    """A finished completion as sample `index`; empty, aborted or NaN, it is a failure.

    `started` is the version whose prompt cache it may have read. Where its first token was sampled
    by a later one (an update came between), an empty span of `started` leads the spans, so that it
    counts as a rollout of several versions.
    """
    tokens = tuple(output.token_ids)
    if not tokens or output.finish_reason not in ("stop", "length"):
        reason = f"vLLM returned {len(tokens)} tokens, finish reason {output.finish_reason!r}"
        return Failure(prompt.group, index, reason)
    assert output.logprobs is not None, "asked for, but vLLM returned none"
    assert output.weight_versions, "vLLM returned no versions"
    recorded = zip(output.logprobs, tokens, strict=True)
    logprobs = tuple(at[token].logprob for at, token in recorded if at is not None)
    if not all(map(math.isfinite, logprobs)):
        place = next(i for i, value in enumerate(logprobs) if not math.isfinite(value))
        return Failure(prompt.group, index, f"token {place} has log-probability {logprobs[place]}")
    spans = tuple((span.start, parse_version(span.version)) for span in output.weight_versions)
    if spans[0][1] != started:
        spans = ((0, started), *spans)
    return Rollout(prompt.group, index, tokens, logprobs, spans, output.finish_reason, text)


def parse_version(label: str) -> Version:
    """The version that an engine label names, such as `0.12`."""
    incarnation, n = label.split(".")
    return Version(int(incarnation), int(n))


def update_info(bucket: Bucket, path: Path) -> dict[str, Any]:
    """One bucket of a weight update, as plain values: they cross to the workers by msgpack."""
    entries = [[e.name, e.dtype, list(e.shape), e.digest] for e in bucket.tensors]
    return {"path": str(path), "index": bucket.index, "entries": entries}


def only(output: RequestOutput) -> CompletionOutput:
    """The completion of a request for one sample."""
    [completion] = output.outputs
    return completion
