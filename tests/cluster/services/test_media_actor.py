"""Frames by key through a local Ray: decoded once, again after a loss."""

import asyncio
import os
import shutil
import signal
import time
from dataclasses import replace

import numpy as np
import pytest

from cluster.services.media import Media, start_media
from cluster.services.session import ray_session
from o3rl.config import ClusterConfig, FramesConfig
from o3rl.media.decoder import MediaError, MediaLost
from o3rl.types import Row, Task, Truth
from tests.o3rl.conftest import write_video

pytestmark = pytest.mark.e2e

# One plan is 8 frames of 504 × 364 × 3 = 4.4 MB; two fit into the cache.
FRAMES = FramesConfig(pixels=504 * 364, decode_seconds=60, cache_mib=10, readers=2)


def row(media: str) -> Row:
    return Row("row", Task.FREE_FORM, "synth", "What?", media, Truth("here"))


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    write_video(root / "good.mp4", [i / 10 for i in range(40)])
    for number in range(6):
        shutil.copy(root / "good.mp4", root / f"copy{number}.mp4")
    (root / "bad.mp4").write_bytes(b"no video")
    with ray_session(ClusterConfig(cpus=2, gpus_per_rank=0)):
        started = start_media(root, FRAMES, folder=tmp_path_factory.mktemp("run"))
        yield started
        started.close()


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
    with pytest.raises(MediaError, match="unheard: no frames are planned"):
        media.frames("unheard")


def test_forty_callers_of_a_large_video_share_one_decoding(media):
    import ray

    _, key = media.prepare(row("copy0.mp4"), training=True)
    calls = [media.actor.frames.remote(key) for _ in range(40)]
    places = {place for [place] in ray.get(calls, timeout=60)}
    assert len(places) == 1
    assert ray.get(places.pop()).nbytes > 4 * 2**20


@pytest.mark.usefixtures("media")
def test_a_call_waits_as_long_as_the_files_before_it_may_take():
    """The limit of a file is 1 s: 3 s are too long alone, and fine behind many others."""
    import ray

    class Queue:  # here, so that Ray sends it with its code
        def __init__(self, turns: int):
            self._turns = turns

        async def frames(self, key: str) -> list[str]:
            await asyncio.sleep(3)
            return [key]

        async def turns(self) -> int:
            return self._turns

    alone, behind = (ray.remote(Queue).options(num_cpus=0).remote(turns) for turns in (1, 30))
    assert ray.get([alone.turns.remote(), behind.turns.remote()], timeout=60) == [1, 30]
    with pytest.raises(TimeoutError, match="'k', in a queue of 1 turns, within 1 s"):
        Media(alone, seconds=1).decode("k")
    Media(behind, seconds=1).decode("k")
    for actor in (alone, behind):
        ray.kill(actor)


def test_a_frozen_media_actor_is_named(media):
    import ray

    _, key = media.prepare(row("good.mp4"), training=True)
    pid = ray.get(media.actor.pid.remote(), timeout=60)
    began = time.monotonic()
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(MediaLost, match="media: no answer to 'how long is your queue"):
            replace(media, seconds=300, alive_seconds=1).decode(key)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert time.monotonic() - began < 30
    media.decode(key)


def test_a_killed_media_actor_decodes_again_by_key(media):
    import ray

    _, key = media.prepare(row("good.mp4"), training=True)
    before = media.frames(key).copy()
    pid = ray.get(media.actor.pid.remote(), timeout=60)
    os.kill(pid, signal.SIGKILL)
    np.testing.assert_array_equal(media.frames(key), before)
    assert ray.get(media.actor.pid.remote(), timeout=60) != pid
