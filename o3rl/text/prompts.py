"""From a row to what the model reads, and for SFT to what it should write.

One place for the frame lines, the instructions and the target text, so that SFT, RL, evaluation and
`o3rl answer` show the model the same thing. Chat messages are plain dictionaries of the Hugging
Face chat form; frames are referred to, never held.
"""

import re
from typing import Any, Protocol

from o3rl.config import PromptStyle, RolloutsConfig, SamplingConfig
from o3rl.text.boxes import BoxConvention, numbers_of
from o3rl.types import Box, FramePlan, Row, Task

_SYSTEM = (
    "You {look} and answer the question. First think between <think> and </think>{evidence}. "
    "Then answer between <answer> and </answer>."
)
_VIDEO, _IMAGE = "watch the frames of a video", "look at an image"

_CLAIM = "<obj>name</obj><box>[x1,y1,x2,y2]</box>"
_TIMES = "; write each time that you mention as <t>seconds</t>s"
_EVIDENCE = {  # what a thought of the task cites; `{unit}` is the model family's for boxes
    Task.MCQ: "",
    Task.FREE_FORM: "",
    Task.TEMPORAL_SPATIAL: (
        f"; cite each piece of evidence as {_CLAIM}at<t>seconds</t>s, the box in {{unit}} of the "
        "frame and the time that its line gives"
    ),
    Task.TEMPORAL: _TIMES,
    Task.TEMPORAL_MCQ: _TIMES,
    Task.VISUAL: f"; cite each piece of evidence as {_CLAIM}, the box in {{unit}} of the image",
}

_INSTRUCTION = {
    Task.MCQ: "Answer with the letter of the option.",
    Task.FREE_FORM: "Answer in a short text.",
    Task.TEMPORAL_SPATIAL: "Cite the objects, boxes and times that show it; answer in a few words.",
    Task.TEMPORAL: "Answer as From <t>start</t>s to <t>end</t>s.",
    Task.TEMPORAL_MCQ: (
        "Answer as From <t>start</t>s to <t>end</t>s. and on a new line Correct Option: and its "
        "letter."
    ),
    Task.VISUAL: "Answer as <obj>name</obj><box>[x1,y1,x2,y2]</box>.",
}

BRIEF = {
    Task.MCQ: "Option?",
    Task.FREE_FORM: "Short text.",
    Task.TEMPORAL_SPATIAL: "Show it.",
    Task.TEMPORAL: "From when to when?",
    Task.TEMPORAL_MCQ: "From when to when? Option?",
    Task.VISUAL: "Box.",
}


class ChatTemplate(Protocol):
    """A tokenizer or processor of transformers."""

    def apply_chat_template(self, chat: list[dict[str, Any]], /, **settings: Any) -> Any:
        """The chat as one text."""
        ...


_NUMBER = r"\s*(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*"  # of JSON
_BOX = re.compile(rf"<box>\[{','.join([_NUMBER] * 4)}\]</box>")
_ANY_BOX = re.compile(r"<box>(.*?)</box>", re.DOTALL)
_OPENED = re.compile(r"<think>\s*$")  # by a template whose models always think


def frame_label(number: int, time: float) -> str:
    """What stands before a frame, of `time` seconds, wherever a model is shown some."""
    return f"Frame {number} at {time:.1f}s:"


def frame_lines(plan: FramePlan) -> list[dict[str, Any]]:
    """The content parts of the frames: `Frame {i} at {t}s: <image>` lines, then the duration.

    An image (duration 0) is shown without a line.
    """
    if plan.duration == 0:
        return [{"type": "image"}, {"type": "text", "text": "\n"}]
    parts: list[dict[str, Any]] = []
    lead = ""
    for number, time in enumerate(plan.times_F, start=1):
        parts.append({"type": "text", "text": f"{lead}{frame_label(number, time)} "})
        parts.append({"type": "image"})
        lead = "\n"
    closing = f"\nThe video is in total {round(plan.duration)} seconds.\n"
    parts.append({"type": "text", "text": closing})
    return parts


