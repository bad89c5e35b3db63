"""Scenes: coloured shapes that appear, move and vanish over 10 to 60 seconds, and their pictures.

Everything is drawn from a `random.Random` that the caller gives, so a seed is a scene. Positions
and boxes are normalised to [0, 1] of the frame. A thing is small and there for a short while only,
and others of its colour or of its shape come and go: who has not looked knows next to nothing.

The background is lit from two sides, redder to the right and bluer to the bottom, the same in every
scene: the positions of the model family are relative ones, and from a plain background a tiny model
needs many times longer to learn where in the frame something is.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from random import Random

import numpy as np
from PIL import Image, ImageDraw

from o3rl.types import Box, Interval

COLOURS = {
    "red": (230, 45, 40),
    "green": (45, 190, 70),
    "blue": (60, 110, 250),
    "yellow": (240, 220, 50),
    "purple": (195, 90, 250),
    "white": (245, 245, 245),
}
SHAPES = ("circle", "square", "triangle", "cross")
PATHS = ("stays", "left", "right", "up", "down")
SIZES = ((224, 224), (256, 192), (192, 256))  # width, height
RATES = (5, 6, 8, 10)  # frames a second
DURATIONS = (10, 60)  # seconds
LIGHT = (30, 120)  # red from the left to the right and blue from the top to the bottom, of 255
SIDE = (0.18, 0.3)  # of a thing, as a share of the frame's shorter side
LOOKED_AT = 8  # evenly spread frames that an annotator looks at
EDGE = (0.03, 0.15)  # how long it is there before and after them, in gaps between two
SPANS = (2, 2, 2, 2, 3)  # of these, how many show a thing

Combination = tuple[str, str, str]  # colour, shape, path


@dataclass(frozen=True, slots=True)
class Thing:
    """One shape: what it is, when it is there, and where its centre moves from and to."""

    colour: str
    shape: str
    path: str
    seen: Interval  # seconds
    side: tuple[float, float]  # width, height, as shares of the frame
    start: tuple[float, float]
    end: tuple[float, float]

    @property
    def name(self) -> str:
        """For instance `red circle`."""
        return f"{self.colour} {self.shape}"

    def visible(self, time: float) -> bool:
        """Whether it is there at `time` seconds, ends included."""
        return self.seen[0] <= time <= self.seen[1]

    def box(self, time: float) -> Box:
        """Its box at `time`; before it appears and after it vanishes the nearest one."""
        first, last = self.seen
        share = min(max((time - first) / (last - first), 0.0), 1.0)
        x = self.start[0] + share * (self.end[0] - self.start[0])
        y = self.start[1] + share * (self.end[1] - self.start[1])
        wide, high = self.side
        return (x - wide / 2, y - high / 2, x + wide / 2, y + high / 2)


@dataclass(frozen=True, slots=True)
class Scene:
    """A clip: its size in pixels, frame rate, number of frames, background's shade, things."""

    size: tuple[int, int]
    rate: int
    frames: int
    shade: int  # green of the background, of 255
    things: tuple[Thing, ...]

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.frames / self.rate

    def times(self, count: int) -> tuple[float, ...]:
        """The presentation times of `count` frames spread evenly, first and last included."""
        return tuple(round(i * (self.frames - 1) / (count - 1)) / self.rate for i in range(count))


def split_combinations(*, held_out_share: float = 0.2) -> tuple[list[Combination], ...]:
    """(training, held out): every colour, shape and path is in both, no combination is."""
    everything = [(c, s, p) for c in COLOURS for s in SHAPES for p in PATHS]
    Random(20510579).shuffle(everything)
    count = round(held_out_share * len(everything))
    return everything[count:], everything[:count]


def random_scene(
    rng: Random, combinations: list[Combination], *, size: tuple[int, int] | None = None
) -> Scene:
    """A scene of two to four things that never touch, no two of the same colour and shape.

    Each is there in two or three of the frames looked at, so that a model which sees only those can
    tell where it goes.
    """
    size = size or rng.choice(SIZES)
    rate = rng.choice(RATES)
    frames = round(rng.uniform(*DURATIONS) * rate)
    empty = Scene(size, rate, frames, rng.randint(15, 60), ())
    times = empty.times(LOOKED_AT)
    things: list[Thing] = []
    wanted = rng.choice((2, 3, 3, 4))
    for _ in range(200):
        if len(things) == wanted:
            break
        thing = _random_thing(rng, rng.choice(combinations), times, empty)
        if all(_apart(thing, other) for other in things):
            things.append(thing)
    return replace(empty, things=tuple(things))


