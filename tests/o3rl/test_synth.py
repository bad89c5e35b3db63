"""The synthetic data set: the same bytes by seed, and what its rows say is what its videos show."""

import json
import re
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path
from random import Random

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from o3rl.data.parquet import read_rows
from o3rl.data.stgr import import_file
from o3rl.synth.dataset import Size, write_dataset
from o3rl.synth.questions import PERFECT, Teacher, ask, lessons, names, row
from o3rl.synth.world import (
    COLOURS,
    DURATIONS,
    LOOKED_AT,
    PATHS,
    RATES,
    SHAPES,
    SIZES,
    Scene,
    Thing,
    draw,
    random_picture,
    random_scene,
    split_combinations,
)
from o3rl.types import Task

SIZE = Size(videos=2, pictures=2, held_out_videos=1, held_out_pictures=1)
NOISE = 45  # how far H.264's colours may be off, of 255, near the centre of a large shape
FILES = ("STGR-SFT.json", "STGR-RL.json", "STGR-held-out.json")


def write(out: Path, *, seed: int = 0, size: Size = SIZE, teacher: Teacher = Teacher()) -> Path:  # noqa: B008
    told = list(write_dataset(out, size, seed=seed, teacher=teacher))
    media = size.videos + size.pictures + size.held_out_videos + size.held_out_pictures
    assert told == [(done, media) for done in range(1, media + 1)]
    return out


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("synth"), teacher=PERFECT)


def records(data: Path, name: str) -> list[dict]:
    return json.loads((data / name).read_text())


def training(data: Path) -> list[dict]:
    return records(data, "STGR-RL.json")


def everything(data: Path) -> list[dict]:
    return [record for name in FILES for record in records(data, name)]


def contents(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()
    }


@cache
def decode(path: Path) -> tuple[list[float], list[av.VideoFrame]]:
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return [frame.time for frame in frames], frames


def pixels(frame: av.VideoFrame) -> np.ndarray:
    return frame.to_ndarray(format="rgb24")


def test_a_seed_is_the_same_bytes_and_another_is_not(data, tmp_path):
    first, again = contents(data), contents(write(tmp_path / "again", teacher=PERFECT))
    assert first == again
    small = Size(videos=1, pictures=1, held_out_videos=1, held_out_pictures=1)
    other = contents(write(tmp_path / "other", seed=1, size=small))
    assert other.keys() <= first.keys()
    assert [name for name in other if first[name] == other[name]] == []


def test_files_and_rows_are_as_many_as_asked_for(data):
    videos = sorted(path.name for path in (data / "media" / "videos").iterdir())
    images = sorted(path.name for path in (data / "media" / "images").iterdir())
    assert (len(videos), len(images)) == (3, 3)
    assert len(records(data, "STGR-SFT.json")) == 2 * 6 + 2
    assert len(records(data, "STGR-RL.json")) == 2 * 6 + 2
    assert len(records(data, "STGR-held-out.json")) == 4 + 1
    assert len({record["id"] for record in everything(data)}) == len(everything(data))


@pytest.mark.parametrize("name", ["STGR-SFT.json", "STGR-RL.json"])
def test_all_six_tasks_are_there(data, name):
    assert {record["task"] for record in records(data, name)} == set(Task)


def test_the_held_out_rows_of_a_default_set_have_every_task():
    assert Size().held_out_videos * Size().held_out_rows_per_video + Size().held_out_pictures >= 200


@pytest.mark.parametrize("name", FILES)
def test_every_row_is_imported(data, tmp_path, name):
    report = import_file(data / name, tmp_path / "rows", media=data / "media")
    assert report.rejected == {}
    assert report.mended == {}
    assert report.rows == report.read == len(records(data, name))
    rows = read_rows(tmp_path / "rows")
    assert Counter(row.task for row in rows) == Counter(r["task"] for r in records(data, name))
    assert all((row.reasoning is not None) == (name == "STGR-SFT.json") for row in rows)


