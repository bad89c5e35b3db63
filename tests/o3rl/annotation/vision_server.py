"""A vision model that is none: real HTTP, a known world, and chosen faults.

It annotates the clip that the caption numbers, with boxes and names of which a share is wrong;
whether a crop shows what it is called it tells by looking at the pixels; and it writes thoughts
again with the citations that it is given. Each request may fail the first time it is asked.
"""

import base64
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, ImageDraw

from o3rl.synth.dataset import write_video
from o3rl.synth.world import _PAINTERS, COLOURS, Scene, Thing, random_scene, split_combinations
from o3rl.text.boxes import box_iou

WRONG_BOXES, WRONG_NAMES = 0.3, 0.2
NEAR = 75  # how far a colour may be off after H.264 and JPEG, as a sum over its channels


def scenes(count: int, seed: int = 0) -> list[Scene]:
    """Clips of 10 to 25 s at one frame a second: quick to write, and enough to see."""
    rng, (combinations, _) = Random(seed), split_combinations()
    found: list[Scene] = []
    while len(found) < count:
        scene = random_scene(rng, combinations)
        if scene.duration <= 25:
            found.append(replace(scene, rate=1, frames=int(scene.duration)))
    return found


def write_world(root: Path, count: int) -> list[Scene]:
    """The clips of `scenes` as videos, and videos.jsonl that lists them with captions."""
    root.mkdir()
    found = scenes(count)
    lines = []
    for number, scene in enumerate(found):
        write_video(root / f"{number}.mp4", scene)
        lines.append(json.dumps({"video_path": f"{number}.mp4", "caption": f"clip {number}."}))
    (root / "videos.jsonl").write_text("\n".join(lines))
    return found


@dataclass
class World:
    """What the server says; `first` may fail a request the first time, by its digest."""

    scenes: list[Scene]
    wrong_boxes: float = WRONG_BOXES
    wrong_names: float = WRONG_NAMES
    first: Callable[[int, str], tuple[int, object] | None] = lambda number, kind: None  # noqa: ARG005
    seen: Counter[str] = field(default_factory=Counter)  # requests by digest
    paid: Counter[str] = field(default_factory=Counter)  # of them, answered as they should be
    said: dict[int, dict] = field(default_factory=dict)  # the annotation of each clip

    def answer(self, body: dict, *_) -> tuple[int, object]:
        """(status, what it says) to a request."""
        digest = hashlib.sha256(json.dumps(body["messages"]).encode()).hexdigest()
        text = _last_text(body)
        kind = (
            "verify" if text.startswith("Is this") else "annotate" if "Frame 1 at" in str(body) else
            "rewrite"
        )  # fmt: skip
        self.seen[digest] += 1
        fault = self.first(int(digest, 16), kind) if self.seen[digest] == 1 else None
        if fault is not None:
            return fault
        said = {"verify": self.verify, "annotate": self.annotate, "rewrite": rewrite}[kind](body)
        self.paid[digest] += 1
        return 200, chat(said)

    def annotate(self, body: dict) -> str:
        """One or two key frames with all that they show, some of it wrong."""
        words = " ".join(part.get("text", "") for part in body["messages"][0]["content"])
        number = int(re.search(r"clip (\d+)\.", words)[1])
        times = [float(each) for each in re.findall(r"Frame \d+ at ([\d.]+)s:", words)]
        rng, scene = Random(number), self.scenes[number]
        shows = [time for time in times if any(t.visible(time) for t in scene.things)]
        frames = []
        for time in sorted(rng.sample(shows, min(2, len(shows)))):
            things = [thing for thing in scene.things if thing.visible(time)][:3]
            objects = [self._seen(rng, thing, time, scene) for thing in things]
            frames.append({"time": time, "objects": objects})
        cited = " ".join(
            f"There is <obj>{each['name']}</obj><box>{each['box']}</box>at<t>{f['time']}</t>s."
            for f in frames for each in f["objects"]
        )  # fmt: skip
        self.said[number] = {
            "question": "What is there?",
            "answer": frames[0]["objects"][0]["name"],
            "key_frames": frames,
            "thought": f"{cited} So it is that.",
        }
        return json.dumps(self.said[number])

    def _seen(self, rng: Random, thing: Thing, time: float, scene: Scene) -> dict:
        box, name = _inside(thing.box(time)), thing.name
        if rng.random() < self.wrong_boxes:
            box = _elsewhere(rng, box)
        if rng.random() < self.wrong_names:
            others = [f"{c} {s}" for c in COLOURS for s in _PAINTERS if f"{c} {s}" != name]
            name = rng.choice([each for each in others if each not in _names(scene)])
        return {"name": name, "box": [round(1000 * edge) for edge in box]}

    def verify(self, body: dict) -> str:
        """By the pixels: those that the named shape would cover, and only those, are its colour."""
        [picture, text] = body["messages"][0]["content"]
        colour, shape = re.search(r"Is this a (\w+) (\w+)\?", text["text"]).groups()
        data = base64.b64decode(picture["image_url"]["url"].partition(",")[2])
        pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
        height, width = pixels.shape[:2]
        drawn = Image.new("1", (width, height))
        _PAINTERS[shape](ImageDraw.Draw(drawn), (0, 0, width - 1, height - 1), 1)
        inside = np.asarray(drawn)
        near = np.abs(pixels - COLOURS[colour]).sum(2) < NEAR
        outside = near[~inside].mean() if (~inside).any() else 0.0
        return "Yes." if near[inside].mean() > 0.8 and outside < 0.4 else "no"


