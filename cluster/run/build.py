"""`o3rl data build`: an endpoint asked about videos, with bars, a table, and a page."""

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cluster.outputs import is_object_with, is_page, require_own, require_own_rows
from cluster.progress import Show, bar
from o3rl.annotation.asking import OverHttp, Prompts
from o3rl.annotation.build import Build, BuildReport, BuildSettings, Watch
from o3rl.annotation.page import build_sections, write_build_page
from o3rl.annotation.passes import LEFT
from o3rl.annotation.videos import read_videos
from o3rl.chat_endpoint import ChatEndpoint, EndpointSettings
from o3rl.config import FramesConfig, require
from o3rl.data.stgr import Counted
from o3rl.files import write_text
from o3rl.media.reader import MediaReader
from rewards.own_target import unearned

PAGE_FRAMES = FramesConfig(max_frames=8)


def run(options: argparse.Namespace) -> int:
    """Build a data set; exit code 1 if it has no row, or the endpoint ended it early."""
    require(options.limit >= 0, "--limit", options.limit, "0 or more")
    require(options.readers >= 1, "--readers", options.readers, "1 or more")
    require_own_rows(options.out)
    require_own(options.out / "build.json", "--out", is_object_with("videos", "stages"))
    require_own(options.out / "build.html", "--out", is_page)
    if options.media is None and not options.source.is_dir():
        raise ValueError("VIDEOS is a file: say where its videos lie with --media")
    media = options.media or options.source
    if not media.is_dir():
        raise ValueError(f"the media root {media} is no folder")
    videos, rejected = read_videos(options.source, media)
    videos = videos[: options.limit or None]
    if not videos:
        raise ValueError(
            f"{options.source} names no video: {_reasons(rejected) or 'none is there'}"
        )
    build = _build(options, media)
    for name, text in build.prompts.texts.items():
        write_text(options.out / "prompts" / f"{name}.txt", f"{text}\n")
    with _bars() as watch:
        report = build.run(videos, unearned=unearned(), watch=watch)
    reader = MediaReader(media, PAGE_FRAMES)
    try:
        page = options.out / "build.html"
        write_build_page(page, build, report, videos, reader, pictures=options.pictures)
    finally:
        reader.close()
    if options.json:
        found = asdict(report) | {"videos_rejected": {r: asdict(c) for r, c in rejected.items()}}
        Console().print_json(json.dumps(found))
    else:
        Console().print(_table(report, rejected))
        Console().print(f"see {page}, and build.json beside it", soft_wrap=True)
    if report.stopped:
        raise ValueError(
            f"ended early: {report.stopped}. What was done is kept; run the same command again"
        )
    return 0 if report.imported.rows else 1


def _table(report: BuildReport, rejected: dict[str, Counted]) -> Table:
    """What became of videos and boxes, by reason with an example, and what it cost."""
    title = f"{report.imported.rows} rows of {report.videos} videos"
    table = Table(title=title, title_justify="left", box=None)
    table.add_column("")
    table.add_column("count", justify="right")
    table.add_column("for instance", overflow="fold")
    for reason, counted in rejected.items():
        table.add_row(Text(f"rejected: {reason}"), str(counted.count), Text(counted.example))
    for heading, lines in build_sections(report):
        table.add_row(Text(heading, style="bold"))
        for words, count, example in lines:
            table.add_row(Text(f"  {words}"), count, Text(example))
    return table


def _build(options: argparse.Namespace, media: Any) -> Build:
    common = {
        "max_tokens": options.max_tokens,
        "seconds": options.seconds,
        "attempts": options.attempts,
        "at_once": options.at_once,
        "key_variable": options.key,
        "longest_wait": options.longest_wait,
    }
    annotator = EndpointSettings(
        options.url, options.model, options.temperature, name="annotator", **common
    )
    verifier = EndpointSettings(
        options.verify_url or options.url,
        options.verify_model or options.model,
        name="verifier",
        model_option="--verify-model",
        **common,
    )
    replies = options.out / "stages" / "replies"
    frames = FramesConfig(max_frames=options.frames, pixels=options.pixels)
    settings = BuildSettings(
        frames,
        options.boxes,
        options.largest,
        options.patience,
        options.readers,
    )
    prompts = Prompts.read(options.prompts)
    ends = (OverHttp(ChatEndpoint(e, replies), options.enforce) for e in (annotator, verifier))
    return Build(options.out, media, settings, prompts, *ends)


@contextmanager
def _bars() -> Iterator[Watch]:
    """One bar a pass, the next one when the one before has ended."""
    with ExitStack() as stack:
        shows: dict[str, Show] = {}
        counts: dict[str, Counter[str]] = {}

        def watch(stage: str, items: int, what: str) -> None:
            if stage not in shows:
                stack.close()
                shows[stage], counts[stage] = stack.enter_context(bar(stage, items)), Counter()
            counts[stage][what if what in ("", LEFT) else "dropped"] += 1
            said = (f"{n} {kind}" for kind, n in counts[stage].items() if kind)
            shows[stage](counts[stage].total(), ", ".join(said))

        yield watch


def _reasons(counts: dict[str, Counted]) -> str:
    return "; ".join(f"{each.count} {reason}, as {each.example}" for reason, each in counts.items())
