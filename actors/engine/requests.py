"""What goes to vLLM for one sample, and what comes back as rollouts and a group."""

import math
import re
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image
from vllm import SamplingParams, TokensPrompt
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind

from o3rl.media.reader import frames_digest
from o3rl.text.control_tokens import inert
from o3rl.types import (
    Failure,
    FailureKind,
    FinishReason,
    Group,
    Message,
    Prompt,
    ReplySampling,
    Rollout,
    Version,
)

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


def inert_chat(
    messages: Sequence[Message], control: re.Pattern[str], *, images: int
) -> list[Message]:
    """Chat messages whose texts hold no control token. ValueError unless they show `images`."""
    shown, chat = 0, []
    for message in messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        kept = []
        for part in parts:
            shown += part["type"] == "image"
            kept.append(
                {"type": "text", "text": inert(part["text"], control)}
                if part["type"] == "text"
                else {"type": "image"}
            )
        chat.append({"role": message["role"], "content": kept})
    if shown != images:
        raise ValueError(f"the messages show {shown} images, {images} came with them")
    return chat


def question(
    tokens: Sequence[int], images: Sequence[np.ndarray], *, version: Version
) -> TokensPrompt:
    """As `request`, of pictures uint8 [H, W, 3] of any size, which are named by their content."""
    prompt = TokensPrompt(prompt_token_ids=list(tokens), cache_salt=str(version))
    if images:
        prompt["multi_modal_data"] = {"image": [Image.fromarray(image) for image in images]}
        prompt["multi_modal_uuids"] = {"image": [frames_digest(image) for image in images]}
    return prompt


def question_parameters(
    sampling: ReplySampling, *, seed: int, forbidden: Sequence[int]
) -> SamplingParams:
    """For one reply; what does not fit the model's length is cut there."""
    return SamplingParams(
        temperature=sampling.temperature,
        max_tokens=sampling.max_tokens,
        repetition_penalty=sampling.repetition_penalty,
        seed=seed,
        logit_bias=dict.fromkeys(forbidden, _FORBIDDEN),
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def group(
    prompt: Prompt,
    outputs: Sequence[RequestOutput | str],
    *,
    length: int,
    started: Version,
    frames_digest: str,
    read: Callable[[Sequence[int]], str],
) -> Group | Failure:
    """What became of a prompt's samples: an output each, or why there is none.

    `length` is that of the prompt as it was planned, `read` makes tokens a text.
    """
    results: list[Rollout | Failure] = []
    for index, output in enumerate(outputs):
        if isinstance(output, str):
            results.append(Failure(prompt.group, index, output, FailureKind.SERVICE))
            continue
        [completion] = output.outputs
        text = read(completion.token_ids)
        results.append(rollout(prompt, index, completion, started=started, text=text))
    failures = tuple(result for result in results if isinstance(result, Failure))
    seen = next((o.prompt_token_ids for o in outputs if isinstance(o, RequestOutput)), None)
    if not seen:
        reason = f"every sample failed, the first: {failures[0].reason}"
        return Failure(prompt.group, None, reason, failures[0].kind)
    assert len(seen) == length, f"vLLM expanded {prompt.media_key} to {len(seen)}, not {length}"
    return Group(
        prompt=prompt,
        rollouts_G=tuple(result for result in results if isinstance(result, Rollout)),
        prompt_tokens_T=tuple(seen),
        frames_digest=frames_digest,
        failures=failures,
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
    if not tokens or output.finish_reason not in tuple(FinishReason):
        reason = f"vLLM returned {len(tokens)} tokens, finish reason {output.finish_reason!r}"
        return Failure(prompt.group, index, reason, FailureKind.COMPLETION)
    assert output.logprobs is not None, "asked for, but vLLM returned none"
    assert output.weight_versions, "vLLM returned no versions"
    recorded = zip(output.logprobs, tokens, strict=True)
    logprobs = tuple(at[token].logprob for at, token in recorded if at is not None)
    if not all(map(math.isfinite, logprobs)):
        place = next(i for i, value in enumerate(logprobs) if not math.isfinite(value))
        reason = f"token {place} has log-probability {logprobs[place]}"
        return Failure(prompt.group, index, reason, FailureKind.COMPLETION)
    spans = tuple((span.start, parse_version(span.version)) for span in output.weight_versions)
    if spans[0][1] != started:
        spans = ((0, started), *spans)
    return Rollout(
        prompt.group, index, tokens, logprobs, spans, FinishReason(output.finish_reason), text
    )


def parse_version(label: str) -> Version:
    """The version that an engine label names, such as `0.12`."""
    incarnation, n = label.split(".")
    return Version(int(incarnation), int(n))


def check_frames(prompt: Prompt, frames: np.ndarray) -> None:
    """Raises ValueError if they are not those of the prompt's plan."""
    width, height = prompt.plan.size
    planned = (len(prompt.plan.times_F), height, width, 3)
    if frames.shape != planned or frames.dtype != np.uint8:
        raise ValueError(
            f"frames {prompt.media_key} of group {prompt.group} are {frames.dtype}"
            f"{list(frames.shape)}; the plan says uint8{list(planned)}"
        )
