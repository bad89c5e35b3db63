import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from o3rl.config import Frames
from o3rl.decode import MediaError
from o3rl.flow import KeyFrame, Row, Task, Truth
from o3rl.media import MediaCache, digest

FRAMES = Frames(pixels=16 * 28 * 28, decode_seconds=30, cache_mib=1)
BOXES = (("dog", ((0.1, 0.1, 0.2, 0.2),)),)


def row(media: str, task: Task = Task.FREE_FORM, *, key_frames: tuple[KeyFrame, ...] = ()) -> Row:
    return Row("r", task, "", "What?", media, Truth("a", key_frames=key_frames))


@pytest.fixture
def cache(videos):
    cache = MediaCache(videos, FRAMES)
    yield cache
    cache.close()


def test_a_row_is_planned_and_decoded(cache):
    plan, key = cache.prepare(row("good.mp4"), training=True)
    pixels = cache.frames(key)
    assert pixels.shape == (8, plan.size[1], plan.size[0], 3)
    assert cache.frames(key) is pixels
    with pytest.raises(ValueError, match="read-only"):
        pixels[0] = 0


def test_the_key_depends_on_content_and_plan_alone(cache, videos, tmp_path):
    _, key = cache.prepare(row("good.mp4"), training=True)
    assert cache.prepare(row("good.mp4", Task.MCQ), training=False)[1] == key
    assert cache.prepare(row("variable.mp4"), training=True)[1] != key
    shutil.copy(videos / "good.mp4", tmp_path / "good.mp4")
    other = MediaCache(tmp_path, FRAMES)
    larger = MediaCache(tmp_path, Frames(pixels=20 * 28 * 28))
    try:
        assert other.prepare(row("good.mp4"), training=True)[1] == key
        assert larger.prepare(row("good.mp4"), training=True)[1] != key
    finally:
        other.close()
        larger.close()


def test_key_frames_are_merged_in_training_only(cache, videos):
    Image.new("RGB", (64, 48), (0, 0, 255)).save(videos / "key.png")
    key_frames = (KeyFrame(1.33, BOXES, "key.png"), KeyFrame(2.55, BOXES, "gone.png"))
    shown = row("good.mp4", Task.TEMPORAL_SPATIAL, key_frames=key_frames)
    trained, trained_key = cache.prepare(shown, training=True)
    evaluated, evaluated_key = cache.prepare(shown, training=False)
    assert len(trained.indices_F) == len(evaluated.indices_F) + 2
    assert trained_key != evaluated_key
    assert trained.images_F.count("key.png") == 1
    assert "gone.png" not in trained.images_F
    assert trained.indices_F[trained.times_F.index(2.55)] in (25, 26)
    blue = cache.frames(trained_key)[trained.indices_F.index(-1)]
    assert blue[0, 0].tolist() == [0, 0, 255]
    # The same name with another picture is another key.
    Image.new("RGB", (64, 48), (0, 255, 0)).save(videos / "key.png")
    assert cache.prepare(shown, training=True)[1] != trained_key


def test_image_row(cache, videos):
    Image.new("RGB", (640, 480), (7, 8, 9)).save(videos / "still.png")
    plan, key = cache.prepare(row("still.png", Task.VISUAL), training=True)
    assert plan.duration == 0
    assert cache.frames(key)[0, 5, 5].tolist() == [7, 8, 9]


def test_dropped_frames_are_decoded_again_to_the_same(videos):
    # One plan is 8 frames of 112 × 112 × 3 = 301,056 bytes; three fit into 1 MiB.
    cache = MediaCache(videos, FRAMES)
    names = [f"copy{i}.mp4" for i in range(5)]
    for name in names:
        shutil.copy(videos / "good.mp4", videos / name)
    keys = [cache.prepare(row(name), training=True)[1] for name in names]
    first = digest(cache.frames(keys[0]))
    for key in keys:
        cache.frames(key)
    assert len(set(keys)) == 5
    assert cache._held_bytes <= 2**20
    assert keys[0] not in cache._held
    assert digest(cache.frames(keys[0])) == first
    assert cache._held_bytes == sum(pixels.nbytes for pixels in cache._held.values())
    cache.close()


def test_many_threads_decode_a_key_once(videos):
    cache = MediaCache(videos, FRAMES, readers=2)
    _, key = cache.prepare(row("good.mp4"), training=True)
    start, seen = threading.Barrier(6, timeout=30), []

    def look():
        start.wait()
        seen.append(cache.frames(key))

    threads = [threading.Thread(target=look) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(seen) == 6
    assert all(pixels is seen[0] for pixels in seen)
    cache.close()


def test_another_cache_remembers_by_row_and_plan(cache, videos, tmp_path):
    here = row("good.mp4")
    plan, key = cache.prepare(here, training=True)
    shutil.copy(videos / "good.mp4", tmp_path / "good.mp4")
    other = MediaCache(tmp_path, FRAMES)
    with pytest.raises(KeyError, match="prepare or remember"):
        other.frames(key)
    other.remember(key, plan, media=here.media, is_image=False)
    assert digest(other.frames(key)) == digest(cache.frames(key))
    other.close()
    shutil.copy(videos / "variable.mp4", tmp_path / "good.mp4")
    changed = MediaCache(tmp_path, FRAMES)
    with pytest.raises(MediaError, match="differs from the file"):
        changed.remember(key, plan, media=here.media, is_image=False)
    changed.close()


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
def test_bad_media_is_countable(cache, media, reason):
    with pytest.raises(MediaError) as caught:
        cache.prepare(row(media), training=True)
    assert caught.value.reason == reason


def test_a_size_without_a_plan(cache, videos):
    Image.new("RGB", (1000, 2)).save(videos / "line.png")
    with pytest.raises(MediaError, match="impossible size"):
        cache.prepare(row("line.png", Task.VISUAL), training=True)


def test_a_video_that_goes_away_after_planning(videos):
    shutil.copy(videos / "good.mp4", videos / "brief.mp4")
    cache = MediaCache(videos, FRAMES)
    _, key = cache.prepare(row("brief.mp4"), training=True)
    (videos / "brief.mp4").unlink()
    with pytest.raises(MediaError, match="missing"):
        cache.frames(key)
    cache.close()


def test_digest_tells_values_and_shapes_apart():
    zeros = np.zeros((2, 3), np.uint8)
    assert len(digest(zeros)) == 16
    assert digest(zeros) == digest(zeros.copy())
    assert digest(zeros) != digest(zeros.T)
    assert digest(zeros) != digest(zeros + 1)
    assert digest(zeros.T) == digest(np.ascontiguousarray(zeros.T))


def test_readers_must_exist():
    with pytest.raises(ValueError, match="readers is 0"):
        MediaCache(Path(), FRAMES, readers=0)
