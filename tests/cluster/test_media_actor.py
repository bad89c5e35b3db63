"""Frames by key through a local Ray: decoded once, again after a loss."""

import os
import signal

import numpy as np
import pytest

from cluster.media import start_media
from o3rl.config import Frames
from o3rl.decode import MediaError
from o3rl.flow import Row, Task, Truth
from tests.o3rl.conftest import write_video

pytestmark = pytest.mark.e2e

FRAMES = Frames(pixels=112 * 112, decode_seconds=60)


def row(media: str) -> Row:
    return Row("row", Task.FREE_FORM, "synth", "What?", media, Truth("here"))


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    import ray

    root = tmp_path_factory.mktemp("videos")
    write_video(root / "good.mp4", [i / 10 for i in range(40)])
    (root / "bad.mp4").write_bytes(b"no video")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    started = start_media(root, FRAMES, folder=tmp_path_factory.mktemp("run"), seconds=120)
    yield started
    started.close()
    ray.shutdown()


def test_frames_lie_under_their_key(media):
    plan, key = media.prepare(row("good.mp4"), training=True)
    frames = media.frames(key)
    assert frames.shape == (len(plan.times_F), plan.size[1], plan.size[0], 3)
    assert frames.dtype == np.uint8
    assert media.prepare(row("good.mp4"), training=True) == (plan, key)
    np.testing.assert_array_equal(media.frames(key), frames)


def test_what_cannot_be_had_says_why(media):
    with pytest.raises(MediaError, match=r"nowhere\.mp4: missing"):
        media.prepare(row("nowhere.mp4"), training=True)
    with pytest.raises(MediaError, match=r"bad\.mp4"):
        media.prepare(row("bad.mp4"), training=True)
    with pytest.raises(KeyError, match="no frames are planned under 'unheard'"):
        media.frames("unheard")


def test_a_killed_media_actor_decodes_again_by_key(media):
    import ray

    _, key = media.prepare(row("good.mp4"), training=True)
    before = media.frames(key).copy()
    pid = ray.get(media.actor.pid.remote(), timeout=60)
    os.kill(pid, signal.SIGKILL)
    np.testing.assert_array_equal(media.frames(key), before)
    assert ray.get(media.actor.pid.remote(), timeout=60) != pid