def messages(
    row: Row, plan: FramePlan, *, style: PromptStyle, convention: BoxConvention
) -> list[dict[str, Any]]:
    """The chat up to the assistant's turn; images are to be given in the order of `plan`.

    Evidence is asked for where the task has any, boxes in the model family's own unit.
    """
    brief = style is PromptStyle.brief
    instruction = (BRIEF if brief else _INSTRUCTION)[row.task]
    user = {
        "role": "user",
        "content": [
            *frame_lines(plan),
            {"type": "text", "text": f"{row.question}\n{instruction}"},
        ],
    }
    if brief:
        return [user]
    system = _SYSTEM.format(
        look=_IMAGE if row.task is Task.VISUAL else _VIDEO,
        evidence=_EVIDENCE[row.task].format(unit=convention.unit),
    )
    return [{"role": "system", "content": [{"type": "text", "text": system}]}, user]


def rendered(template: ChatTemplate, chat: list[dict[str, Any]]) -> str:
    """The prompt as text, up to where the assistant begins.

    Some templates open the thought themselves. It is for the model to write, as the target and the
    rewards have it, so an opened one is taken back.
    """
    text = template.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    return _OPENED.sub("", text)


def longest_prompt(sampling: SamplingConfig, rollouts: RolloutsConfig) -> int:
    """Tokens, image tokens included, that a prompt may have: the model is to write one at least."""
    return min(sampling.max_prompt_tokens, rollouts.max_model_tokens - 1)


def with_boxes(text: str, size: tuple[int, int], *, convention: BoxConvention) -> str:
    """The text with each `<box>[…]</box>` of normalised numbers in the model's convention.

    `size` is that of the frame that the model sees. Brackets elsewhere stay as they are.
    """

    def written(match: re.Match[str]) -> str:
        box: Box = tuple(float(number) for number in match.groups())  # pyright: ignore
        return f"<box>{convention.write(box, size)}</box>"

    return _BOX.sub(written, text)


def target(row: Row, plan: FramePlan, *, convention: BoxConvention) -> str:
    """What SFT teaches the assistant to write for a row that has reasoning.

    Boxes, normalised in the row, are written in the model's convention for the frame that it sees.
    Raises ValueError if the row has no reasoning.
    """
    if row.reasoning is None:
        raise ValueError(f"row {row.id} has no reasoning_process; SFT needs STGR-CoT rows")
    thought = with_boxes(row.reasoning, plan.size, convention=convention)
    return f"<think>{thought}</think>\n<answer>{_answer(row, plan, convention)}</answer>"


def _answer(row: Row, plan: FramePlan, convention: BoxConvention) -> str:
    truth = row.truth
    if row.task is Task.VISUAL and row.image_size is not None:
        return _image_boxes(truth.text, row.image_size, plan, convention)
    if row.task is Task.TEMPORAL and truth.interval is not None:
        return _interval(truth.interval)
    if row.task is Task.TEMPORAL_MCQ and truth.interval is not None:
        return f"{_interval(truth.interval)}.\nCorrect Option: {truth.letter}"
    if row.task is Task.MCQ and truth.letter is not None:
        return truth.letter
    return truth.text


def _interval(interval: tuple[float, float]) -> str:
    return f"From <t>{interval[0]:.1f}</t>s to <t>{interval[1]:.1f}</t>s"


def _image_boxes(
    text: str, size: tuple[int, int], plan: FramePlan, convention: BoxConvention
) -> str:
    """The text with every box, in pixels of the original image, in the model's convention."""
    sides = (*size, *size)

    def written(match: re.Match[str]) -> str:
        numbers = numbers_of(match[1])
        if not numbers:
            return match[0]
        box: Box = tuple(n / side for n, side in zip(numbers, sides, strict=True))  # pyright: ignore
        return f"<box>{convention.write(box, plan.size)}</box>"

    return _ANY_BOX.sub(written, text)
