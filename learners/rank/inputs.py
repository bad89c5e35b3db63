"""From a prompt and its frames to what the model reads, and the checks that nothing differs.

The rollout engine and the learner expand the same prompt from the same pixels, each for itself. A
group where their token ids or pixels differ is refused: a `Failure` with its reason, to be counted.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from transformers import PretrainedConfig, PreTrainedModel, ProcessorMixin

from learners.model.packing import PromptInputs, Segment
from learners.rank.settings import Fetch
from o3rl.config import PromptStyle
from o3rl.media.decoder import MediaError
from o3rl.media.reader import frames_digest
from o3rl.text.boxes import BoxConvention, convention_of
from o3rl.text.control_tokens import control_tokens, inert_row
from o3rl.text.prompts import messages, rendered, target
from o3rl.types import Failure, FailureKind, Group, Prompt


@dataclass(frozen=True)
class Reader:
    """Turns prompts into model inputs; one of its kind per learner rank, no state.

    `max_tokens` is the longest row that may go through the model at once.
    """

    processor: Any
    rope_index: Callable[..., tuple[torch.Tensor, torch.Tensor]]
    config: PretrainedConfig
    style: PromptStyle
    convention: BoxConvention
    max_tokens: int
    control: re.Pattern[str]  # what the tokenizer would not read as text

    @classmethod
    def of(
        cls,
        policy: PreTrainedModel,
        processor: ProcessorMixin,
        *,
        style: PromptStyle,
        max_tokens: int,
    ) -> "Reader":
        """A reader for this policy's family.

        Frames come at their size: the processor's own lower limit (65,536 px with Qwen3-VL) is off.
        """
        core: Any = policy.get_submodule("model")
        images: Any = processor.image_processor  # pyright: ignore[reportAttributeAccessIssue]
        images.size = {"shortest_edge": 1, "longest_edge": images.size["longest_edge"]}
        return cls(
            processor=processor,
            rope_index=core.get_rope_index,
            config=policy.config,
            style=style,
            convention=convention_of(policy.config.model_type),
            max_tokens=max_tokens,
            control=control_tokens(getattr(processor, "tokenizer", None)),
        )

    def prompt(self, prompt: Prompt, frames_FHW3: np.ndarray) -> PromptInputs:
        """Tokens, positions and patches of a prompt.

        Frames must have the plan's number and size, which the processor must keep.
        """
        plan = prompt.plan
        width, height = plan.size
        expected = (len(plan.times_F), height, width, 3)
        assert frames_FHW3.shape == expected, (frames_FHW3.shape, expected)
        row = inert_row(prompt.row, self.control)
        chat = messages(row, plan, style=self.style, convention=self.convention)
        text = rendered(self.processor, chat)
        images = [Image.fromarray(frame) for frame in frames_FHW3]
        inputs = self.processor(text=[text], images=images, return_tensors="pt")
        self._check_kept(inputs["image_grid_thw"], height=height, width=width)
        positions_31P, _ = self.rope_index(
            inputs["input_ids"],
            mm_token_type_ids=inputs["mm_token_type_ids"],
            image_grid_thw=inputs["image_grid_thw"],
        )
        return PromptInputs(
            tokens_P=inputs["input_ids"][0],
            positions_3P=positions_31P[:, 0],
            pixels_ND=inputs["pixel_values"],
            grid_I3=inputs["image_grid_thw"],
        )

    def group(self, group: Group, fetch: Fetch) -> Segment | Failure:
        """The prompt and completions of a group, or why it cannot be trained."""
        number = group.prompt.group
        for rollout in group.rollouts_G:
            reason = self._refusal(rollout.tokens_T, prompt=len(group.prompt_tokens_T))
            if reason is not None:
                return Failure(number, rollout.sample, reason, FailureKind.LEARNER)
        try:
            frames_FHW3 = fetch(group.prompt.media_key)
        except MediaError as error:
            return Failure(number, None, f"frames: {error}", FailureKind.FILE)
        except TimeoutError as error:
            return Failure(number, None, f"frames: {error}", FailureKind.SERVICE)
        seen = frames_digest(frames_FHW3)
        if seen != group.frames_digest:
            reason = f"frames differ: {seen} here, {group.frames_digest} sampled"
            return Failure(number, None, reason, FailureKind.LEARNER)
        inputs = self.prompt(group.prompt, frames_FHW3)
        tokens_P = tuple(inputs.tokens_P.tolist())
        if tokens_P != group.prompt_tokens_T:
            reason = _difference(tokens_P, group.prompt_tokens_T)
            return Failure(number, None, reason, FailureKind.LEARNER)
        return Segment(inputs, tuple(rollout.tokens_T for rollout in group.rollouts_G))

    def row(self, prompt: Prompt, fetch: Fetch) -> Segment | Failure:
        """A row with reasoning as prompt and the one completion that SFT teaches, end of turn last.

        Raises ValueError if the row has no reasoning.
        """
        row = inert_row(prompt.row, self.control)
        text = target(row, prompt.plan, convention=self.convention)
        tokenizer = self.processor.tokenizer
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        completion = (*tokens, tokenizer.eos_token_id)
        try:
            frames_FHW3 = fetch(prompt.media_key)
        except MediaError as error:
            return Failure(prompt.group, None, f"frames: {error}", FailureKind.FILE)
        except TimeoutError as error:
            return Failure(prompt.group, None, f"frames: {error}", FailureKind.SERVICE)
        inputs = self.prompt(prompt, frames_FHW3)
        reason = self._refusal(completion, prompt=len(inputs.tokens_P))
        if reason is not None:
            return Failure(prompt.group, 0, reason, FailureKind.LEARNER)
        return Segment(inputs, (completion,))

    def _refusal(self, completion: Sequence[int], *, prompt: int) -> str | None:
        for name in ("image_token_id", "video_token_id"):
            if getattr(self.config, name) in completion:
                return f"completion holds the placeholder {name} {getattr(self.config, name)}"
        if prompt + len(completion) > self.max_tokens:
            return (
                f"prompt of {prompt} and completion of {len(completion)} tokens exceed "
                f"learning.tokens_per_pass ({self.max_tokens})"
            )
        return None

    def _check_kept(self, grid_I3: torch.Tensor, *, height: int, width: int) -> None:
        patch = self.processor.image_processor.patch_size
        kept = {(int(h) * patch, int(w) * patch) for _, h, w in grid_I3}
        assert kept == {(height, width)}, (
            f"the processor resized frames of {height}×{width} px to {sorted(kept)}"
        )


def _difference(ours_P: Sequence[int], theirs_P: Sequence[int]) -> str:
    pairs = zip(ours_P, theirs_P, strict=False)
    place = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(ours_P), len(theirs_P)))
    return (
        f"prompt tokens differ from place {place} on: {list(ours_P[place : place + 4])} of "
        f"{len(ours_P)} here, {list(theirs_P[place : place + 4])} of {len(theirs_P)} sampled"
    )


Item = TypeVar("Item")


Result = TypeVar("Result")


def prefetched(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """`work` of each item, in order; an error comes where its result would have.

    One thread, so that `work` is never called twice at once; `work` bounds its own waits.
    """
    coming: Future[Result] | None = None
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as thread:
        for item in items:
            following = thread.submit(work, item)
            if coming is not None:
                yield coming.result()
            coming = following
        if coming is not None:
            yield coming.result()
