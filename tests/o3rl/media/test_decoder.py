import os
import pickle
import time
from unicodedata import normalize

import numpy as np
import pytest
from PIL import Image

from o3rl.config import FramesConfig
from o3rl.media.decoder import Decoder, MediaError, inside
from o3rl.media.frame_plan import plan_image, plan_video
from o3rl.types import FramePlan, KeyFrame

FRAMES = FramesConfig(pixels=16 * 28 * 28)


@pytest.fixture(scope="module")
def decoder():
    decoder = Decoder(30)
    yield decoder
    decoder.close()


def greys(pixels: np.ndarray) -> list[int]:
    """The middle of each frame, which tells its number: 10·i."""
    return [int(frame[frame.shape[0] // 2, frame.shape[1] // 2].mean()) for frame in pixels]


def test_probe(decoder, videos):
    info = decoder.probe(videos / "good.mp4")
    assert (info.frames, info.width, info.height) == (40, 128, 96)
    assert info.times == pytest.approx([i / 10 for i in range(40)], abs=1e-4)
    assert info.duration == pytest.approx(4.0, abs=1e-3)


def test_decode_gives_the_planned_frames(decoder, videos):
    path = videos / "good.mp4"
    plan = plan_video(decoder.probe(path), FRAMES)
    assert plan.indices_F == (0, 6, 11, 17, 22, 28, 33, 39)  # 8 of 40: i·39/7
    pixels = decoder.decode(path, plan)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (8, plan.size[1], plan.size[0], 3)
    wanted = [10 * i % 250 for i in plan.indices_F]
    assert greys(pixels) == pytest.approx(wanted, abs=4)
    assert pixels[0, 3, 3] == pytest.approx([255, 0, 0], abs=12)  # the corner is top left


def test_frames_come_in_the_order_of_the_plan(decoder, videos):
    path = videos / "good.mp4"
    plan = FramePlan((20, 3, 20), (2.0, 2.1, 2.2), (56, 56), 4.0)
    assert greys(decoder.decode(path, plan)) == pytest.approx([200, 30, 200], abs=4)


def test_resizing_is_pillows_bicubic(decoder, videos):
    path = videos / "good.mp4"
    whole = decoder.decode(path, FramePlan((4,), (0.4,), (128, 96), 4.0))[0]
    small = decoder.decode(path, FramePlan((4,), (0.4,), (56, 28), 4.0))[0]
    expected = Image.fromarray(whole).resize((56, 28), Image.Resampling.BICUBIC)
    assert np.array_equal(small, np.asarray(expected))


def test_variable_rate(decoder, videos):
    info = decoder.probe(videos / "variable.mp4")
    assert info.times == pytest.approx([0, 0.5, 0.6, 3.0, 3.2], abs=1e-4)
    plan = plan_video(info, FRAMES)
    assert plan.indices_F == (0, 2, 3, 4)  # nearest to 0, 1.07, 2.13, 3.2 s
    assert greys(decoder.decode(videos / "variable.mp4", plan)) == pytest.approx(
        [0, 20, 30, 40], abs=4
    )


def test_one_frame(decoder, videos):
    info = decoder.probe(videos / "single.mp4")
    assert info.frames == 1
    assert info.times == (0.0,)
    assert info.duration > 0
    assert len(decoder.decode(videos / "single.mp4", plan_video(info, FRAMES))) == 1


def test_times_start_at_the_first_frame(decoder, videos):
    info = decoder.probe(videos / "late.mp4")
    assert info.times == pytest.approx([i / 10 for i in range(6)], abs=1e-3)
    assert info.duration == pytest.approx(0.6, abs=1e-2)


def test_frames_narrower_than_decord_can(decoder, videos):
    path = videos / "narrow.mp4"
    info = decoder.probe(path)
    assert (info.width, info.height) == (48, 64)
    plan = plan_video(info, FRAMES)
    assert greys(decoder.decode(path, plan)) == pytest.approx([0, 20, 30, 50], abs=4)


@pytest.mark.parametrize(
    ("name", "size", "corner"),
    [("turned90.mp4", (96, 128), (0, -1)), ("turned180.mp4", (128, 96), (-1, -1))],
)
def test_rotation_in_the_metadata(decoder, videos, name, size, corner):
    info = decoder.probe(videos / name)
    assert (info.width, info.height) == size
    pixels = decoder.decode(videos / name, plan_video(info, FRAMES))
    for place in [(0, 0), (0, -1), (-1, 0), (-1, -1)]:
        is_red = pixels[0][place][0] > 200
        assert is_red == (place == corner), place


def test_key_frame_from_its_own_image(decoder, videos, tmp_path):
    Image.new("RGB", (300, 100), (0, 0, 255)).save(tmp_path / "key.png")
    path = videos / "good.mp4"
    key = KeyFrame(1.33, (("dog", ((0.1, 0.1, 0.2, 0.2),)),), "key.png")
    plan = plan_video(decoder.probe(path), FRAMES, key_frames=(key,))
    at = plan.indices_F.index(-1)
    images = tuple(image and tmp_path / image for image in plan.images_F)
    pixels = decoder.decode(path, plan, images=images)
    assert pixels[at, 0, 0].tolist() == [0, 0, 255]
    assert len(pixels) == 9
    with pytest.raises(ValueError, match="without index and image"):
        decoder.decode(path, plan)
    (tmp_path / "key.png").unlink()
    with pytest.raises(MediaError, match="missing"):
        decoder.decode(path, plan, images=images)


def test_image(decoder, tmp_path):
    path = tmp_path / "turned.jpg"
    image = Image.new("RGB", (300, 100), (9, 9, 9))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90°
    image.save(path, exif=exif)
    assert decoder.probe_image(path) == (100, 300)
    plan = plan_image(100, 300, FRAMES)
    assert decoder.decode_image(path, plan).shape == (1, plan.size[1], plan.size[0], 3)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("empty.mp4", "empty"),
        ("random.mp4", "no readable video"),
        ("truncated.mp4", "no readable video"),
        ("header.mp4", "no readable video"),
        ("text.mp4", "no readable video"),
        ("sound.mp4", "no readable video"),
        ("folder.mp4", "not a file"),
        ("nowhere.mp4", "missing"),
    ],
)
def test_bad_videos(decoder, videos, name, reason):
    with pytest.raises(MediaError) as caught:
        decoder.probe(videos / "bad" / name)
    assert caught.value.reason == reason
    assert name in str(caught.value)
    assert pickle.loads(pickle.dumps(caught.value)).reason == reason


def test_a_video_whose_last_frames_are_gone(decoder, videos):
    path = videos / "bad" / "cut.mp4"  # its header promises 40 frames
    with pytest.raises(MediaError) as caught:
        decoder.decode(path, FramePlan((0, 39), (0.0, 3.9), (28, 28), 4.0))
    assert caught.value.reason in ("frames cannot be decoded", "no readable video")


def test_a_plan_for_a_longer_video(decoder, videos):
    plan = FramePlan((0, 40), (0.0, 4.0), (28, 28), 4.1)
    with pytest.raises(MediaError, match="fewer frames than planned"):
        decoder.decode(videos / "good.mp4", plan)


def test_bad_images(decoder, tmp_path):
    (tmp_path / "text.png").write_text("nothing")
    Image.new("1", (20000, 20000)).save(tmp_path / "bomb.png")
    cut = tmp_path / "cut.png"
    Image.effect_noise((200, 200), 50).save(cut)
    cut.write_bytes(cut.read_bytes()[:5000])
    for name, reason in [
        ("text.png", "no readable image"),
        ("bomb.png", "too large"),
        ("cut.png", "no readable image"),
    ]:
        with pytest.raises(MediaError) as caught:
            decoder.probe_image(tmp_path / name)
        assert caught.value.reason == reason


def test_a_reader_that_hangs_is_killed_and_replaced(videos):
    decoder = Decoder(30)
    decoder.probe(videos / "good.mp4")
    stuck = decoder._child
    decoder._seconds = 0.5
    os.kill(stuck.pid, 19)  # SIGSTOP: alive, and silent
    started = time.monotonic()
    with pytest.raises(MediaError, match="timed out"):
        decoder.probe(videos / "good.mp4")
    assert time.monotonic() - started < 5
    assert stuck.poll() is not None
    decoder._seconds = 30
    assert decoder.probe(videos / "good.mp4").frames == 40
    decoder.close()


def test_a_reader_that_dies_is_replaced(videos):
    decoder = Decoder(30)
    decoder.probe(videos / "good.mp4")
    first = decoder._child
    # As if native code crashed while the parent believes the child alive.
    decoder._socket.shutdown(0)
    with pytest.raises(MediaError, match="reader died"):
        decoder.probe(videos / "good.mp4")
    assert decoder.probe(videos / "good.mp4").frames == 40
    assert decoder._child is not first
    decoder._child.kill()
    decoder._child.wait(10)
    assert decoder.probe(videos / "good.mp4").frames == 40
    decoder.close()


def test_paths_stay_inside_their_root(tmp_path):
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (root / "a" / "v.mp4").write_bytes(b"x")
    (tmp_path / "secret").write_bytes(b"x")
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "loop").symlink_to(root / "loop")
    (root / "near").symlink_to(root / "a" / "v.mp4")
    assert inside(root, "a/v.mp4") == (root / "a" / "v.mp4").resolve()
    assert inside(root, "a/../near") == (root / "a" / "v.mp4").resolve()
    assert inside(root, "link") == (tmp_path / "secret").resolve()  # the owner's own
    for bad in ["../secret", "a/../../secret", str(root / "a" / "v.mp4"), "/etc/hostname"]:
        with pytest.raises(MediaError, match="outside the media root"):
            inside(root, bad)
    for bad in ["loop", "a\0b"]:
        with pytest.raises(MediaError, match="cannot be resolved"):
            inside(root, bad)


@pytest.mark.parametrize(("stored", "asked"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_are_found_in_either_unicode_form(tmp_path, stored, asked):
    folder, name = "Vidéos", "été.mp4"
    (tmp_path / normalize(stored, folder)).mkdir()
    file = tmp_path / normalize(stored, folder) / normalize(asked, name)  # a mixture
    file.write_bytes(b"x")
    assert inside(tmp_path, normalize(asked, f"{folder}/{name}")) == file.resolve()


def test_impossible_limit():
    with pytest.raises(ValueError, match="seconds is 0"):
        Decoder(0)


def test_one_image_path_per_frame(decoder, videos):
    plan = FramePlan((0,), (0.0,), (28, 28), 4.0)
    with pytest.raises(ValueError, match="1 frames, but there are 2 images"):
        decoder.decode(videos / "good.mp4", plan, images=(None, None))
