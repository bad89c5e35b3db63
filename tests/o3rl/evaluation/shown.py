"""Evidence of the synthetic world without any model: what a perfect annotator says, and damage.

`python -m tests.o3rl.evaluation.shown` draws docs/evidence.png, if a Chromium is there.
"""

import io
import re
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from shutil import which

import numpy as np
from PIL import Image

from o3rl.config import RewardsConfig
from o3rl.data.media_paths import MediaRoots
from o3rl.data.stgr import row_of
from o3rl.evaluation.evidence import Entry, Response
from o3rl.evaluation.pages import write_page
from o3rl.synth.dataset import write_video
from o3rl.synth.questions import PERFECT, Teacher, ask, row
from o3rl.synth.world import Scene, draw, random_picture, random_scene, split_combinations
from o3rl.text.boxes import ABSOLUTE
from o3rl.text.prompts import target
from o3rl.types import FramePlan, KeyFrame, Reward, Row, Task
from rewards.scorer import Scorer

PICTURE = Path(__file__).parents[3] / "docs" / "evidence.png"
LONG = "woman in the dark green raincoat carrying a folded umbrella under her left arm"
FAULTY = Teacher(wrong_times=1.0, box_jitter=0.12, no_evidence=0.0)


def shown(
    task: Task,
    *,
    seed: int = 7,
    teacher: Teacher = PERFECT,
    name: str = "",
    clip: Path | None = None,
) -> Entry:
    """One question, answered as `teacher` would; `name` in place of the thing's, if given.

    The video is written to `clip` and shown, if that is given.
    """
    scene, said = _asked(task, seed, teacher)
    plan = _plan(scene)
    frames = np.stack([np.asarray(draw(scene, time).resize(plan.size)) for time in plan.times_F])
    if name:
        said = _renamed(said, name)
    text = target(said, plan, convention=ABSOLUTE)
    _, right = _asked(task, seed, PERFECT)
    truth = (_renamed(right, name) if name else right).truth
    asked = replace(said, truth=truth, reasoning=None)
    reward = scored(asked, plan, text)
    if clip:
        write_video(clip, scene)
    content = clip.read_bytes() if clip else b""
    return Entry(asked, plan, frames, text, reward, "held out", model="rl", clip=content)


def scored(asked: Row, plan: FramePlan, text: str) -> Reward:
    """As `o3rl evaluate` scores it."""
    return Scorer(RewardsConfig()).score(
        asked.task, text, truth=asked.truth, progress=1.0, frame_size=plan.size
    )


def said(entry: Entry, model: str, text: str) -> Response:
    """What another model says to the same question."""
    return Response(model, text, scored(entry.row, entry.plan, text))


def compared(**how) -> Entry:
    """Base, SFT and RL, and RL without looking."""
    rl = shown(Task.TEMPORAL_SPATIAL, **how)
    sft = shown(Task.TEMPORAL_SPATIAL, **{**how, "clip": None}, teacher=FAULTY)
    base = "<think>I look at the frames.</think><answer>a cross</answer>"
    blank = "<think>The frames are grey.</think><answer>circle</answer>"
    return replace(
        rl,
        others=(said(rl, "base", base), said(rl, "sft", sft.text)),
        unseen=(said(rl, "rl, blank frames", blank),),
    )


def _asked(task: Task, seed: int, teacher: Teacher) -> tuple[Scene, Row]:
    rng = Random(seed)
    make = random_picture if task is Task.VISUAL else random_scene
    scene = make(rng, split_combinations()[1])
    wanted = "shape" if task is Task.VISUAL else None
    asked = ask(rng, scene, wanted=wanted)
    media = "images/1.png" if task is Task.VISUAL else "videos/1.mp4"
    record = row(Random(seed), asked, task, name="held-out-1", media=media, teacher=teacher)
    return scene, row_of(record, MediaRoots({}))


def _plan(scene: Scene) -> FramePlan:
    width, height = (side // 28 * 28 for side in scene.size)
    times = scene.times(8) if scene.frames > 1 else (0.0,)
    indices = tuple(round(time * scene.rate) for time in times)
    return FramePlan(indices, times, (width, height), scene.duration if len(times) > 1 else 0.0)


def _renamed(one: Row, name: str) -> Row:
    """With `name` for every object, in question, truth and reasoning."""
    keys = tuple(
        KeyFrame(key.time, tuple((name, boxes) for _, boxes in key.objects))
        for key in one.truth.key_frames
    )
    reasoning = re.sub("<obj>[^<]*</obj>", f"<obj>{name}</obj>", one.reasoning or "")
    question = re.sub("is the .*", f"is the {name}?", one.question)
    truth = replace(one.truth, key_frames=keys)
    return replace(one, question=question, truth=truth, reasoning=reasoning)


def chromium() -> str | None:
    """The program, if this machine has one."""
    names = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
    return next((found for name in names if (found := which(name))), None)


@contextmanager
def browser():
    """A headless Chromium of Playwright's kind; needs `chromium()`."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Containers forbid the sandbox to root; the page is our own.
        opened = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield opened
        opened.close()


def main() -> None:
    """Draw the README's picture: what a faulty annotator says, no model."""
    with tempfile.TemporaryDirectory() as folder, browser() as opened:
        page = Path(folder) / "page.html"
        entry = replace(shown(Task.TEMPORAL_SPATIAL, seed=11, teacher=FAULTY), model="")
        write_page(page, "Held-out rows", [entry])
        tab = opened.new_page(viewport={"width": 1180, "height": 900}, device_scale_factor=1.5)
        tab.goto(page.as_uri())
        drawn = tab.locator(".card").screenshot(style=".watch, .copy { display: none !important }")
    with Image.open(io.BytesIO(drawn)) as image:
        image.convert("RGB").quantize(192).save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()
