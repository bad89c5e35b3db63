from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from o3rl.config import FramesConfig
from o3rl.media.frame_plan import (
    VideoInfo,
    image_size,
    nearest_index,
    part_of,
    plan_image,
    plan_video,
    smart_size,
)
from o3rl.types import KeyFrame

FRAMES = FramesConfig()


def clip(seconds: float, fps: float = 30.0, width: int = 1280, height: int = 720) -> VideoInfo:
    count = round(seconds * fps)
    return VideoInfo(count, tuple(i / fps for i in range(count)), width, height, count / fps)


def key(time: float, path: str | None = None) -> KeyFrame:
    return KeyFrame(time, (("dog", ((0.1, 0.1, 0.2, 0.2),)),), path)


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [
        (1280, 720, (420, 224)),  # the case in the specification
        (720, 1280, (224, 420)),
        (112, 112, (336, 336)),  # grown: 112·√8 = 316.8, up to 12·28
        (336, 308, (336, 308)),  # 103,488 px lie between 100,352 and 105,369
        (320, 240, (392, 280)),  # grown by 1.143: 365.8 → 14·28, 274.3 → 10·28
        (10000, 50, (4564, 28)),  # 200:1, shrunk by 2.178: 4590.7 → 163·28; 22.9 → one row
    ],
)
def test_smart_size(width, height, size):
    assert smart_size(width, height, FRAMES) == size


@settings(deadline=None)
@given(
    width=st.integers(1, 5000),
    height=st.integers(1, 5000),
    frames=st.sampled_from([FRAMES, FramesConfig(pixels=16 * 28 * 28), FramesConfig(factor=32)]),
)
def test_smart_size_equals_qwens_own(width, height, frames):
    if max(width, height) / min(width, height) > 200:
        with pytest.raises(ValueError, match="over 200"):
            smart_size(width, height, frames)
        return
    high, wide = smart_resize(
        height, width, frames.factor, frames.pixels, int(1.05 * frames.pixels)
    )
    assert smart_size(width, height, frames) == (wide, high)


@pytest.mark.parametrize(("width", "height"), [(0, 10), (10, -3)])
def test_smart_size_refuses_no_pixels(width, height):
    with pytest.raises(ValueError, match="at least 1 pixel"):
        smart_size(width, height, FRAMES)


@pytest.mark.parametrize(
    ("seconds", "count"),
    [
        (1.0, 4),  # 2 frames wanted, 4 at least
        (2.5, 4),  # 5 → even
        (3.0, 6),
        (7.9, 14),  # 15.8 → 15 → even
        (60.0, 16),
    ],
)
def test_count_of_sampled_frames(seconds, count):
    plan = plan_video(clip(seconds), FRAMES)
    assert len(plan.indices_F) == count
    assert plan.indices_F[0] == 0
    assert plan.indices_F[-1] == clip(seconds).frames - 1


@pytest.mark.parametrize(
    ("total", "indices"), [(1, (0,)), (2, (0, 1)), (3, (0, 2)), (5, (0, 1, 3, 4))]
)
def test_clips_of_few_frames(total, indices):
    # five frames, four sampled: 0, 4/3, 8/3, 4
    info = VideoInfo(total, tuple(i / 10 for i in range(total)), 64, 48, total / 10)
    assert plan_video(info, FRAMES).indices_F == indices


def test_labels_are_true_times_at_a_variable_rate():
    info = VideoInfo(5, (0.0, 0.5, 0.6, 3.0, 3.2), 64, 48, 3.3)
    plan = plan_video(info, FRAMES)
    assert plan.indices_F == (0, 2, 3, 4)  # nearest to 0, 1.07, 2.13, 3.2 s
    assert plan.times_F == (0.0, 0.6, 3.0, 3.2)
    assert plan.duration == 3.3
    assert plan.images_F == ()


def test_tokens_of_a_plan():
    plan = plan_video(clip(60), FRAMES, key_frames=(key(1.02, "k.jpg"),))  # 420×224: 15 · 8
    assert plan.tokens(28) == 17 * 120
    assert plan.tokens(56) == 17 * 7 * 4  # a lower bound


