"""`o3rl answer VIDEO QUESTION`: one greedy answer, its evidence in the terminal and on a page."""

import argparse
import asyncio
import logging
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cluster.outputs import is_page, require_own
from learners.model.architecture import require_model
from o3rl.config import RunConfig, load, require
from o3rl.config.shipped import find, load_named, model_path, of_model
from o3rl.text.boxes import BoxConvention
from o3rl.types import Claim, Failure, Prompt, Reward, Row, Task, Truth, Version

logger = logging.getLogger(__name__)

SUFFIXES = {"--video": ".mp4", "--gif": ".gif"}


def run(options: argparse.Namespace) -> int:
    """Check the input, then answer; exit code 1 if the video cannot be read or answered."""
    tasks = [task.value for task in Task]
    require(options.task in tasks, "--task", options.task, f"one of {tasks}")
    if not options.video.is_file():
        raise FileNotFoundError(f"no video at {options.video}")
    require_own(options.page, "--page", is_page)
    clips = {"--video": options.clip, "--gif": options.gif}
    for name, path in clips.items():
        require(not path or options.task != Task.VISUAL, name, str(path), "left out for an image")
        require(not path or path.suffix == SUFFIXES[name], name, str(path), f"*{SUFFIXES[name]}")
        require(not path or not path.exists(), name, str(path), "a new file: this one is there")
    config = _config(options)
    from cluster.services.session import ray_session

    with ray_session(config.cluster), tempfile.TemporaryDirectory(prefix="o3rl-") as folder:
        from cluster.services.wiring import box_convention

        row = Row(
            "question", Task(options.task), "", options.question, options.video.name, Truth("")
        )
        convention = box_convention(config.model.path)
        answered = asyncio.run(answer(config, row, Path(folder), convention=convention))
        if isinstance(answered, Failure):
            raise ValueError(f"{options.video} is not answered: {answered.reason}")
        shown = _with_clips(answered, options.video, options.clip, options.gif, Path(folder))
        _show(shown, options.page, convention)
    return 0


def _config(options: argparse.Namespace) -> RunConfig:
    config = config_of_model(options)
    media = replace(config.data, media=str(options.video.absolute().parent))
    return replace(config, data=media)


def config_of_model(options: argparse.Namespace) -> RunConfig:
    """CONFIG, or that beside the model; with the model to be asked. The shipped one has its own."""
    if options.model != "tiny":
        require_model(options.model)
    beside = Path(options.model).parent / "config.yaml"
    if options.config:
        config = load(find(options.config), options.overrides)
    elif beside.is_file():
        # One question is answered here, wherever the model was trained.
        config = load(beside, ["cluster.address=", *options.overrides])
    elif options.model == "tiny":
        config = load_named("tiny_demo", options.overrides)
    else:
        raise ValueError(
            f"--model {options.model}: there is no {beside} that says how to ask it; name a "
            "configuration by --config"
        )
    return of_model(config, model_path(options.model))


async def answer(config: RunConfig, row: Row, folder: Path, *, convention: BoxConvention) -> Any:
    """A page entry with the answer, or a Failure; in a started Ray session."""
    from cluster.services.wiring import services
    from o3rl.evaluation.evidence import Entry
    from o3rl.loop.prompt_source import prepared

    async with services(config, folder) as start:
        media = start.media()
        found = await prepared(media, row, training=False, attempts=config.loop.max_attempts)
        if isinstance(found, Failure):
            return found
        plan, key = found
        pool = start.rollouts(media.media, None)
        await pool.fleet.start()
        await pool.weights.adopt(Version(0, 0))
        prompt = Prompt(0, row, plan, key, progress=1.0)
        group = await pool.sample_group(prompt, n=1, temperature=0.0)
        if isinstance(group, Failure):
            return group
        text = group.rollouts_G[0].text
        claims = _claims(config, row, text, plan.size, convention)
        frames = await media.frames(key)
        return Entry(row, plan, frames, text, Reward({}, 0.0, claims), "asked")


def _claims(
    config: RunConfig, row: Row, text: str, size: tuple[int, int], convention: BoxConvention
) -> tuple[Claim, ...]:
    """The claims of the thought; there is no truth to hold them to."""
    from rewards.scorer import Scorer

    reward = Scorer(config.rewards).score(
        row.task, text, truth=row.truth, progress=1.0, frame_size=size, convention=convention
    )
    return reward.claims


def _with_clips(entry: Any, video: Path, clip: Path | None, gif: Path | None, folder: Path) -> Any:
    """The entry with its clip for the page, if it is a video's; what was asked for is written."""
    from o3rl.evaluation.clip import plays_whole, write_clip, write_gif
    from o3rl.media.pictures import Unreadable

    if gif:
        write_gif(gif, video, entry)
    if entry.row.task is Task.VISUAL or not (clip or plays_whole(entry)):
        return entry
    path = clip or folder / "clip.mp4"
    try:
        write_clip(path, video, entry)
    except Unreadable as error:
        if clip:
            raise
        logger.warning("the page has no clip of %s: %s", video, error)
        return entry
    return replace(entry, clip=path.read_bytes()) if plays_whole(entry) else entry


def _show(entry: Any, page: Path, convention: BoxConvention) -> None:
    """Print text and claims, and write the page."""
    from o3rl.evaluation.pages import write_page
    from o3rl.text.grammar import answer_of

    console = Console()
    console.print(entry.text, markup=False, highlight=False)
    table = Table("evidence", "time", "box, share of the frame", box=None)
    for claim in entry.reward.claims:
        boxes = " ".join(str([round(edge, 3) for edge in each]) for each in claim.boxes)
        table.add_row(Text(claim.name), f"{claim.time:.1f} s", boxes)
    if entry.reward.claims:
        console.print(table)
    answered = answer_of(entry.text)
    console.print(f"answer: {answered if answered is not None else 'none'}", markup=False)
    write_page(page, entry.row.media, [entry], convention=convention)
    console.print(f"the evidence on its frames: {page}", markup=False)
