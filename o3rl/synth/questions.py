"""Questions about a scene in STGR form, and reasoning as an annotator writes it.

An annotator sees evenly spread frames. Key frames are those that show the thing asked about, and
one between them that is none of them. A reasoning text names the thing by what the question gives,
says when it is there, where a path is asked for cites place and time at both ends, and only then
says what sight alone can tell. Nothing in it is a choice that a reader could not know. `Teacher`
sets how faulty that text is: real annotations are off by a second or two, boxes are loose, some
thoughts cite nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from o3rl.synth.world import (
    COLOURS,
    LOOKED_AT,
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
TAGGED, PLAIN = "From <t>{:.1f}</t>s to <t>{:.1f}</t>s", "From {:.1f}s to {:.1f}s"


@dataclass(frozen=True, slots=True)
class Asked:
    """A scene, the thing asked about, what the question calls it, and what it asks for."""

    scene: Scene
    thing: Thing
    name: str  # `red object`, `circle`, `red circle`
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


def names(scene: Scene, thing: Thing) -> list[tuple[str, str]]:
    """What tells `thing` from the others, and what may be asked of one who knows that much.

    Its colour or its shape where no other thing has it; both where each is another's too.
    """
    others = [other for other in scene.things if other is not thing]
    found: list[tuple[str, str]] = []
    if all(other.colour != thing.colour for other in others):
        found.append((f"{thing.colour} object", "shape"))
    if all(other.shape != thing.shape for other in others):
        found.append((thing.shape, "colour"))
    return found or [(thing.name, "path")]


def ask(rng: Random, scene: Scene) -> Asked:
    """A question about a random thing of `scene`."""
    thing = rng.choice(scene.things)
    name, known = rng.choice(names(scene, thing))
    if scene.frames == 1:
        return Asked(scene, thing, name, "colour" if known == "colour" else "shape", (0.0,))
    return Asked(scene, thing, name, rng.choice((known, known, "path")), scene.times(LOOKED_AT))


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
    if teacher is not None:
        record["reasoning_process"] = reasoning
    return record


def _temporal_spatial(rng: Random, asked: Asked, record: dict[str, Any], teacher: Teacher) -> str:
    for number, time in _key_times(rng, asked):
        box = [round(edge, 4) for edge in _clipped(asked.thing.box(time))]
        record["key_frames"].append({"idx": number, "time": round(time, 3), "path": ""})
        record["key_items"][str(number)] = {asked.thing.name: [box]}
    return _shown(rng, asked, teacher)


def _shown(rng: Random, asked: Asked, teacher: Teacher) -> str:
    if rng.random() < teacher.no_evidence:
        return _told(asked)
    when = PLAIN.format(*_when(rng, asked, teacher))
    return f"{when}. {_claims(rng, asked, teacher)} {_told(asked)}"


def _key_times(rng: Random, asked: Asked) -> list[tuple[int, float]]:
    """Numbers and times of the key frames: those looked at, and one between the first two."""
    keys = [(number, asked.times[number]) for number in asked.seen]
    first, second = (round(time * asked.scene.rate) for _, time in keys[:2])
    between = rng.randrange(first + 1, second) / asked.scene.rate
    return sorted([*keys, (len(asked.times), between)], key=lambda key: key[1])


def _claims(rng: Random, asked: Asked, teacher: Teacher) -> str:
    """The first and the last frame that shows the thing, cited."""
    ends = dict.fromkeys((asked.seen[0], asked.seen[-1]))
    return " ".join(_claim(rng, asked, asked.times[number], teacher) for number in ends)


def _claim(rng: Random, asked: Asked, time: float, teacher: Teacher) -> str:
    edges = teacher.box(rng, _clipped(asked.thing.box(time)))
    box = ",".join(f"{edge:.4f}" for edge in edges)
    said = teacher.time(rng, time, asked.scene.duration)
    return f"<obj>{asked.name}</obj><box>[{box}]</box>at<t>{said:.1f}</t>s."


def _when(rng: Random, asked: Asked, teacher: Teacher) -> tuple[float, float]:
    """The times, as said, of the first and the last frame that shows the thing."""
    first, last = sorted(
        round(teacher.time(rng, asked.times[asked.seen[end]], asked.scene.duration), 1)
        for end in (0, -1)
    )
    return first, last


def _told(asked: Asked) -> str:
    if asked.wanted != "path":
        return f"It is a {asked.thing.name}."
    return "It stays." if asked.answer == "stays" else f"It goes {asked.answer}."


def _mcq(rng: Random, asked: Asked, record: dict[str, Any], teacher: Teacher) -> str:
    letter = _add_options(rng, asked, record)
    record["answer"] = letter
    return _free_form(rng, asked, record, teacher)


def _free_form(rng: Random, asked: Asked, _: dict[str, Any], teacher: Teacher) -> str:
    if asked.wanted == "path":
        return _shown(rng, asked, teacher)
    if rng.random() < teacher.no_evidence:
        return _told(asked)
    return f"{PLAIN.format(*_when(rng, asked, teacher))}. {_told(asked)}"


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
    said = _when(rng, asked, teacher)
    truth = [round(edge, 2) for edge in asked.thing.seen]
    record["answer"] = str(list(said) if teacher != PERFECT else truth)
    form = PLAIN if rng.random() < teacher.no_evidence else TAGGED
    return f"{form.format(*said)}."


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


@dataclass(frozen=True, slots=True)
class Lesson:
    """A question about a scene and the plain answer, in lines, boxes normalised.

    `kind` is the task, or one of `LOOKS`: what is in a frame, which frames show a thing, where.
    >>> Lesson("which", "Which frames show the red object?", "2,3")
    """

    kind: str
    question: str
    answer: str
    thing: Thing | None = None  # that it is about, if it is about one

    @property
    def task(self) -> Task | None:
        """The task whose rows ask so; None for a mere look."""
        return None if self.kind in LOOKS else Task(self.kind)


LOOKS = ("what", "which", "where")


def lessons(rng: Random, scene: Scene, times: tuple[float, ...]) -> list[Lesson]:
    """What the tiny base is taught about a scene of which it sees the frames at `times`.

    What an annotator without faults sees and then answers, without any tags for thought and answer.
    """
    found = [_what(scene, times, number) for number in range(len(times))]
    for thing in scene.things:
        for name, known in names(scene, thing):
            asked = Asked(scene, thing, name, known, times)
            if scene.frames == 1:
                found.append(_still(asked))
            elif asked.seen:
                found += _looks(rng, asked)
                found += [_lesson(rng, asked, task) for task in _OF_VIDEOS if known != "path"]
                on_its_way = Asked(scene, thing, name, "path", times)
                if len(asked.seen) > 1:
                    found += [_lesson(rng, on_its_way, task) for task in _OF_VIDEOS]
    return found


def _what(scene: Scene, times: tuple[float, ...], number: int) -> Lesson:
    """The things of a frame from left to right."""
    time = times[number]
    boxes = sorted((t.box(time), t.name) for t in scene.things if t.visible(time))
    listed = " ".join(f"<box>{_shares(box)}</box>{name}" for box, name in boxes) or "nothing"
    where = f" in frame {number + 1}" if scene.frames > 1 else " there"
    return Lesson("what", f"What is{where}?", listed)


def _looks(rng: Random, asked: Asked) -> list[Lesson]:
    frames = ",".join(str(number + 1) for number in asked.seen)
    number = rng.choice(asked.seen)
    box = _shares(asked.thing.box(asked.times[number]))
    place = rng.choice((f"in frame {number + 1}", f"at {asked.times[number]:.1f}s"))
    return [
        Lesson("which", f"Which frames show the {asked.name}?", frames, asked.thing),
        Lesson("where", f"Where is the {asked.name} {place}?", f"<box>{box}</box>", asked.thing),
    ]


def _still(asked: Asked) -> Lesson:
    place = f"<obj>{asked.name}</obj><box>{_shares(asked.thing.box(0.0))}</box>"
    answer = f"{place} It is a {asked.thing.name}.\n{place}"
    return Lesson(Task.VISUAL, f"Where is the {asked.name}?", answer, asked.thing)


def _lesson(rng: Random, asked: Asked, task: Task) -> Lesson:
    record: dict[str, Any] = {"question": asked.question, "answer": asked.answer}
    if task is Task.TEMPORAL_SPATIAL:
        thought = _shown(rng, asked, PERFECT)
    else:
        thought = _BY_TASK[task](rng, asked, record, PERFECT)
    answer = record["answer"]
    when = TAGGED.format(*_when(rng, asked, PERFECT))
    if task is Task.TEMPORAL:
        answer = when
    elif task is Task.TEMPORAL_MCQ:
        answer = f"{when}.\nCorrect Option: {answer[0]}"
    return Lesson(task, record["question"], f"{thought}\n{answer}", asked.thing)


def _shares(box: Box) -> str:
    return f"[{','.join(f'{edge:.4f}' for edge in _clipped(box))}]"


def vocabulary() -> list[str]:
    """Texts that hold every word of this world, for the tiny tokenizer; the same at every call."""
    rng = Random(7)
    combinations, _ = split_combinations()
    texts = ["system\nuser\nassistant\n", "Frame 1 at 2.0s: ", "Correct Option: A"]
    texts += ["The video is in total 20 seconds.", "From <t>2.0</t>s to <t>3.0</t>s."]
    texts += ["Which frames show the one? What is in frame 2? Where is it at 2.0s? nothing there"]
    texts += [*COLOURS, *SHAPES, *PATHS, *(f"?\n{text}" for text in BRIEF.values())]
    texts += [f" {word}" for word in (*COLOURS, *SHAPES, *PATHS)]
    for _ in range(200):
        for scene in (random_scene(rng, combinations), random_picture(rng, combinations)):
            tasks = _OF_VIDEOS if scene.frames > 1 else (Task.VISUAL,)
            for task in tasks:
                record = row(rng, ask(rng, scene), task, name="", media="", teacher=PERFECT)
                texts += [record["question"], record["reasoning_process"], record["answer"]]
            times = scene.times(LOOKED_AT) if scene.frames > 1 else (0.0,)
            for lesson in lessons(rng, scene, times):
                texts += [lesson.question, lesson.answer]
    return texts