def test_videos_are_as_long_and_large_as_promised(data):
    for path in (data / "media" / "videos").iterdir():
        times, frames = decode(path)
        steps = {round(later - earlier, 4) for earlier, later in pairwise(times)}
        assert len(steps) == 1
        [step] = steps
        assert round(1 / step) in RATES
        assert DURATIONS[0] <= len(frames) * step <= DURATIONS[1]
        assert (frames[0].width, frames[0].height) in SIZES
        with av.open(str(path)) as container:
            assert container.streams.video[0].codec_context.name == "h264"


def test_key_frames_show_the_thing_in_its_box(data):
    """At each annotated time the decoded MP4 has the thing's colour at the centre of its box."""
    checked = 0
    for record in everything(data):
        if record["task"] != Task.TEMPORAL_SPATIAL:
            continue
        times, frames = decode(data / "media" / record["video_path"])
        assert record["key_frames"]
        for key in record["key_frames"]:
            assert abs(key["time"] - times[nearest(times, key["time"])]) < 2e-3
            frame = pixels(frames[nearest(times, key["time"])])
            [(name, boxes)] = record["key_items"][str(key["idx"])].items()
            [box] = boxes
            assert 0 <= box[0] < box[2] <= 1
            assert 0 <= box[1] < box[3] <= 1
            shown = {colour for colour, rgb in COLOURS.items() if near(frame, middle(box), rgb)}
            assert len(shown) == 1, (record["id"], key, shown)
            if name.endswith("object"):
                assert shown == {name.split()[0]}
            checked += 1
    assert checked >= 10


def nearest(times: list[float], time: float) -> int:
    return min(range(len(times)), key=lambda i: abs(times[i] - time))


def middle(box: list[float]) -> tuple[float, float]:
    """Every shape covers its own centre."""
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def near(frame: np.ndarray, place: tuple[float, float], rgb: tuple[int, int, int]) -> bool:
    height, width, _ = frame.shape
    pixel = frame[int(place[1] * height), int(place[0] * width)].astype(int)
    return bool(np.abs(pixel - np.array(rgb)).max() < NOISE)


def test_intervals_are_when_the_thing_is_there(data):
    """Where the question names a colour: its pixels are in the frames inside the interval only."""
    checked = 0
    for record in everything(data):
        found = re.match(r"When is the (\w+) object there", record["question"])
        if record["task"] not in (Task.TEMPORAL, Task.TEMPORAL_MCQ) or not found:
            continue
        start, end = json.loads(record["answer"].splitlines()[-1])
        times, frames = decode(data / "media" / record["video_path"])
        assert 0 <= start < end <= times[-1] + (times[1] - times[0])
        beside = {nearest(times, edge) + step for edge in (start, end) for step in (-1, 0, 1)}
        for i in sorted(({*range(0, len(times), 10)} | beside) & {*range(len(times))}):
            there = amount(pixels(frames[i]), COLOURS[found.group(1)]) > 0.004
            assert there == (start <= times[i] <= end), (record["id"], times[i], start, end)
        checked += 1
    assert checked >= 2


def amount(frame: np.ndarray, rgb: tuple[int, int, int]) -> float:
    return float((np.abs(frame.astype(int) - np.array(rgb)).max(-1) < NOISE).mean())


