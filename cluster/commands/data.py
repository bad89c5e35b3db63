"""`o3rl data …` and `o3rl score`: files in, files out, a table of what was counted."""

import argparse
import json
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cluster.outputs import is_object_with, require_free, require_own, require_own_rows
from cluster.progress import bar
from o3rl.config import FramesConfig, load, require
from o3rl.config.shipped import find
from o3rl.data.json_records import Adapter, load_adapter
from o3rl.data.record_files import read_records
from o3rl.data.stgr import ImportReport
from o3rl.media.decoder import MediaError
from o3rl.media.reader import MediaReader, Planned
from o3rl.types import FramePlan, Row, Task, Truth

MIB = 2**20
IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".avif", ".ppm", ".jp2"}
COLUMNS, LABEL = 4, 16  # of the contact sheet; pixels of a label's height
SHOWN_FROM = 32  # MiB from which reading takes long enough for a bar


def synth(options: argparse.Namespace) -> int:
    """Write a synthetic STGR data set."""
    from o3rl.synth.dataset import Size, write_dataset
    from o3rl.synth.questions import PERFECT, Teacher

    require_free(options.out, "--out", ("STGR-*.json", "media/*/*"))
    size = Size(
        options.videos, options.pictures, options.held_out_videos, options.held_out_pictures
    )
    write_synthetic(
        options.out,
        size,
        seed=options.seed,
        teacher=PERFECT if options.perfect_teacher else Teacher(),
        write=write_dataset,
    )
    Console().print(f"STGR-SFT.json, STGR-RL.json, STGR-held-out.json are in {options.out}")
    return 0


def write_synthetic(out: Path, size, *, seed: int, teacher, write) -> None:
    """`write_dataset` with a bar."""
    total = size.videos + size.pictures + size.held_out_videos + size.held_out_pictures
    with bar("videos", total) as show:
        for done, _ in write(out, size, seed=seed, teacher=teacher):
            show(done, "")


def import_(options: argparse.Namespace) -> int:
    """Import one file; exit code 1 if no row is left."""
    from o3rl.data.media_paths import read_source_map
    from o3rl.data.stgr import import_file
    from rewards.own_target import unearned

    require_own_rows(options.out)
    with reader(options) as adapter:
        report = import_file(
            options.source,
            options.out,
            adapter=adapter or read_records,
            media=options.media,
            source_map=read_source_map(options.sources),
            unearned=unearned(),
        )
    if options.json:
        Console().print_json(json.dumps(asdict(report)))
    else:
        Console().print(import_table(report))
        for sentence in report.advice:
            Console(stderr=True).print(sentence, markup=False, highlight=False)
    return 0 if report.rows else 1


