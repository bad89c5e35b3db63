"""Writes the synthetic STGR data set: MP4 files, pictures, and the JSON files that describe them.

    media/videos/*.mp4   media/images/*.png   STGR-SFT.json   STGR-RL.json   STGR-held-out.json

The same seed gives the same bytes. Held-out videos differ from those of training by seed and show
only combinations of colour, shape and path that training never does.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

import av

from o3rl.config import require
from o3rl.synth.questions import Teacher, ask, row
from o3rl.synth.world import Scene, draw, random_picture, random_scene, split_combinations
from o3rl.types import Task

VIDEO_TASKS = (  # a video's rows go through these in turn
    Task.TEMPORAL_SPATIAL,
    Task.TEMPORAL,
    Task.MCQ,
    Task.TEMPORAL_SPATIAL,
    Task.TEMPORAL_MCQ,
    Task.FREE_FORM,
)


@dataclass(frozen=True, slots=True)
class Size:
    """How much is written: videos and pictures for training and held out, rows a video."""

    videos: int = 160
    pictures: int = 120
    held_out_videos: int = 48
    held_out_pictures: int = 32
    rows_per_video: int = 6
    held_out_rows_per_video: int = 4

    def __post_init__(self):
        for name in self.__slots__:
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")


@dataclass(frozen=True, slots=True)
class _Job:
    """One medium and its rows, made in one go from one seed."""

    name: str
    seed: str
    still: bool
    held_out: bool
    rows: int


def write_dataset(
    out: Path, size: Size, *, seed: int, teacher: Teacher, workers: int = 2
) -> Iterator[tuple[int, int]]:
    """Write everything below `out`; yields (media done, media in all) as it goes."""
    (out / "media" / "videos").mkdir(parents=True, exist_ok=True)
    (out / "media" / "images").mkdir(parents=True, exist_ok=True)
    jobs = list(_jobs(size, seed))
    rows: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {}
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(_make, job, out / "media", teacher): job for job in jobs}
        for done, future in enumerate(as_completed(futures), start=1):
            rows[futures[future].name] = future.result()
            yield done, len(jobs)
    training = [rows[job.name] for job in jobs if not job.held_out]
    held_out = [rows[job.name] for job in jobs if job.held_out]
    _write(out / "STGR-SFT.json", [row for sft, _ in training for row in sft])
    _write(out / "STGR-RL.json", [row for _, rl in training for row in rl])
    _write(out / "STGR-held-out.json", [row for _, rl in held_out for row in rl])


def _jobs(size: Size, seed: int) -> Iterator[_Job]:
    plan = (
        ("train", False, size.videos, size.rows_per_video),
        ("train", True, size.pictures, 1),
        ("held-out", False, size.held_out_videos, size.held_out_rows_per_video),
        ("held-out", True, size.held_out_pictures, 1),
    )
    for part, still, count, rows in plan:
        kind = "picture" if still else "video"
        for number in range(count):
            name = f"{part}-{kind}-{number:05d}"
            yield _Job(name, f"{seed}/{name}", still, part == "held-out", rows)


def _make(
    job: _Job, media: Path, teacher: Teacher
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The SFT rows and the RL rows of one medium, which it writes."""
    rng = Random(job.seed)
    training, held_out = split_combinations()
    combinations = held_out if job.held_out else training
    if job.still:
        scene = random_picture(rng, combinations)
        path = f"images/{job.name}.png"
        draw(scene, 0.0).save(media / path)
        tasks: tuple[Task, ...] = (Task.VISUAL,)
    else:
        scene = random_scene(rng, combinations)
        path = f"videos/{job.name}.mp4"
        write_video(media / path, scene)
        first = rng.randrange(len(VIDEO_TASKS))
        tasks = tuple(VIDEO_TASKS[(first + i) % len(VIDEO_TASKS)] for i in range(job.rows))
    return (
        [_row(rng, scene, task, f"{job.name}-s{i}", path, teacher) for i, task in enumerate(tasks)],
        [_row(rng, scene, task, f"{job.name}-r{i}", path, None) for i, task in enumerate(tasks)],
    )


def _row(
    rng: Random, scene: Scene, task: Task, name: str, path: str, teacher: Teacher | None
) -> dict[str, Any]:
    return row(rng, ask(rng, scene), task, name=name, media=path, teacher=teacher)


def write_video(path: Path, scene: Scene) -> None:
    """Encode the scene as H.264, a key frame every two seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=scene.rate)
        stream.width, stream.height = scene.size
        stream.pix_fmt = "yuv420p"
        stream.gop_size = 2 * scene.rate
        stream.options = {"crf": "18", "preset": "veryfast", "threads": "1"}
        for number in range(scene.frames):
            image = draw(scene, number / scene.rate)
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode(None))


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text(json.dumps(rows, indent=1) + "\n")