def rewrite(body: dict) -> str:
    """The citations, each in a sentence."""
    text = body["messages"][0]["content"]
    cited = [line for line in text.splitlines() if re.fullmatch(r"<obj>.*</t>s", line)]
    return json.dumps({"thought": " ".join(f"I see {each}." for each in cited)})


def chat(text: str | None, **choice: object) -> dict:
    """A chat reply that cost 100 tokens in and 10 out."""
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 100, "completion_tokens": 10}
    return {"choices": [{"message": message, "finish_reason": "stop", **choice}], "usage": usage}


def some_faults(number: int, kind: str) -> tuple[int, object] | None:
    """A third of all requests fail once: each of the ways in which endpoints do."""
    faults = [
        (429, {"error": "slow down"}),
        (503, b"<html>down</html>"),
        (200, chat(json.dumps({"question": "Wh"})[:-3], finish_reason="length")),
        (200, b'{"choices": [{"mess'),
        (200, chat("I'm sorry, I can't help with that.")),
        (200, chat(None)),
    ]
    if kind == "annotate" and number % 2:  # broken against the schema: repaired, not asked again
        faults = [(200, chat(json.dumps({"question": "Who?", "key_frames": []})))]
    return faults[number // 6 % len(faults)] if number % 3 == 0 else None


def is_right(scene: Scene, name: str, box: list[float], time: float) -> bool:
    """Whether a thing of that name is there at that time, in that box."""
    return any(
        thing.name == name and thing.visible(time) and box_iou(box, thing.box(time)) >= 0.5
        for thing in scene.things
    )


def _last_text(body: dict) -> str:
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else content[-1]["text"]


def _names(scene: Scene) -> set[str]:
    return {thing.name for thing in scene.things}


def _inside(box):
    return tuple(min(max(edge, 0.0), 1.0) for edge in box)


def _elsewhere(rng: Random, box):
    """A box that meets `box` at less than 0.3; one in four is nearly the whole frame."""
    if rng.random() < 0.25:
        return (0.02, 0.02, 0.98, 0.98)
    wide, high = box[2] - box[0], box[3] - box[1]
    while True:
        x, y = rng.uniform(0, 1 - wide), rng.uniform(0, 1 - high)
        other = (x, y, x + wide, y + high)
        if box_iou(box, other) < 0.3:
            return other
