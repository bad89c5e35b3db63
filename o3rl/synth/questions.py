"""Questions about a scene in STGR form, and reasoning as an annotator writes it.

An annotator sees `looked_at` evenly spread frames. Key frames are those that show the thing asked
about; a reasoning text names the thing by what the question gives, finds it in a frame, cites place
and time, and only then says what sight alone can tell. `Teacher` sets how faulty that text is: real
annotations are off by a second or two, boxes are loose, some thoughts cite nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from o3rl.synth.world import (
    COLOURS,
    PATHS,
    SHAPES,
    Scene,
    Thing,
    random_picture,
    random_scene,
    split_combinations,
)
from o3rl.text.prompts import BRIEF
from o3rl.types import Box, Task


@dataclass(frozen=True, slots=True)
class Teacher:
    """How often and how far reasoning is wrong; all 0 is a perfect annotator."""

    wrong_times: float = 0.6  # share of cited times that are off by 1 or 2 s
    box_jitter: float = 10 / 112  # of the frame's side, at most, per edge
    no_evidence: float = 0.5  # share of thoughts that cite nothing

    def time(self, rng: Random, time: float, duration: float) -> float:
        """`time`, or a wrong one, in seconds within the clip."""
        if rng.random() < self.wrong_times:
            time += rng.choice((-2.0, -1.0, 1.0, 2.0))
        return min(max(time, 0.0), duration)

    def box(self, rng: Random, box: Box) -> Box:
        """`box` with each edge moved by at most `box_jitter`, still a box inside the frame."""
        x1, y1, x2, y2 = (
            min(max(edge + rng.uniform(-1, 1) * self.box_jitter, 0.0), 1.0) for edge in box
        )
        return (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))


PERFECT = Teacher(0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Asked:
    """A scene, the thing asked about, what the question calls it, and what it asks for."""

    scene: Scene
    thing: Thing
    name: str  # `red object`, `circle`
    wanted: str  # shape, colour or path
    times: tuple[float, ...]  # of the frames looked at

    @property
    def seen(self) -> list[int]:
        """The numbers, from 0, of the frames looked at that show the thing."""
        return [i for i, time in enumerate(self.times) if self.thing.visible(time)]

    @property
    def answer(self) -> str:
        """One word: the shape, the colour, or where it goes."""
        if self.wanted == "path":
            return self.thing.path
        return self.thing.shape if self.wanted == "shape" else self.thing.colour

    @property
    def question(self) -> str:
        """In words."""
        if self.wanted == "path":
            return f"Which way does the {self.name} go?"
        return f"What {self.wanted} is the {self.name}?"


def ask(rng: Random, scene: Scene, *, wanted: str | None = None, looked_at: int = 8) -> Asked:
    """A question about a random thing of `scene`, by its colour or its shape."""
    thing = rng.choice(scene.things)
    by_colour = rng.random() < 0.5
    name = f"{thing.colour} object" if by_colour else thing.shape
    known = "shape" if by_colour else "colour"
    wanted = wanted or rng.choice((known, known, "path"))
    if wanted in ("shape", "colour"):
        wanted = known
    times = scene.times(looked_at) if scene.frames > 1 else (0.0,)
    return Asked(scene, thing, name, wanted, times)


def row(rng: Random, asked: Asked, task: Task, *, name: str, media: str, teacher: Teacher | None):
    """The STGR JSON record of `asked` as `task`; with a teacher an SFT record, else an RL record.

    `media` is the path of the video or, for visual QA, of the image.
    """
    record: dict[str, Any] = {
        "id": name,
        "task": str(task),
        "source": "synth",
        "question": asked.question,
        "answer": asked.answer,
        "video_path": media,
        "image_path": "",
        "image_size": None,
        "key_frames": [],
        "key_items": {},
    }
    reasoning = _BY_TASK[task](rng, asked, record, teacher or PERFECT)
    if teacher == PERFECT and task is Task.TEMPORAL_SPATIAL:  # cites all that there is
        claims = [_claim(rng, asked, number, PERFECT) for number in asked.seen]
        reasoning = " ".join([*claims, _told(asked)])
    if teacher is not None:
        record["reasoning_process"] = reasoning
    return record


def _temporal_spatial(rng: Random, asked: Asked, record: dict[str, Any], teacher: Teacher) -> str:
    for number in asked.seen:
        time = asked.times[number]
        box = [round(edge, 4) for edge in _clipped(asked.thing.box(time))]
        record["key_frames"].append({"idx": number, "time": round(time, 3), "path": ""})
        record["key_items"][str(number)] = {asked.thing.name: [box]}
    told = _told(asked)
    if rng.random() < teacher.no_evidence:
        return told
    cited = sorted(rng.sample(asked.seen, rng.choice((1, 2))))
    return " ".join([*(_claim(rng, asked, number, teacher) for number in cited), told])


def _claim(rng: Random, asked: Asked, number: int, teacher: Teacher) -> str:
    time = asked.times[number]
    edges = teacher.box(rng, _clipped(asked.thing.box(time)))
    box = ",".join(f"{edge:.4f}" for edge in edges)
    said = teacher.time(rng, time, asked.scene.duration)
    return (
        f"Frame {number + 1} shows <obj>{asked.name}</obj><box>[{box}]</box>at<t>{said:.1f}</t>s."
    )


def _told(asked: Asked) -> str:
    if asked.wanted == "path":
        return f"It goes {asked.thing.path}."
    return f"It is a {asked.thing.name}."


def _mcq(rng: Random, asked: Asked, record: dict[str, Any], teacher: Teacher) -> str:
    letter = _add_options(rng, asked, record)
    record["answer"] = letter
    return _free_form(rng, asked, record, teacher)


def _free_form(_: Random, asked: Asked, __: dict[str, Any], ___: Teacher) -> str:
    first, last = asked.seen[0] + 1, asked.seen[-1] + 1
    return f"Frames {first} to {last} show the {asked.name}. {_told(asked)}"


def _add_options(rng: Random, asked: Asked, record: dict[str, Any]) -> str:
    """Append four options to the question; returns the letter of the right one."""
    every = {"shape": list(SHAPES), "colour": list(COLOURS), "path": list(PATHS)}[asked.wanted]
    others = [option for option in every if option != asked.answer]
    options = [asked.answer, *rng.sample(others, 3)]
    rng.shuffle(options)
    shown = " ".join(f"{letter}. {word}" for letter, word in zip("ABCD", options, strict=True))
    record["question"] += f" {shown}"
    return "ABCD"[options.index(asked.answer)]


def _temporal(rng: Random, asked: Asked, record: dict[str, Any], teacher: Teacher) -> str:
    record["question"] = f"When is the {asked.name} there?"
    return _interval(rng, asked, record, teacher)


def _temporal_mcq(rng: Random, asked: Asked, record: dict[str, Any], teacher: Teacher) -> str:
    record["question"] = f"When is the {asked.name} there? {asked.question}"
    letter = _add_options(rng, asked, record)
    thought = _interval(rng, asked, record, teacher)
    record["answer"] = f"{letter}\n{record['answer']}"
    return f"{thought} {_told(asked)}"


def _interval(rng: Random, asked: Asked, record: dict[str, Any], teacher: Teacher) -> str:
    """Sets the answer: the true interval, or what an erring teacher saw; returns his text."""
    first, last = asked.seen[0], asked.seen[-1]
    said = sorted(
        round(teacher.time(rng, asked.times[number], asked.scene.duration), 1)
        for number in (first, last)
    )
    truth = [round(edge, 2) for edge in asked.thing.seen]
    record["answer"] = str(said if teacher != PERFECT else truth)
    if rng.random() < teacher.no_evidence:
        return f"Frames {first + 1} to {last + 1} show the {asked.name}."
    return (
        f"Frame {first + 1} at <t>{said[0]:.1f}</t>s and frame {last + 1} at <t>{said[1]:.1f}</t>s "
        f"show the {asked.name}."
    )


def _visual(rng: Random, asked: Asked, record: dict[str, Any], teacher: Teacher) -> str:
    record["image_path"], record["video_path"] = record["video_path"], ""
    record["image_size"] = list(asked.scene.size)
    record["question"] = f"Where is the {asked.name}?"
    box = _clipped(asked.thing.box(0.0))
    said = teacher.box(rng, box)
    answer = _pixels(said if teacher != PERFECT else box, asked.scene.size)
    record["answer"] = f"<obj>{asked.name}</obj><box>{answer}</box>"
    if rng.random() < teacher.no_evidence:
        return _told(asked)
    cited = _pixels(said, asked.scene.size)
    return f"<obj>{asked.name}</obj><box>{cited}</box> {_told(asked)}"


def _pixels(box: Box, size: tuple[int, int]) -> str:
    width, height = size
    edges = (box[0] * width, box[1] * height, box[2] * width, box[3] * height)
    return f"[{','.join(str(round(edge)) for edge in edges)}]"


def _clipped(box: Box) -> Box:
    x1, y1, x2, y2 = (min(max(edge, 0.0), 1.0) for edge in box)
    return (x1, y1, x2, y2)


_BY_TASK: dict[Task, Callable[[Random, Asked, dict[str, Any], Teacher], str]] = {
    Task.MCQ: _mcq,
    Task.FREE_FORM: _free_form,
    Task.TEMPORAL_SPATIAL: _temporal_spatial,
    Task.TEMPORAL: _temporal,
    Task.TEMPORAL_MCQ: _temporal_mcq,
    Task.VISUAL: _visual,
}

_OF_VIDEOS = tuple(task for task in Task if task is not Task.VISUAL)
_VISUAL_WANTED = "shape"


def lessons(rng: Random, scene: Scene, *, looked_at: int = 8) -> list[tuple[str, str, Task | None]]:
    """What the tiny base is taught about a scene: (question, plain answer, task or None).

    What an annotator without faults sees and then answers, in lines, without any tags for thought
    and answer. Boxes are normalised. A task's questions are those of its rows.
    """
    found: list[tuple[str, str, Task | None]] = []
    if scene.frames == 1:
        for thing in scene.things:
            for name in (f"{thing.colour} object", thing.shape):
                place = f"<obj>{name}</obj><box>{_shares(thing.box(0.0))}</box>"
                answer = f"{place} It is a {thing.name}.\n{place}"
                found.append((f"Where is the {name}?", answer, Task.VISUAL))
        return found
    times = scene.times(looked_at)
    for number in rng.sample(range(looked_at), 2):
        shown = [t for t in scene.things if t.visible(times[number])]
        rng.shuffle(shown)
        listed = " ".join(f"<box>{_shares(t.box(times[number]))}</box>{t.name}" for t in shown)
        found.append((f"What is in frame {number + 1}?", listed or "nothing", None))
    for thing in scene.things:
        for name, known in ((f"{thing.colour} object", "shape"), (thing.shape, "colour")):
            for task in _OF_VIDEOS:
                asked = Asked(scene, thing, name, rng.choice((known, "path")), times)
                found.append(_lesson(rng, asked, task))
    return found


def _lesson(rng: Random, asked: Asked, task: Task) -> tuple[str, str, Task]:
    record: dict[str, Any] = {
        "question": asked.question,
        "answer": asked.answer,
        "key_frames": [],
        "key_items": {},
    }
    thought = _BY_TASK[task](rng, asked, record, PERFECT)
    first, last = (asked.times[asked.seen[end]] for end in (0, -1))
    when = f"From <t>{first:.1f}</t>s to <t>{last:.1f}</t>s"
    answer = record["answer"]
    if task is Task.TEMPORAL:
        answer = when
    elif task is Task.TEMPORAL_MCQ:
        answer = f"{when}.\nCorrect Option: {answer[0]}"
    return record["question"], f"{thought}\n{answer}", task


def _shares(box: Box) -> str:
    return f"[{','.join(f'{edge:.4f}' for edge in _clipped(box))}]"


def vocabulary() -> list[str]:
    """Texts that hold every word of this world, for the tiny tokenizer; the same at every call."""
    rng = Random(7)
    combinations, _ = split_combinations()
    texts = ["system\nuser\nassistant\n", "Frame 1 at 2.0s: ", "Correct Option: A"]
    texts += ["The video is in total 20 seconds.", "From <t>2.0</t>s to <t>3.0</t>s."]
    texts += [*COLOURS, *SHAPES, *PATHS, *(f"?\n{text}" for text in BRIEF.values())]
    texts += [f" {word}" for word in (*COLOURS, *SHAPES, *PATHS)]
    for _ in range(200):
        scene = random_scene(rng, combinations)
        for task in Task:
            if task is Task.VISUAL:
                continue
            record = row(rng, ask(rng, scene), task, name="", media="", teacher=PERFECT)
            texts += [record["question"], record["reasoning_process"], record["answer"]]
        still = random_picture(rng, combinations)
        record = row(rng, ask(rng, still, wanted=_VISUAL_WANTED), Task.VISUAL,
                     name="", media="", teacher=PERFECT)  # fmt: skip
        texts += [record["question"], record["reasoning_process"], record["answer"]]
        texts += [text for q, a, _ in lessons(rng, scene) for text in (q, a)]
    return texts
