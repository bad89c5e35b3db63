"""From a row to what the model reads, and for SFT to what it should write.

One place for the frame lines, the instructions and the target text, so that SFT, RL, evaluation and
`o3rl answer` show the model the same thing. Chat messages are plain dictionaries of the Hugging
Face chat form; frames are referred to, never held.
"""

import re
from typing import Any

from o3rl.config import PromptStyle, RolloutsConfig, SamplingConfig
from o3rl.text.boxes import BoxConvention
from o3rl.types import Box, FramePlan, Row, Task

_SYSTEM = (
    "You watch the frames of a video, or look at an image, and answer the question. First think "
    "between <think> and </think>; cite each piece of evidence as "
    "<obj>name</obj><box>[x1,y1,x2,y2]</box>at<t>seconds</t>s, the box in pixels of the frame and "
    "the time that its line gives. Then answer between <answer> and </answer>."
)

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

_NUMBER = r"\s*(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*"  # of JSON
_BOX = re.compile(rf"<box>\[{','.join([_NUMBER] * 4)}\]</box>")
_FIRST_BOX = re.compile(r"<box>.*?</box>", re.DOTALL)


def frame_lines(plan: FramePlan) -> list[dict[str, Any]]:
    """The content parts of the frames: `Frame {i} at {t}s: <image>` lines, then the duration.

    An image (duration 0) is shown without a line.
    """
    if plan.duration == 0:
        return [{"type": "image"}, {"type": "text", "text": "\n"}]
    parts: list[dict[str, Any]] = []
    lead = ""
    for number, time in enumerate(plan.times_F, start=1):
        parts.append({"type": "text", "text": f"{lead}Frame {number} at {time:.1f}s: "})
        parts.append({"type": "image"})
        lead = "\n"
    closing = f"\nThe video is in total {round(plan.duration)} seconds.\n"
    parts.append({"type": "text", "text": closing})
    return parts


def messages(row: Row, plan: FramePlan, *, style: PromptStyle) -> list[dict[str, Any]]:
    """The chat up to the assistant's turn; images are to be given in the order of `plan`."""
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
    return [{"role": "system", "content": [{"type": "text", "text": _SYSTEM}]}, user]


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
    if row.task is Task.VISUAL and truth.box is not None:
        box = f"<box>{convention.write(truth.box, plan.size)}</box>"
        return _FIRST_BOX.sub(lambda _: box, truth.text, count=1)
    if row.task is Task.TEMPORAL and truth.interval is not None:
        return _interval(truth.interval)
    if row.task is Task.TEMPORAL_MCQ and truth.interval is not None:
        return f"{_interval(truth.interval)}.\nCorrect Option: {truth.letter}"
    if row.task is Task.MCQ and truth.letter is not None:
        return truth.letter
    return truth.text


def _interval(interval: tuple[float, float]) -> str:
    return f"From <t>{interval[0]:.1f}</t>s to <t>{interval[1]:.1f}</t>s"