def test_visual_boxes_hold_the_thing(data):
    found = [record for record in everything(data) if record["task"] == Task.VISUAL]
    for record in found:
        picture = np.asarray(Image.open(data / "media" / record["image_path"]).convert("RGB"))
        assert record["image_size"] == [picture.shape[1], picture.shape[0]]
        match = re.search(
            r"<obj>(.*?)</obj><box>\[(\d+),(\d+),(\d+),(\d+)\]</box>", record["answer"]
        )
        x1, y1, x2, y2 = map(int, match.groups()[1:])
        assert 0 <= x1 < x2 <= picture.shape[1]
        assert 0 <= y1 < y2 <= picture.shape[0]
        centre = tuple(picture[(y1 + y2) // 2, (x1 + x2) // 2])
        assert centre in COLOURS.values()
        if match.group(1).endswith("object"):
            assert centre == COLOURS[match.group(1).split()[0]]
    assert len(found) == 2 + 2 + 1


def test_held_out_combinations_are_disjoint_and_hold_every_word():
    train, held_out = split_combinations()
    assert not set(train) & set(held_out)
    assert len(train) + len(held_out) == len(COLOURS) * len(SHAPES) * len(PATHS)
    for part in (train, held_out):
        for place, words in enumerate((COLOURS, SHAPES, PATHS)):
            assert {combination[place] for combination in part} == set(words)
    assert split_combinations() == (train, held_out)


def test_held_out_media_are_others(data):
    held_out = {r["video_path"] or r["image_path"] for r in records(data, "STGR-held-out.json")}
    assert not held_out & {r["video_path"] or r["image_path"] for r in training(data)}
    bytes_of = [path.read_bytes() for path in (data / "media").rglob("*.*")]
    assert len(set(bytes_of)) == len(bytes_of)


@settings(max_examples=40)
@given(st.integers(0, 10**9), st.booleans())
def test_scenes(seed, held_out):
    combinations = split_combinations()[held_out]
    scene = random_scene(Random(seed), combinations)
    assert DURATIONS[0] <= scene.duration <= DURATIONS[1]
    assert 1 <= len(scene.things) <= 4
    assert len({thing.name for thing in scene.things}) == len(scene.things)
    for thing in scene.things:
        assert (thing.colour, thing.shape, thing.path) in combinations
        assert 0 <= thing.seen[0] < thing.seen[1] <= scene.duration + 0.005  # hundredths
        assert sum(thing.visible(time) for time in scene.times(LOOKED_AT)) in (2, 3)
        for time in np.linspace(*thing.seen, 5):
            x1, y1, x2, y2 = thing.box(float(time))
            assert -1e-9 <= x1 < x2 <= 1 + 1e-9
            assert -1e-9 <= y1 < y2 <= 1 + 1e-9


@settings(max_examples=40)
@given(st.integers(0, 10**9))
def test_a_thing_goes_where_its_path_says(seed):
    scene = random_scene(Random(seed), split_combinations()[0])
    for thing in scene.things:
        dx, dy = (round(b - a, 9) for a, b in zip(thing.start, thing.end, strict=True))
        signs = {"stays": (0, 0), "left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
        assert (np.sign(dx), np.sign(dy)) == signs[thing.path]


@settings(max_examples=40)
@given(st.integers(0, 10**9))
def test_a_still_shows_all_its_things(seed):
    scene = random_picture(Random(seed), split_combinations()[0])
    assert scene.things
    picture = np.asarray(draw(scene, 0.0))
    for thing in scene.things:
        x1, y1, x2, y2 = thing.box(0.0)
        x, y = (x1 + x2) / 2 * scene.size[0], (y1 + y2) / 2 * scene.size[1]
        assert tuple(picture[int(y), int(x)]) == COLOURS[thing.colour]


@settings(max_examples=40)
@given(st.integers(0, 10**9), st.sampled_from([task for task in Task if task is not Task.VISUAL]))
def test_a_question_has_one_right_answer(seed, task):
    rng = Random(seed)
    asked = ask(rng, random_scene(rng, split_combinations()[0]))
    record = row(rng, asked, task, name="n", media="m", teacher=None)
    assert "reasoning_process" not in record
    assert called(asked.scene, asked.name) == [asked.thing]
    if task in (Task.MCQ, Task.TEMPORAL_MCQ):
        letter = record["answer"].splitlines()[0]
        options = dict(re.findall(r"([A-D])\. (\w+)", record["question"]))
        assert len(set(options.values())) == 4
        assert options[letter] == asked.answer
    elif task is not Task.TEMPORAL:
        assert record["answer"] == asked.answer
        assert record["answer"] not in record["question"]


def called(scene: Scene, name: str) -> list[Thing]:
    """The things that a name fits."""
    return [
        thing
        for thing in scene.things
        if name in (f"{thing.colour} object", thing.shape, thing.name)
    ]


def test_others_of_the_same_colour_or_shape_are_there_and_told_apart():
    train, _ = split_combinations()
    scenes = [random_scene(Random(seed), train) for seed in range(200)]
    ways = Counter(
        known for scene in scenes for thing in scene.things for _, known in names(scene, thing)
    )
    assert ways["path"] >= 20  # both its colour and its shape are another's too
    assert min(ways["shape"], ways["colour"]) >= 200


@settings(max_examples=40)
@given(st.integers(0, 10**9))
def test_key_frames_are_those_looked_at_and_one_between_them(seed):
    rng = Random(seed)
    asked = ask(rng, random_scene(rng, split_combinations()[0]))
    record = row(rng, asked, Task.TEMPORAL_SPATIAL, name="", media="", teacher=None)
    times = [key["time"] for key in record["key_frames"]]
    looked_at = {round(asked.times[number], 3) for number in asked.seen}
    assert times == sorted(times)
    assert looked_at < set(times)
    [between] = set(times) - looked_at
    assert asked.thing.visible(between)


@settings(max_examples=40)
@given(st.integers(0, 10**9))
def test_a_perfect_teacher_cites_the_truth_and_an_erring_one_stays_in_the_clip(seed):
    def taught(teacher: Teacher):
        rng = Random(seed)
        asked = ask(rng, random_scene(rng, split_combinations()[0]))
        return asked, row(rng, asked, Task.TEMPORAL_SPATIAL, name="", media="", teacher=teacher)

    asked, record = taught(PERFECT)
    truth = [round(key["time"], 1) for key in record["key_frames"]]
    said = [float(t) for t in re.findall(r"at<t>([\d.]+)</t>s", record["reasoning_process"])]
    assert said
    assert all(min(abs(time - key) for key in truth) < 0.101 for time in said)
    _, faulty = taught(Teacher())
    assert faulty["key_frames"] == record["key_frames"]
    for time in re.findall(r"at<t>([\d.]+)</t>s", faulty["reasoning_process"]):
        assert 0 <= float(time) <= asked.scene.duration + 0.05
    for box in re.findall(r"<box>\[(.*?)\]</box>", faulty["reasoning_process"]):
        assert all(0 <= float(edge) <= 1 for edge in box.split(","))


@settings(max_examples=40)
@given(st.integers(0, 10**9))
def test_lessons_are_true(seed):
    rng = Random(seed)
    scene = random_scene(rng, split_combinations()[0])
    times = scene.times(LOOKED_AT)
    every = lessons(rng, scene, times)
    assert {lesson.kind for lesson in every} >= {"what", "which", "where", Task.MCQ}
    for lesson in every:
        numbers = [int(digit) - 1 for digit in re.findall(r"frame (\d)", lesson.question)]
        if lesson.kind == "what":
            shown = {thing.name for thing in scene.things if thing.visible(times[numbers[0]])}
            assert set(re.findall(r"</box>(\w+ \w+)", lesson.answer)) == shown
            continue
        thing = lesson.thing
        assert thing is not None
        [name] = re.findall(
            r"the (\w+ \w+|\w+)(?: go| there| in frame \d| at [\d.]+s)?\?", lesson.question
        )[:1]
        assert called(scene, name.removesuffix(" there").removesuffix(" go")) == [thing]
        seen = [number for number, time in enumerate(times) if thing.visible(time)]
        if lesson.kind == "which":
            assert lesson.answer == ",".join(str(number + 1) for number in seen)
        if lesson.task is None:
            continue
        _thought, answer = lesson.answer.split("\n", 1)
        said = [float(time) for time in re.findall(r"([\d.]+)(?:</t>)?s", lesson.answer)]
        assert {*said} == {round(times[seen[0]], 1), round(times[seen[-1]], 1)}
        if lesson.task is Task.TEMPORAL_MCQ:
            options = dict(re.findall(r"([A-D])\. (\w+)", lesson.question))
            assert options[answer[-1]] in (thing.colour, thing.shape, thing.path)
        if lesson.task in (Task.FREE_FORM, Task.TEMPORAL_SPATIAL):
            assert answer in (thing.colour, thing.shape, thing.path)


def test_a_lesson_tells_nothing_of_a_thing_that_no_frame_shows():
    scene = random_scene(Random(5), split_combinations()[0])
    unseen = min(thing.seen[0] for thing in scene.things) / 2
    told = lessons(Random(0), scene, (unseen,))
    assert [(lesson.kind, lesson.answer) for lesson in told] == [("what", "nothing")]


def test_a_size_of_nothing_is_refused():
    with pytest.raises(ValueError, match="pictures is 0"):
        Size(pictures=0)
