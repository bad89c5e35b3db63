import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from o3rl.config import FramesConfig
from o3rl.media.decoder import MediaError
from o3rl.media.reader import MediaReader, frames_digest
from o3rl.types import KeyFrame, Row, Task, Truth

FRAMES = FramesConfig(pixels=16 * 28 * 28, decode_seconds=30)
BOXES = (("dog", ((0.1, 0.1, 0.2, 0.2),)),)


def row(media: str, task: Task = Task.FREE_FORM, *, key_frames: tuple[KeyFrame, ...] = ()) -> Row:
    return Row("r", task, "", "What?", media, Truth("a", key_frames=key_frames))


@pytest.fixture
def reader(videos):
    reader = MediaReader(videos, FRAMES)
    yield reader
    reader.close()


def test_a_row_is_planned_and_decoded(reader):
    planned = reader.plan(row("good.mp4"), training=True)
    pixels = reader.read(planned)
    width, height = planned.plan.size
    assert pixels.shape == (8, height, width, 3)
    assert frames_digest(reader.read(planned)) == frames_digest(pixels)
    with pytest.raises(ValueError, match="read-only"):
        pixels[0] = 0


def test_the_key_depends_on_content_and_plan_alone(reader, videos, tmp_path):
    key = reader.plan(row("good.mp4"), training=True).key
    assert reader.plan(row("good.mp4", Task.MCQ), training=False).key == key
    assert reader.plan(row("variable.mp4"), training=True).key != key
    shutil.copy(videos / "good.mp4", tmp_path / "good.mp4")
    other = MediaReader(tmp_path, FRAMES)
    larger = MediaReader(tmp_path, FramesConfig(pixels=20 * 28 * 28))
    try:
        assert other.plan(row("good.mp4"), training=True).key == key
        assert larger.plan(row("good.mp4"), training=True).key != key
    finally:
        other.close()
        larger.close()


def test_key_frames_are_merged_in_training_only(reader, videos):
    Image.new("RGB", (64, 48), (0, 0, 255)).save(videos / "key.png")
    key_frames = (KeyFrame(1.33, BOXES, "key.png"), KeyFrame(2.55, BOXES, "gone.png"))
    shown = row("good.mp4", Task.TEMPORAL_SPATIAL, key_frames=key_frames)
    planned, evaluated = (reader.plan(shown, training=training) for training in (True, False))
    trained = planned.plan
    assert len(trained.indices_F) == len(evaluated.plan.indices_F) + 2
    assert planned.key != evaluated.key
    assert trained.images_F.count("key.png") == 1
    assert "gone.png" not in trained.images_F
    assert {25, 26} & set(trained.indices_F)  # at 2.55 s
    blue = reader.read(planned)[trained.indices_F.index(-1)]
    assert blue[0, 0].tolist() == [0, 0, 255]
    # The same name with another picture is another key.
    Image.new("RGB", (64, 48), (0, 255, 0)).save(videos / "key.png")
    assert reader.plan(shown, training=True).key != planned.key


def test_a_row_of_a_part_is_planned_and_read_from_there(reader):
    whole = row("good.mp4")
    planned = reader.plan(replace(whole, part=(1.0, 3.0)), training=True)
    assert planned.plan.indices_F == (10, 16, 23, 29)  # 4 of 20: 10 + i·19/3
    assert planned.plan.times_F == pytest.approx((0.0, 0.6, 1.3, 1.9))
    assert planned.plan.duration == pytest.approx(2.0)
    pixels = reader.read(planned)
    middle = [int(frame[frame.shape[0] // 2, frame.shape[1] // 2].mean()) for frame in pixels]
    assert middle == pytest.approx([100, 160, 230, 290 - 250], abs=4)
    with pytest.raises(MediaError, match="no frames in the row's part"):
        reader.plan(replace(whole, part=(7.0, 9.0)), training=True)


def test_a_file_that_cannot_be_read_is_tried_once_more_in_a_fresh_reader(reader):
    asked = []

    def ask(decoder):
        asked.append(decoder._child)
        decoder.probe(videos_good)
        if len(asked) == 1:
            raise MediaError("v.mp4", "no readable video")
        return "read"

    videos_good = reader._root / "good.mp4"
    assert reader._decoders[0].twice(ask) == "read"
    assert asked[1] is None  # the first child was ended
    asked.clear()
    with pytest.raises(MediaError, match="missing"):
        reader._decoders[0].twice(lambda it: asked.append(it) or it.probe(videos_good / "none"))
    assert len(asked) == 1  # no other process would find it


def test_image_row(reader, videos):
    Image.new("RGB", (640, 480), (7, 8, 9)).save(videos / "still.png")
    planned = reader.plan(row("still.png", Task.VISUAL), training=True)
    assert planned.plan.duration == 0
    assert reader.read(planned)[0, 5, 5].tolist() == [7, 8, 9]


def test_another_reader_reads_what_was_planned_here(reader, videos, tmp_path):
    planned = reader.plan(row("good.mp4"), training=True)
    shutil.copy(videos / "good.mp4", tmp_path / "good.mp4")
    other = MediaReader(tmp_path, FRAMES)
    try:
        assert frames_digest(other.read(planned)) == frames_digest(reader.read(planned))
        shutil.copy(videos / "variable.mp4", tmp_path / "good.mp4")
        with pytest.raises(MediaError, match="differs from the file"):
            other.read(planned)
    finally:
        other.close()


@pytest.mark.parametrize(
    ("media", "reason"),
    [
        ("nowhere.mp4", "missing"),
        ("bad/sound.mp4", "no readable video"),
        ("bad/empty.mp4", "empty"),
        ("../outside.mp4", "outside the media root"),
        ("bad", "not a file"),
    ],
)
def test_bad_media_is_countable(reader, media, reason):
    with pytest.raises(MediaError) as caught:
        reader.plan(row(media), training=True)
    assert caught.value.reason == reason


def test_a_size_without_a_plan(reader, videos):
    Image.new("RGB", (1000, 2)).save(videos / "line.png")
    with pytest.raises(MediaError, match="impossible size"):
        reader.plan(row("line.png", Task.VISUAL), training=True)


def test_a_video_that_goes_away_after_planning(reader, videos):
    shutil.copy(videos / "good.mp4", videos / "brief.mp4")
    planned = reader.plan(row("brief.mp4"), training=True)
    (videos / "brief.mp4").unlink()
    with pytest.raises(MediaError, match="missing"):
        reader.read(planned)


def test_digest_tells_values_and_shapes_apart():
    zeros = np.zeros((2, 3), np.uint8)
    assert len(frames_digest(zeros)) == 16
    assert frames_digest(zeros) == frames_digest(zeros.copy())
    assert frames_digest(zeros) != frames_digest(zeros.T)
    assert frames_digest(zeros) != frames_digest(zeros + 1)
    assert frames_digest(zeros.T) == frames_digest(np.ascontiguousarray(zeros.T))


def test_readers_must_exist():
    with pytest.raises(ValueError, match="readers is 0"):
        MediaReader(Path(), FRAMES, readers=0)
