"""The card of one question, as a template needs it: its frames, and what each response makes of it.

What nobody scored, for there is no truth, shows nothing that needs one.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from o3rl.evaluation.evidence import Entry, Response, crops, nearest_frame, pairs, strip, timeline
from o3rl.evaluation.html import base64_of, data_url, jpeg
from o3rl.evaluation.measures import Scored, is_right
from o3rl.evaluation.passages import passages
from o3rl.text.boxes import BoxConvention
from o3rl.text.grammar import answer_of
from o3rl.types import PART_WORDS, PARTS, TASK_PARTS, Reward, Task

MAX_TEXT = 20_000  # characters of one response that are shown
MAX_ANSWER = 300

_TAGS = re.compile(r"</?(?:obj|box|t)>")
_BLANKS = re.compile(r"[ \t]{2,}")


@dataclass(frozen=True, slots=True)
class Bar:
    """A part of the reward: its name, its words, its value, and how full its bar is in percent."""

    name: str
    words: str
    value: float
    percent: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the answer is right; by how much, where an overlap decides that."""

    is_right: bool
    words: str


def card(
    place: int, entry: Entry, convention: BoxConvention, weights: Mapping[str, float]
) -> dict[str, Any]:
    """What the template needs of one question; `weights` are of the reward's parts, else 1."""
    name = f"r{place + 1}"
    first = Response(entry.model, entry.text, entry.reward)
    asked = [(each, False) for each in (*entry.others, first)]
    asked += [(each, True) for each in entry.unseen]
    sides = [
        side(f"{name}s{i}", entry, each, convention, weights) | {"unseen": unseen}
        for i, (each, unseen) in enumerate(asked)
    ]
    return frames_card(name, place, entry) | {
        "is_scored": entry.is_scored,
        "sides": sides,
        "alone": len(entry.others) == 0 and len(entry.unseen) == 0,
        "truth": untagged(entry.row.truth.text),
        "notes": entry.notes,
        "has_keys": bool(entry.row.truth.key_frames),
    }


def frames_card(name: str, place: int, entry: Entry) -> dict[str, Any]:
    """Of an entry what its pictures need."""
    return {
        "id": name,
        "entry": entry,
        "place": place,
        "task": entry.row.task.value,
        "is_image": entry.row.task is Task.VISUAL,
        "images": [data_url(jpeg(frame), "image/jpeg") for frame in entry.frames],
        "width": entry.frames.shape[2],
        "height": entry.frames.shape[1],
        "strip": () if len(entry.frames) == 1 else strip(entry),
        "times": [round(time, 3) for time in entry.plan.times_F],
        "clip": base64_of(entry.clip) if entry.clip else "",
    }


def side(
    name: str,
    entry: Entry,
    response: Response,
    convention: BoxConvention,
    weights: Mapping[str, float],
) -> dict[str, Any]:
    """One response with its evidence."""
    shown = replace(entry, text=response.text, reward=response.reward)
    text, reward, task = response.text[:MAX_TEXT], response.reward, entry.row.task
    parted = passages(text, reward.claims, is_image=task is Task.VISUAL)
    return {
        "id": name,
        "model": response.model,
        "reward": reward,
        "is_asked": task is Task.TEMPORAL_SPATIAL,  # for claims
        "verdict": verdict(shown),
        "answer": plain_answer(response.text),
        "pairs": pairs(shown, convention=convention),
        "passages": parted,
        "cited": {number for passage in parted for number in passage.claims},
        "crops": crops(shown),
        "frame_of": [nearest_frame(entry.plan, claim.time) for claim in reward.claims],
        "cut": len(response.text) - len(text),
        "timeline": timeline(shown),
        "bars": bars(reward, task),
        "most": most(reward, task, weights),
    }


def verdict(entry: Entry) -> Verdict | None:
    """By `o3rl.evaluation.measures.is_right`; None where there is no truth."""
    if not entry.is_scored:
        return None
    parts = entry.reward.parts
    ious = [f"IoU {parts[name]:.2f}" for name in ("ans_tiou", "ans_viou") if name in parts]
    has = TASK_PARTS[entry.row.task]
    words = ious[0] if "ans_tiou" in has else ious[-1] if "ans_viou" in has else ""
    return Verdict(is_right(Scored(entry.row, entry.text, entry.reward)), words)


def plain_answer(text: str) -> str | None:
    """The answer without its tags; None without one."""
    answer = answer_of(text)
    return None if answer is None else untagged(answer)


def untagged(text: str) -> str:
    """Without the tags of objects, boxes and times, and cut to `MAX_ANSWER` characters."""
    plain = _BLANKS.sub(" ", _TAGS.sub(" ", text)).strip()
    return plain if len(plain) <= MAX_ANSWER else f"{plain[:MAX_ANSWER]}…"


def bars(reward: Reward, task: Task) -> tuple[Bar, ...]:
    """The parts that the task has, and those of the user's own, as the reward orders them."""
    return tuple(
        Bar(name, PART_WORDS.get(name, name), value, round(100 * min(max(value, 0.0), 1.0), 1))
        for name, value in reward.parts.items()
        if name in TASK_PARTS[task] or name not in PARTS
    )


def most(reward: Reward, task: Task, weights: Mapping[str, float]) -> float | None:
    """The largest total that the task allows; None where a part of the user's own has no bound."""
    if not reward.parts or not reward.parts.keys() <= set(PARTS):
        return None
    return sum(weights.get(name, 1.0) for name in TASK_PARTS[task])
