"""How well a tiny model sees: its greedy answers to plain lessons on combinations never shown.

Clips of eight evenly spread frames, and stills, drawn as the lessons of pretraining are. Right
options and first times tell whether it finds a thing; boxes, whether it finds the place.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from learners.model.tiny_lessons import FRAMES, as_turn
from o3rl.media.frame_plan import smart_size
from o3rl.synth.questions import Lesson, lessons
from o3rl.synth.world import (
    LOOKED_AT,
    Scene,
    Thing,
    draw,
    random_picture,
    random_scene,
    split_combinations,
)
from o3rl.text.boxes import ABSOLUTE, box_iou
from o3rl.text.grammar import time_mentions
from o3rl.types import FramePlan, Task
from rewards.parts.claims import stated_boxes, stated_claims

NEAR_SECONDS = 1.0
AT_ONCE = 32  # prompts in a batch
MAX_TOKENS = 128
ROUGH = 3.0  # of a codec's noise, of 255
TASKS = (Task.MCQ, Task.TEMPORAL_SPATIAL)


@dataclass(frozen=True, slots=True)
class Item:
    """A lesson, the thing that it is about, and the frames at which the model looks."""

    scene: Scene
    lesson: Lesson
    thing: Thing
    plan: FramePlan


def items(scenes: int, *, seed: int) -> list[Item]:
    """One MCQ and one temporal-spatial lesson of each of `scenes` clips, one lesson of a still."""
    _, held_out = split_combinations()
    found: list[Item] = []
    for number in range(scenes):
        rng = Random(f"{seed}/eval/{number}")
        clip, still = random_scene(rng, held_out), random_picture(rng, held_out)
        found += [_item(rng, clip, task) for task in TASKS]
        found.append(_item(rng, still, Task.VISUAL))
    return found


def measure(
    folder: Path, *, scenes: int, seed: int = 0
) -> Iterator[tuple[int, dict[str, dict[str, float]]]]:
    """Answers done so far, and the numbers over them; the last ones are the result.

    By measure its `value` and the `rows` that it is the mean of: `mcq` accuracy; `time`, share of
    responses whose first time is within a second of a frame that shows the thing; `box`, mean IoU
    of a clip's cited boxes with the thing at the frame that shows it nearest to the cited time, 0
    without any; `still`, IoU of a still's answer.
    """
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    processor.tokenizer.padding_side = "left"
    waiting = sorted(items(scenes, seed=seed), key=lambda item: item.lesson.kind)
    values: dict[str, list[float]] = {"mcq": [], "time": [], "box": [], "still": []}
    for start in range(0, len(waiting), AT_ONCE):
        batch = waiting[start : start + AT_ONCE]
        for item, text in zip(batch, answers(model, processor, batch), strict=True):
            for name, value in judged(item, text).items():
                values[name].append(value)
        yield (
            start + len(batch),
            {
                name: {"value": sum(each) / len(each), "rows": len(each)}
                for name, each in values.items()
                if each
            },
        )


@torch.inference_mode()
def answers(model: Any, processor: Any, batch: Sequence[Item]) -> list[str]:
    """Greedy answers, by transformers' own `generate`."""
    noise = np.random.default_rng(0)
    texts, images = [], []
    for item in batch:
        opening, rest, _ = as_turn(processor, item.plan, item.lesson)
        texts.append(opening + rest)
        images.append([_picture(item, time, noise) for time in item.plan.times_F])
    inputs = processor(text=texts, images=images, padding=True, return_tensors="pt")
    out = model.generate(**inputs, do_sample=False, max_new_tokens=MAX_TOKENS)
    written = out[:, inputs["input_ids"].shape[1] :]
    texts = processor.tokenizer.batch_decode(written, skip_special_tokens=False)
    return [text.split("<|im_end|>")[0] for text in texts]


def judged(item: Item, text: str) -> dict[str, float]:
    """What an answer is worth in the measures that its lesson counts in."""
    thing, plan = item.thing, item.plan
    if item.lesson.kind == Task.MCQ:
        return {"mcq": float(text.split("\n")[-1] == item.lesson.answer.split("\n")[-1])}
    if item.lesson.kind == Task.VISUAL:
        boxes = stated_boxes(text, size=plan.size, convention=ABSOLUTE)[-1:]
        return {"still": max((box_iou(box, thing.box(0.0)) for _, box in boxes), default=0.0)}
    shown = [time for time in plan.times_F if thing.visible(time)]
    claims, _ = stated_claims(text, size=plan.size, convention=ABSOLUTE)
    fits = [
        max(
            (box_iou(box, thing.box(_nearest(claim.time, shown))) for box in claim.boxes), default=0
        )
        for claim in claims
    ]
    mentions = [float(time) for time in time_mentions(text)[:1] if time.count(".") < 2]
    near = bool(mentions) and abs(mentions[0] - _nearest(mentions[0], shown)) <= NEAR_SECONDS
    return {"time": float(near), "box": sum(fits) / len(fits) if fits else 0.0}


def _item(rng: Random, scene: Scene, task: Task) -> Item:
    times = scene.times(LOOKED_AT) if scene.frames > 1 else (0.0,)
    duration = scene.duration if scene.frames > 1 else 0.0
    size = smart_size(*scene.size, FRAMES)
    plan = FramePlan(tuple(range(len(times))), times, size, duration)
    lesson = rng.choice([each for each in lessons(rng, scene, times) if each.kind == task])
    assert lesson.thing is not None, lesson
    return Item(scene, lesson, lesson.thing, plan)


def _nearest(time: float, shown: Sequence[float]) -> float:
    return min(shown, key=lambda at: abs(at - time))


def _picture(item: Item, time: float, noise: np.random.Generator) -> Image.Image:
    """A frame as decoding gives it: resized, with a little of a codec's noise."""
    small = draw(item.scene, time).resize(item.plan.size, Image.Resampling.BICUBIC)
    rough = np.asarray(small, np.float32)
    rough = rough + noise.normal(0, ROUGH, rough.shape)
    return Image.fromarray(rough.clip(0, 255).astype(np.uint8))
