"""What the tiny base is taught from: frames to see, and packs of scenes with lessons about them.

Each scene is one segment `[frames | lesson 1 | … ]`. A scene's frames are mostly evenly spread, as
in evaluation, and sometimes anywhere, as training may show them. With every answer goes where the
thing is that it speaks of, so that a head can be told where to look (`tiny_gaze`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from learners.model.attention import Span
from learners.model.tiny_sight import WORDS, Look, look
from o3rl.config import FramesConfig, PromptStyle
from o3rl.media.frame_plan import smart_size
from o3rl.synth.questions import LOOKS, Lesson, lessons
from o3rl.synth.world import (
    LOOKED_AT,
    SIZES,
    Scene,
    random_picture,
    random_scene,
    split_combinations,
)
from o3rl.text.boxes import ABSOLUTE
from o3rl.text.prompts import messages, with_boxes
from o3rl.types import FramePlan, Row, Task, Truth

FRAMES = FramesConfig(min_frames=4, max_frames=LOOKED_AT, pixels=16 * 28 * 28)
FEWER = {0: 2.5, 1: 2.25, 2: 1.75, 4: 1.25, 8: 1}  # times as many scenes show so few frames
LESSONS = 7  # of one scene
DECIDE = 9  # first tokens of an answer: by then it is told of which thing it speaks
DECIDING = 4.0  # how much more than the others they count
SHARE = {"what": 2.0, "which": 2.0, "where": 2.0, Task.MCQ: 1.5, Task.FREE_FORM: 0.5,
         Task.TEMPORAL_SPATIAL: 2.0, Task.TEMPORAL: 1.5, Task.TEMPORAL_MCQ: 1.5,
         Task.VISUAL: 3.0}  # fmt: skip
COURSE = (  # up to this share of the steps: frames shown and how often; what tasks are cut to
    (0.12, {0: 2, 1: 1}, 0.3),
    (0.25, {0: 1, 1: 2, 2: 3}, 0.3),
    (0.4, {0: 1, 2: 2, 4: 4}, 0.6),
    (1.0, {0: 2, 1: 1, 2: 1, 4: 2, 8: 8}, 1.0),
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How long and how fast: steps of sight, then of language; rates with warm-up and end.

    `later`: a leg that goes on where another ended, with the last part of the course only.
    """

    sight: int = 800
    steps: int = 1800
    glances: int = 128  # frames a step while sight is taught
    scenes: int = 8  # clips of eight frames a step; of fewer frames more
    rate: float = 4e-3
    warmup: int = 50
    decay: float = 0.5  # share of the steps at the end over which the rate falls to zero
    later: bool = False
    seed: int = 0

    def rate_at(self, step: int, steps: int) -> float:
        """The learning rate of `step`, from 0, of `steps`."""
        left = (steps - step) / (self.decay * steps)
        return self.rate * min((step + 1) / self.warmup, 1.0, left)


class Glances(Dataset):
    """Step `i` of sight: patches [N, P, 588], cells [N, C, 11] and size of N still frames."""

    def __init__(self, recipe: Recipe):
        self._recipe = recipe
        self._combinations, _ = split_combinations()

    def __len__(self) -> int:
        return self._recipe.sight

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor, tuple[int, int]]:
        rng = Random(f"{self._recipe.seed}/sight/{step}")
        drawn = rng.choice(SIZES)
        size = smart_size(*drawn, FRAMES)
        pictures = [
            random_picture(rng, self._combinations, size=drawn) for _ in range(self._recipe.glances)
        ]
        return *stacked([look(picture, 0.0, size, rng) for picture in pictures]), size