def test_key_frames_of_the_video_are_merged_by_time_and_shown_once():
    # 10 s at 10 fps; 16 sampled indices round(i·99/15) = 0, 7, 13, …; frame 7 is at 0.7 s
    plan = plan_video(clip(10, 10), FRAMES, key_frames=(key(9.93), key(0.74), key(1.02), key(1.03)))
    assert len(plan.indices_F) == 16 + 1  # 0.74 is frame 7, 9.93 is frame 99, 1.02 is new
    assert (plan.indices_F[2], plan.times_F[2]) == (10, 1.0)  # that frame's time
    assert list(plan.times_F) == sorted(plan.times_F)
    assert plan.images_F == ()


def test_key_frames_with_images_are_all_kept_at_their_own_time():
    keys = (key(9.93, "b.jpg"), key(0.74, "a.jpg"), key(1.02, "c.jpg"), key(1.03, "d.jpg"))
    plan = plan_video(clip(10, 10), FRAMES, key_frames=keys)
    shown = dict(zip(plan.images_F, plan.times_F, strict=True))
    assert {shown[each.path] for each in keys} == {each.time for each in keys}
    assert len(plan.indices_F) == 16 + 2  # in place of frames 7 (0.7 s) and 99 (9.9 s)
    assert not {7, 99} & set(plan.indices_F)
    assert plan.indices_F.count(-1) == 4


def test_key_frames_images_and_the_end_of_the_clip():
    info = clip(10, 10)
    plan = plan_video(
        info, FRAMES, key_frames=(key(1.02, "k/1.jpg"), key(12.0), key(15.0, "k/2.jpg"))
    )
    assert plan.images_F == (None, None, "k/1.jpg", *(None,) * 14, "k/2.jpg")
    assert plan.indices_F[2] == plan.indices_F[-1] == -1
    assert plan.times_F[-1] == 15.0
    assert len(plan.indices_F) == 18  # 12.0 has no image and lies after the end: the last frame
    assert plan.indices_F[-2] == 99


@pytest.mark.parametrize(
    ("time", "index"),
    [(0.0499, 0), (0.0501, 1), (0.6499, 6), (0.6501, 7)],  # frames 0 and 7 are sampled
)
def test_a_key_frame_of_the_video_is_the_frame_nearest_to_it(time, index):
    plan = plan_video(clip(10, 10), FRAMES, key_frames=(key(time),))
    assert index in plan.indices_F
    assert len(plan.indices_F) == 16 + (index not in (0, 7))


@pytest.mark.parametrize(("time", "kept"), [(0.651, False), (0.649, True)])
def test_a_sampled_frame_gives_way_to_an_image_of_its_line(time, kept):
    plan = plan_video(clip(10, 10), FRAMES, key_frames=(key(time, "k.jpg"),))  # 7 is at 0.7 s
    assert (7 in plan.indices_F) == kept
    assert time in plan.times_F


def test_key_frames_at_a_variable_rate():
    """Half the mean period is 1.7 s, and the first frames are 0.1 s apart."""
    starts = (0.0, 0.1, 0.2, 0.3, 0.4, 20.0)
    info = VideoInfo(6, starts, 64, 48, 20.1)
    few = FramesConfig(min_frames=2, max_frames=2)
    plan = plan_video(info, few, key_frames=(key(0.2, "k.jpg"), key(0.31), key(5.0), key(19.0)))
    assert plan.indices_F == (0, -1, 3, 4, 5)
    assert plan.times_F == (0.0, 0.2, 0.3, 0.4, 20.0)  # 5.0 is nearest to 0.4, 19.0 to 20.0


