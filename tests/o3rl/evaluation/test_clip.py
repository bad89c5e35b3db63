"""Clips with evidence: what a browser plays, what is drawn when, by colours of pixels."""

from dataclasses import replace

import av
import numpy as np
import pytest
from PIL import Image

from o3rl.evaluation import clip
from o3rl.evaluation.clip import moments_of, write_clip, write_gif
from o3rl.evaluation.evidence import Entry
from o3rl.media import pyav_reader
from o3rl.types import Claim, FramePlan, Reward, Row, Task, Truth

RATE, SECONDS = 5, 6
BOX = (0.25, 0.25, 0.75, 0.75)
TEXT = (
    "<think>Wait. A <obj>dog</obj><box>[16,12,48,36]</box>at<t>4.0</t>s barks.</think>"
    "<answer>loud</answer>"
)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """64×48, grey, 6 s of 5 frames each."""
    path = tmp_path_factory.mktemp("clip") / "grey.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(RATE * SECONDS):
            grey = np.full((48, 64, 3), 90, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey)))
        container.mux(stream.encode(None))
    return path


def entry(text: str = TEXT, task: Task = Task.TEMPORAL_SPATIAL, **plan) -> Entry:
    row = Row("q", task, "", "What does it do?", "grey.mp4", Truth(""))
    claims = (Claim("dog", 4.0, (BOX,)), Claim("late", 99.0, (BOX,)))
    reward = Reward({}, 0.0, claims if "dog" in text else ())
    seen = FramePlan(
        **{"indices_F": (0,), "times_F": (0.0,), "size": (64, 48), "duration": 6.0} | plan
    )
    return Entry(row, seen, np.zeros((1, 48, 64, 3), np.uint8), text, reward, "asked")


def has_blue(image: Image.Image) -> bool:
    """Of the box of the first claim, in the picture, not the bar below it."""
    upper = np.asarray(image.convert("RGB")).astype(int)[: round(0.6 * image.height)]
    return bool(((upper[..., 2] - upper[..., 0]) > 90).sum() > 20)


def test_a_clip_is_what_a_browser_plays_with_boxes_around_the_moment(video, tmp_path):
    path = tmp_path / "out.mp4"
    write_clip(path, video, entry())
    content = path.read_bytes()
    assert content.find(b"moov") < content.find(b"mdat")  # plays before it is whole
    with av.open(str(path)) as container:
        [stream] = container.streams
        context = stream.codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert (context.width % 2, context.height % 2, context.width >= 280) == (0, 0, True)
        assert float(stream.duration * stream.time_base) == pytest.approx(6.0, abs=0.1)
    shown = {time: has_blue(image) for time, image in pyav_reader.shown(str(path))}
    drawn = [time for time, blue in shown.items() if blue]
    assert (min(drawn), max(drawn)) == pytest.approx((3.0, 5.0), abs=0.1)


def test_a_gif_shows_the_cited_moments_alone(video, tmp_path):
    write_gif(tmp_path / "out.gif", video, entry())
    with Image.open(tmp_path / "out.gif") as image:
        # GIF frames that are alike are one, which lasts longer; 2.5 s to 5.5 s, the clip's end 6 s
        assert image.format == "GIF"
        assert 5 <= image.n_frames <= 16
    write_gif(tmp_path / "all.gif", video, entry(text="<answer>loud</answer>"))
    assert (tmp_path / "all.gif").read_bytes().startswith(b"GIF89a")


def test_of_a_long_video_only_the_cited_moments_are_written(video, tmp_path, monkeypatch):
    """4 s ± 1 s of 6 s."""
    monkeypatch.setattr(clip, "MAX_SECONDS", 3.0)
    monkeypatch.setattr(clip, "AROUND", 1.0)
    write_clip(tmp_path / "out.mp4", video, entry())
    with av.open(str(tmp_path / "out.mp4")) as container:
        stream = container.streams.video[0]
        assert float(stream.duration * stream.time_base) == pytest.approx(2.0, abs=0.15)


def test_moments_have_their_sentence_and_lie_in_the_clip():
    [moment] = moments_of(entry())
    assert (moment.time, moment.name, moment.sentence) == (4.0, "dog", "A dog at 4.0 s barks.")


def test_nonsense_is_drawn_or_left_out(video, tmp_path):
    one = entry()
    boxes = ((float("nan"), 0.0, 1.0, 1.0), (0.9, 0.9, 0.1, 0.1), (-5.0, -5.0, 9.0, 9.0))
    claims = (Claim("", 4.0, boxes), Claim("w " * 200, 4.1, (BOX,)))
    claims += (Claim("x", float("inf"), (BOX,)), Claim("y", float("nan"), (BOX,)))
    write_clip(tmp_path / "o.mp4", video, replace(one, reward=Reward({}, 0.0, claims)))
    assert (tmp_path / "o.mp4").stat().st_size > 1000


def test_an_image_has_no_clip(video, tmp_path):
    with pytest.raises(ValueError, match="asked about as an image"):
        write_clip(tmp_path / "o.mp4", video, entry(task=Task.VISUAL))
