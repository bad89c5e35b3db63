"""A benchmark asked of a model: a run's replicas and media, as the runner wants them."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from o3rl.benchmarks.runner import (
    ATTEMPTS,
    Benchmark,
    Runner,
    Sampling,
    Shown,
    find_videos,
    read_log,
    settings_of,
)
from o3rl.benchmarks.runner import Row as Question
from o3rl.config import FramesConfig, RunConfig
from o3rl.loop.prompt_source import prepared
from o3rl.media.pictures import open_image
from o3rl.types import (
    Failure,
    FailureKind,
    Interval,
    Message,
    Row,
    Task,
    Truth,
    Version,
)

AT_ONCE = 8  # questions a replica, that it has some while others are written


@dataclass(frozen=True, slots=True)
class Run:
    """What is asked of whom, and where it is kept: `folder`/replies.jsonl."""

    config: RunConfig
    benchmark: Benchmark
    rows: Sequence[Question]
    media: Path
    folder: Path
    think: bool

    @property
    def log(self) -> Path:
        """The records, one JSON object a line."""
        return self.folder / "replies.jsonl"

    def left(self) -> int:
        """How many rows are to be asked. ValueError where the log is of another run."""
        settings = settings_of(self.config.model.path, self.think, self.benchmark.sampling)
        return len(self.rows) - len(read_log(self.log, self.rows, settings))

    def missing(self) -> list[str]:
        """Videos that are not below the media folder, each once."""
        find = find_videos(self.media)
        videos = dict.fromkeys(self.benchmark.video(row) for row in self.rows)
        return [video for video in videos if find(video) is None]


async def replies(run: Run, advance: Callable[[], None] = lambda: None) -> list[Question]:
    """The record of every row, in order, by replicas that are started in a started Ray session."""
    from cluster.services.wiring import services

    async with services(benchmark_config(run), run.folder) as start:
        media = start.media()
        pool = start.rollouts(media.media, None)
        await pool.fleet.start()
        await pool.weights.adopt(Version(0, 0))
        return await replies_of(run, media, pool, advance)


async def replies_of(
    run: Run, media: Any, pool: Any, advance: Callable[[], None] = lambda: None
) -> list[Question]:
    """The same by a pool that serves, with the media of `benchmark_config`."""
    runner = Runner(
        run.benchmark,
        PoolAsker(pool),
        MediaFrames(media, run.media),
        run.media,
        run.log,
        model=run.config.model.path,
        think=run.think,
        at_once=AT_ONCE * run.config.rollouts.replicas,
    )
    return await runner.run(run.rows, advance)


def benchmark_config(run: Run) -> RunConfig:
    """The configuration with the media and the frames of the benchmark."""
    return replace(
        run.config,
        frames=frames_of(run.config.frames, run.benchmark.sampling),
        data=replace(run.config.data, media=str(run.media.absolute())),
    )


def frames_of(frames: FramesConfig, sampling: Sampling) -> FramesConfig:
    """Which frames a benchmark shows, and how large."""
    return replace(
        frames,
        fps=sampling.fps,
        min_frames=2,
        max_frames=sampling.frames,
        pixels=sampling.pixels,
    )


@dataclass(frozen=True, slots=True)
class MediaFrames:
    """Frames by the media actor, which is configured for the benchmark and reads below `root`."""

    media: Any  # cluster.services.media.AsyncMedia
    root: Path

    async def __call__(self, path: Path, sampling: Sampling, span: Interval | None) -> Shown:
        """See `o3rl.benchmarks.runner.Frames`."""
        del sampling  # as the media actor is configured
        below = str(path.relative_to(self.root))
        row = Row(below, Task.FREE_FORM, "", "", below, Truth(""), part=span)
        found = await prepared(self.media, row, training=False, attempts=ATTEMPTS)
        if isinstance(found, Failure):
            of_file = found.kind is FailureKind.FILE
            raise (ValueError if of_file else ConnectionError)(found.reason)
        plan, key = found
        frames = await self.media.frames(key)
        return Shown(list(frames), plan.times_F, plan.size)


@dataclass(frozen=True, slots=True)
class PoolAsker:
    """Any replica of the pool; a picture is read here, and made no larger than a frame may be."""

    pool: Any  # actors.pool.rollout_pool.RolloutPool

    async def ask(
        self, messages: Sequence[Message], images: Sequence[Any], sampling: Sampling
    ) -> Sequence[str]:
        """See `o3rl.benchmarks.runner.Asker`."""
        seen = [
            await asyncio.to_thread(_picture, image, sampling.pixels)
            if isinstance(image, Path)
            else image
            for image in images
        ]
        return await self.pool.ask(messages, seen, sampling)


def _picture(path: Path, pixels: int) -> np.ndarray:
    image = open_image(str(path))
    shrink = (pixels / (image.width * image.height)) ** 0.5 if pixels else 1.0
    if shrink < 1:
        size = (max(1, int(image.width * shrink)), max(1, int(image.height * shrink)))
        image = image.resize(size, Image.Resampling.BICUBIC)
    return np.asarray(image)