class Lessons(Dataset):
    """Step `i` of language: what `collate` gives for scenes of one size and number of frames."""

    def __init__(self, recipe: Recipe, processor: Any):
        self._recipe = recipe
        self._processor = processor
        self._combinations, _ = split_combinations()

    def __len__(self) -> int:
        return self._recipe.steps

    def __getitem__(self, step: int) -> dict[str, Any]:
        rng = Random(f"{self._recipe.seed}/{step}")
        share = 1.0 if self._recipe.later else step / self._recipe.steps
        frames, tasks = next((shown, cut) for end, shown, cut in COURSE if share <= end)
        [count] = rng.choices([*frames], [*frames.values()])
        drawn = rng.choice(SIZES)
        size = smart_size(*drawn, FRAMES)
        make = random_scene if count else random_picture
        rows = []
        while len(rows) < self._recipe.scenes * FEWER[count]:
            scene = make(rng, self._combinations, size=drawn)
            rows.append(self._row(rng, scene, _times(rng, scene, count), size, tasks))
        return collate(rows) | {"size": size}

    def _row(
        self, rng: Random, scene: Scene, times: tuple[float, ...], size: tuple[int, int], cut: float
    ) -> dict[str, Any]:
        duration = scene.duration if scene.frames > 1 else 0.0
        plan = FramePlan(tuple(range(len(times))), times, size, duration)
        chosen = choose(rng, lessons(rng, scene, times), cut)
        turns = [as_turn(self._processor, plan, lesson) for lesson in chosen]
        row = {
            "opening": self._expand(turns[0][0], size[0] * size[1] // 28**2),
            "turns": [self._tokens(rest + answer) for _, rest, answer in turns],
            "asked": [len(self._tokens(rest)) for _, rest, _ in turns],
            "looks": [look(scene, time, size, rng) for time in times],
        }
        return row | {"gaze": self._gaze(row, chosen, times)}

    def _gaze(
        self, row: dict[str, Any], chosen: list[Lesson], times: Sequence[float]
    ) -> "Gaze | None":
        """Of the tokens that decide what an answer speaks of: where that is."""
        cells = np.stack([one.cells for one in row["looks"]])
        start = len(row["opening"])
        found: list[tuple[int, np.ndarray, np.ndarray]] = []
        for lesson, turn, asked in zip(chosen, row["turns"], row["asked"], strict=True):
            words = self._processor.tokenizer.convert_ids_to_tokens(turn[asked:])
            meant = frames_meant(words, lesson, times)[:DECIDE]
            for place, frame in enumerate(meant, start + asked - 1):
                there = shown(cells, lesson)
                now = np.zeros_like(there)
                now[frame] = there[frame]
                if now.any():
                    found.append((place, there.ravel(), now.ravel()))
            start += len(turn)
        if not found:
            return None
        places, there, now = zip(*found, strict=True)
        return Gaze(*map(torch.from_numpy, (np.array(places), np.stack(there), np.stack(now))))

    def _tokens(self, text: str) -> list[int]:
        return self._processor.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _expand(self, opening: str, per_image: int) -> list[int]:
        pad = self._processor.image_token_id
        out: list[int] = []
        for token in self._tokens(opening):
            out += [token] * (per_image if token == pad else 1)
        return out


@dataclass(frozen=True, slots=True)
class Gaze:
    """Where Q answer tokens of a segment should look among the I image tokens of its opening."""

    places: Tensor  # [Q], of the tokens that predict them, from the segment's start
    there: Tensor  # [Q, I] booleans: the thing, in any frame
    now: Tensor  # [Q, I]: the thing, in the frame that the answer speaks of


def frames_meant(words: Sequence[str], lesson: Lesson, times: Sequence[float]) -> list[int]:
    """The frame, from 0, that each word of an answer speaks of; none for a lesson on no thing.

    An answer speaks of the first frame that shows its thing, of the last behind `to` and in a
    second claim; a list of frames of one after the other.
    """
    if lesson.thing is None:
        return []
    seen = [number for number, time in enumerate(times) if lesson.thing.visible(time)]
    if lesson.kind == "where":
        return [_asked_for(lesson.question, times)] * len(words)
    meant: list[int] = []
    frame, claims, commas = seen[0], 0, 0
    for word in words:
        claims += word == "<obj>"
        commas += word == ","
        if lesson.kind == "which":
            frame = seen[min(commas, len(seen) - 1)]
        elif word == "Ġto" or (word == "<obj>" and claims == 2):
            frame = seen[-1]
        elif word in ("From", "ĠIt", "<obj>"):
            frame = seen[0]
        meant.append(frame)
    return meant


def _asked_for(question: str, times: Sequence[float]) -> int:
    """The frame that a question names by its number or its time."""
    number = re.search(r"in frame (\d+)", question)
    if number:
        return int(number[1]) - 1
    found = re.search(r"at ([\d.]+)s", question)
    assert found is not None, question
    return min(range(len(times)), key=lambda i: abs(times[i] - float(found[1])))


def shown(cells: np.ndarray, lesson: Lesson) -> np.ndarray:
    """Which cells [F, C, 11] show a lesson's thing, [F, C] booleans."""
    assert lesson.thing is not None, lesson
    colour, shape = WORDS[0].index(lesson.thing.colour), WORDS[1].index(lesson.thing.shape)
    return (cells[..., 1] == colour) & (cells[..., 2] == shape)


def choose(rng: Random, every: list[Lesson], cut: float) -> list[Lesson]:
    """At most `LESSONS` of them, by the share of their kind; that of a task is cut."""
    by_kind: dict[str, list[Lesson]] = {}
    for lesson in rng.sample(every, len(every)):
        by_kind.setdefault(lesson.kind, []).append(lesson)
    chosen: list[Lesson] = []
    while by_kind and len(chosen) < LESSONS:
        shares = [SHARE[kind] * (1.0 if kind in LOOKS else cut) for kind in by_kind]
        [kind] = rng.choices([*by_kind], shares)
        chosen.append(by_kind[kind].pop())
        if not by_kind[kind]:
            del by_kind[kind]
    return chosen


def _times(rng: Random, scene: Scene, count: int) -> tuple[float, ...]:
    """Of the frames shown: evenly spread or, of one in three clips, anywhere; few at a thing."""
    if scene.frames == 1:
        return (0.0,)
    even = scene.times(LOOKED_AT)
    if count == LOOKED_AT and rng.random() < 0.7:
        return even
    if count == LOOKED_AT:  # training adds key frames, and may move others
        count = rng.choice((7, 8, 9, 9, 10))
    numbers = {round(rng.choice(scene.things).seen[0] * scene.rate) + 1}
    numbers |= {round(t * scene.rate) for t in rng.sample(even, max(0, min(count - 1, 7)))}
    while len(numbers) < count:
        numbers.add(rng.randrange(scene.frames))
    return tuple(number / scene.rate for number in sorted(numbers))


def as_turn(processor: Any, plan: FramePlan, lesson: Lesson) -> tuple[str, str, str]:
    """(what all lessons of the scene share, the question's own part, the answer)."""
    row = Row("", lesson.task or Task.MCQ, "", lesson.question, "", Truth(""))
    chat = messages(row, plan, style=PromptStyle.brief, convention=ABSOLUTE)
    if lesson.task is None:
        chat[0]["content"][-1]["text"] = lesson.question
    text = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    start = text.rindex(lesson.question)
    said = with_boxes(lesson.answer, plan.size, convention=ABSOLUTE)
    return text[:start], text[start:], f"{said}<|im_end|>"


def stacked(looks: list[Look]) -> tuple[Tensor, Tensor]:
    """Patches [N, P, 588] and cells [N, C, 11] of frames of one size."""
    return (
        torch.from_numpy(np.stack([one.patches for one in looks])),
        torch.from_numpy(np.stack([one.cells for one in looks])),
    )


def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Rows side by side as one pack of length L: ids, targets, … [1, L], and its layout.

    `after` is a token's place in its turn, from 1, and 0 in openings.
    """
    ids: list[int] = []
    targets: list[int] = []
    after: list[int] = []
    weights: list[float] = []
    layout: list[Span] = []
    for row in rows:
        start = len(ids)
        ids += row["opening"]
        targets += [-100] * len(row["opening"])
        after += [0] * len(row["opening"])
        weights += [0.0] * len(row["opening"])
        opened, ends = len(ids), []
        for turn, asked in zip(row["turns"], row["asked"], strict=True):
            ids += turn
            targets += [-100] * (asked - 1) + turn[asked:] + [-100]
            after += range(1, len(turn) + 1)
            said = len(turn) - asked
            weights += [0.0] * (asked - 1) + ([DECIDING] * DECIDE + [1.0] * said)[:said] + [0.0]
            ends.append(len(ids))
        layout.append(Span(start, opened, tuple(ends)))
    patches, cells = stacked([one for row in rows for one in row["looks"]])
    return {
        "ids": torch.tensor([ids]),
        "targets": torch.tensor([targets]),
        "after": torch.tensor([after]),
        "weights": torch.tensor([weights]),
        "layout": tuple(layout),
        "frames": [len(row["looks"]) for row in rows],
        "gazes": [row["gaze"] for row in rows],
        "patches": patches,
        "cells": cells,
    }