@contextmanager
def reader(options: argparse.Namespace) -> Iterator[Adapter | None]:
    """What reads `options.source`: the adapter named, or a file, with a bar if it is large.

    None for a folder without an adapter, which is a data set.
    """
    if options.adapter:
        yield load_adapter(options.adapter)
    elif options.source.is_dir():
        yield None
    elif not options.source.is_file() or options.source.stat().st_size < SHOWN_FROM * MIB:
        yield read_records
    else:
        total, told = -(-options.source.stat().st_size // MIB), 0
        with bar("MiB", total) as show:

            def watch(read: int) -> None:
                nonlocal told
                if (now := min(total, -(-read // MIB))) > told:
                    told = now
                    show(now, "")

            yield partial(read_records, watch=watch)


def import_table(report: ImportReport) -> Table:
    """Rows by task, and what was rejected, mended or doubted by reason with an example."""
    table = Table(
        title_justify="left",
        title=Text(f"{Path(report.source).name}: {report.rows} rows of {report.read}"),
        box=None,
    )
    table.add_column("")
    table.add_column("rows", justify="right")
    table.add_column("for instance")
    for task, count in sorted(report.by_task.items()):
        table.add_row(task, str(count), "")
    for word, reasons in (
        ("rejected", report.rejected),
        ("for SFT only", report.sft_only),
        ("doubted", report.doubted),
        ("mended", report.mended),
    ):
        for reason, counted in sorted(reasons.items()):
            # As Text: an example may hold what rich would take for its markup.
            table.add_row(f"{word}: {reason}", str(counted.count), Text(counted.example))
    return table


def frames(options: argparse.Namespace) -> int:
    """Show the frames of one file, as a table or JSON, and as files."""
    settings = load(find(options.config)).frames if options.config else FramesConfig()
    media = MediaReader(options.file.parent, settings)
    try:
        planned = _planned(media, options.file)
        pixels = media.read(planned)
    finally:
        media.close()
    files = (
        _write_frames(options.out, planned.plan, pixels) if options.out else [None] * len(pixels)
    )
    times = planned.plan.times_F
    if options.json:
        shown = [
            {"time": time, "file": file and str(file)}
            for time, file in zip(times, files, strict=True)
        ]
        sys.stdout.write(json.dumps({"duration": planned.plan.duration, "frames": shown}) + "\n")
        return 0
    width, height = planned.plan.size
    seen = (
        f"{len(times)} frames of {width} × {height}, {planned.plan.tokens(settings.factor)} tokens"
    )
    title = f"{options.file.name}: {planned.plan.duration:.1f} s, {seen}"
    Console().print(title, markup=False, highlight=False, soft_wrap=True)
    Console().print(_frames_table(planned.plan, files))
    return 0


def _planned(media: MediaReader, file: Path) -> Planned:
    """As an image by its name; as a video first otherwise, as an image where that fails."""
    as_video, as_image = (
        Row("", task, "", "", file.name, Truth("")) for task in (Task.FREE_FORM, Task.VISUAL)
    )
    if file.suffix.lower() in IMAGES:
        return media.plan(as_image, training=False)
    try:
        return media.plan(as_video, training=False)
    except MediaError as error:
        try:
            return media.plan(as_image, training=False)
        except MediaError:
            raise error from None


def _write_frames(out: Path, plan: FramePlan, pixels: np.ndarray) -> list[Path]:
    """A PNG file a frame, and all of them on sheet.png."""
    out.mkdir(parents=True, exist_ok=True)
    images = [Image.fromarray(frame) for frame in pixels]
    files = [out / f"frame-{number:02d}.png" for number in range(1, len(images) + 1)]
    for image, file in zip(images, files, strict=True):
        image.save(file)
    width, height = plan.size
    columns = min(COLUMNS, len(images))
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * width, rows * (height + LABEL)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (image, time) in enumerate(zip(images, plan.times_F, strict=True)):
        left, top = number % columns * width, number // columns * (height + LABEL)
        draw.text((left + 2, top + 2), f"Frame {number + 1} at {time:.1f}s", fill="black")
        sheet.paste(image, (left, top + LABEL))
    sheet.save(out / "sheet.png")
    return files


def _frames_table(plan: FramePlan, files: Sequence[Path | None]) -> Table:
    table = Table(box=None)
    for name in ("frame", "time in s", "of the video"):
        table.add_column(name, justify="right")
    table.add_column("file")
    shown = zip(plan.times_F, plan.indices_F, files, strict=True)
    for number, (time, index, path) in enumerate(shown, start=1):
        table.add_row(str(number), f"{time:.3f}", str(index), Text(str(path or "")))
    return table


def score(options: argparse.Namespace) -> int:
    """Score a JSONL file of completions; exit code 1 if no line could be read."""
    from rewards.score_file import score_file

    require_own(options.out, "--out", is_object_with("line", "parts", "total"))
    counts = score_file(options.source, options.out, profile=options.profile)
    Console().print(f"{counts.scored} lines scored, {len(counts.bad)} bad; see {options.out}")
    for number, reason in counts.bad[:20]:
        Console(stderr=True).print(f"line {number}: {reason}", markup=False)
    return 0 if counts.scored else 1


def pretrain(options: argparse.Namespace) -> int:
    """Train a tiny Qwen2.5-VL, with a bar that shows loss and accuracy."""
    if options.steps is not None:
        require(options.steps > 0, "--steps", options.steps, "1 or more")
    if not options.resume:
        require_free(options.out, "--out", ("*",))
    from learners.model.tiny_pretrain import Recipe
    from learners.model.tiny_pretrain import pretrain as train
    from o3rl.config.shipped import model_path

    recipe = Recipe(seed=options.seed)
    if options.steps is not None:
        recipe = replace(recipe, steps=options.steps, stills=options.steps // 5)
    start = None
    if options.start is not None:  # it has seen still images enough
        start = Path(model_path(options.start))
        recipe = replace(recipe, stills=0, rate=3e-3, decay=1.0)
    last: deque[dict[str, float]] = deque(maxlen=50)
    with bar("pretraining", recipe.steps) as show:
        for metrics in train(options.out, recipe, start=start, resume=options.resume):
            last.append(metrics)
            mean = {name: sum(m[name] for m in last) / len(last) for name in ("loss", "accuracy")}
            show(int(metrics["step"]), f"loss {mean['loss']:.3f} accuracy {mean['accuracy']:.3f}")
    return 0