def random_picture(
    rng: Random, combinations: list[Combination], *, size: tuple[int, int] | None = None
) -> Scene:
    """A still image: a scene of one frame."""
    scene = random_scene(rng, combinations, size=size)
    shown = tuple(
        Thing(t.colour, t.shape, "stays", (0.0, 1.0), t.side, t.start, t.start)
        for t in scene.things
    )
    kept: list[Thing] = []
    for thing in shown:
        if all(_apart(thing, other) for other in kept):
            kept.append(thing)
    return Scene(scene.size, 1, 1, scene.shade, tuple(kept))


def draw(scene: Scene, time: float) -> Image.Image:
    """The frame at `time` seconds, RGB, at the scene's size."""
    image = _background(scene.size, scene.shade).copy()
    pen = ImageDraw.Draw(image)
    width, height = scene.size
    for thing in scene.things:
        if thing.visible(time):
            x1, y1, x2, y2 = thing.box(time)
            corners = (x1 * width, y1 * height, x2 * width - 1, y2 * height - 1)
            _PAINTERS[thing.shape](pen, corners, COLOURS[thing.colour])
    return image


@lru_cache(maxsize=256)
def _background(size: tuple[int, int], shade: int) -> Image.Image:
    width, height = size
    pixels = np.empty((height, width, 3), np.float32)
    pixels[:, :, 0] = np.linspace(*LIGHT, width)
    pixels[:, :, 1] = shade
    pixels[:, :, 2] = np.linspace(*LIGHT, height)[:, None]
    return Image.fromarray(pixels.round().astype(np.uint8))


def _random_thing(
    rng: Random, combination: Combination, times: tuple[float, ...], scene: Scene
) -> Thing:
    colour, shape, path = combination
    size, duration = scene.size, scene.duration
    gap = times[1] - times[0]
    span = rng.choice(SPANS)
    first = rng.randint(0, len(times) - span)
    seen = (
        round(max(0.0, times[first] - rng.uniform(*EDGE) * gap), 2),
        round(min(duration, times[first + span - 1] + rng.uniform(*EDGE) * gap), 2),
    )
    pixels = rng.uniform(*SIDE) * min(size)
    side = (pixels / size[0], pixels / size[1])
    start, end = _course(rng, path, side)
    return Thing(colour, shape, path, seen, side, start, end)


def _course(rng: Random, path: str, side: tuple[float, float]):
    """Start and end of the centre; a moving thing covers at least 0.4 of the free way."""

    def free(axis: int) -> tuple[float, float]:
        return side[axis] / 2, 1 - side[axis] / 2

    here = [rng.uniform(*free(0)), rng.uniform(*free(1))]
    there = list(here)
    if path != "stays":
        axis = 0 if path in ("left", "right") else 1
        low, high = free(axis)
        near = low + rng.uniform(0, 0.3) * (high - low)
        far = low + rng.uniform(0.7, 1.0) * (high - low)
        here[axis], there[axis] = (near, far) if path in ("right", "down") else (far, near)
    return (here[0], here[1]), (there[0], there[1])


def _apart(one: Thing, other: Thing) -> bool:
    """Whether two things differ in colour or shape and never touch while both are there."""
    if one.name == other.name:
        return False
    first, last = max(one.seen[0], other.seen[0]), min(one.seen[1], other.seen[1])
    if first > last:
        return True
    for step in range(9):
        time = first + (last - first) * step / 8
        a, b = one.box(time), other.box(time)
        if a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]:
            return False
    return True


def _circle(pen: ImageDraw.ImageDraw, box: Box, colour: tuple[int, int, int]) -> None:
    pen.ellipse(box, fill=colour)


def _square(pen: ImageDraw.ImageDraw, box: Box, colour: tuple[int, int, int]) -> None:
    pen.rectangle(box, fill=colour)


def _triangle(pen: ImageDraw.ImageDraw, box: Box, colour: tuple[int, int, int]) -> None:
    x1, y1, x2, y2 = box
    pen.polygon([((x1 + x2) / 2, y1), (x2, y2), (x1, y2)], fill=colour)


def _cross(pen: ImageDraw.ImageDraw, box: Box, colour: tuple[int, int, int]) -> None:
    x1, y1, x2, y2 = box
    third_x, third_y = (x2 - x1) / 3, (y2 - y1) / 3
    pen.rectangle((x1 + third_x, y1, x2 - third_x, y2), fill=colour)
    pen.rectangle((x1, y1 + third_y, x2, y2 - third_y), fill=colour)


_PAINTERS = {"circle": _circle, "square": _square, "triangle": _triangle, "cross": _cross}