@given(
    gaps=st.lists(st.floats(0.001, 5), min_size=1, max_size=60),
    times=st.lists(st.floats(0, 300), max_size=6),
)
def test_any_clip_has_a_sorted_plan_that_holds_its_key_frames(gaps, times):
    starts = [0.0]
    for gap in gaps[:-1]:
        starts.append(starts[-1] + gap)
    info = VideoInfo(len(starts), tuple(starts), 640, 360, starts[-1] + gaps[-1])
    own = tuple(key(time, "k.jpg") for time in times[::2])
    plan = plan_video(info, FRAMES, key_frames=own + tuple(map(key, times[1::2])))
    assert list(plan.times_F) == sorted(plan.times_F)
    assert set(times[::2]) <= set(plan.times_F)
    of_video = [(i, time) for i, time in zip(plan.indices_F, plan.times_F, strict=True) if i >= 0]
    assert all(time == info.times[index] for index, time in of_video)
    assert len(dict(of_video)) == len(of_video)
    shown = set(plan.indices_F)
    for time in times[1::2]:
        index = nearest_index(info, time)
        assert index in shown or min(abs(info.times[index] - at) for at in times[::2]) < 0.05


@pytest.mark.parametrize(
    ("time", "index"), [(-1, 0), (0.0, 0), (0.25, 0), (0.251, 1), (0.56, 2), (1.75, 2), (9.0, 4)]
)
def test_nearest_index(time, index):
    assert nearest_index(VideoInfo(5, (0.0, 0.5, 0.6, 3.0, 3.2), 64, 48, 3.3), time) == index


def test_an_image_is_one_frame_of_the_planned_area():
    image = plan_image(100, 300, FRAMES)
    assert (image.indices_F, image.times_F, image.duration) == ((0,), (0.0,), 0.0)
    assert image.size == (4 * 28, 11 * 28)


@pytest.mark.parametrize(
    ("width", "height", "tokens"),
    [(640, 480, 234), (1920, 1080, 252), (100, 100, 16), (16, 16, 4)],  # as the released code
)
def test_an_image_has_limits_of_its_own(width, height, tokens):
    wide, high = image_size(width, height, FRAMES)
    assert wide * high == tokens * 28**2
    expected = smart_resize(height, width, 28, 4 * 28**2, 256 * 28**2)
    assert (high, wide) == expected


def test_where_the_rate_varies_frames_are_sampled_by_time():
    """Ten frames in the first second, ten more over the following 90."""
    times = tuple(i / 10 for i in range(10)) + tuple(1.0 + 10 * i for i in range(10))
    info = VideoInfo(20, times, 64, 48, 92.0)
    plan = plan_video(info, FRAMES)
    assert len(plan.indices_F) == len(set(plan.indices_F)) == 16
    assert plan.indices_F[-9:] == tuple(range(11, 20))  # all that the long part has
    few = plan_video(info, FramesConfig(max_frames=4))
    assert few.times_F == (0.0, 31.0, 61.0, 91.0)  # nearest to 0, 30.3, 60.7, 91


def test_a_rate_in_rounded_milliseconds_is_no_other_rate():
    info = clip(10)
    rounded = replace(info, times=tuple(round(time, 3) for time in info.times))
    assert plan_video(rounded, FRAMES).indices_F == plan_video(info, FRAMES).indices_F


def test_a_part_is_a_video_of_its_own():
    part, first = part_of(clip(10, 10), 2.5, 4.5)
    assert (first, part.frames, part.times[0]) == (25, 20, 0.0)
    assert part.times[-1] == pytest.approx(1.9)
    assert part.duration == pytest.approx(2.0)
    assert part_of(clip(10, 10), 9.0, 99.0)[0].duration == pytest.approx(1.0)
    with pytest.raises(ValueError, match=r"no frames from 11 s to 12 s of 10"):
        part_of(clip(10, 10), 11, 12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2, (0.0,), 64, 48, 1.0), "2 frames but 1 times"),
        ((0, (), 64, 48, 1.0), "0 frames"),
        ((1, (0.0,), 0, 48, 1.0), "0×48"),
        ((2, (1.0, 0.0), 64, 48, 1.0), "backwards"),
    ],
)
def test_impossible_probe(arguments, message):
    with pytest.raises(ValueError, match=message):
        VideoInfo(*arguments)
