"""`o3rl data …` and `o3rl score`: files in, files out, a table of what was counted."""

import argparse
import json
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cluster.outputs import is_object_with, require_free, require_own, require_own_rows
from cluster.progress import bar
from o3rl.config import require
from o3rl.data.json_records import Adapter, load_adapter, read_records
from o3rl.data.stgr import ImportReport

MIB = 2**20
TINY_MEASURES = {
    "mcq": "right options, of clips",
    "time": "first cited time within 1 s, of clips",
    "box": "IoU of cited boxes, of clips",
    "still": "IoU of the answer's box, of stills",
}
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

    require_own_rows(options.out)
    with reader(options) as adapter:
        report = import_file(
            options.source,
            options.out,
            adapter=adapter or read_records,
            media=options.media,
            source_map=read_source_map(options.sources),
        )
    Console().print(import_table(report))
    return 0 if report.rows else 1


@contextmanager
def reader(options: argparse.Namespace) -> Iterator[Adapter | None]:
    """What reads `options.source`: the adapter named, or STGR's JSON with a bar if it is large.

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
    """Rows by task, and what was rejected or mended by reason with an example."""
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
    for word, reasons in (("rejected", report.rejected), ("mended", report.mended)):
        for reason, counted in sorted(reasons.items()):
            # As Text: an example may hold what rich would take for its markup.
            table.add_row(f"{word}: {reason}", str(counted.count), Text(counted.example))
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
    for name in ("sight", "steps"):
        require(getattr(options, name) > 0, f"--{name}", getattr(options, name), "1 or more")
    if not options.resume:
        require_free(options.out, "--out", ("*",))
    from learners.model.tiny_lessons import Recipe
    from learners.model.tiny_pretrain import pretrain as train
    from o3rl.config.shipped import model_path

    recipe = Recipe(sight=options.sight, steps=options.steps, seed=options.seed)
    start = None
    if options.start is not None:  # it sees already
        start = Path(model_path(options.start))
        recipe = replace(recipe, sight=0, rate=3e-3, decay=1.0, later=True)
    last: deque[dict[str, float]] = deque(maxlen=50)
    with bar("pretraining", recipe.sight + recipe.steps) as show:
        for metrics in train(options.out, recipe, start=start, resume=options.resume):
            last.append(metrics)
            mean = {name: sum(m[name] for m in last) / len(last) for name in ("loss", "accuracy")}
            show(int(metrics["done"]), f"loss {mean['loss']:.3f} accuracy {mean['accuracy']:.3f}")
    return 0


def eval_tiny(options: argparse.Namespace) -> int:
    """Greedy answers of a tiny model to plain lessons, as a table or as JSON."""
    require(options.scenes > 0, "--scenes", options.scenes, "1 or more")
    from learners.model.tiny_eval import measure
    from o3rl.config.shipped import model_path

    found: dict[str, dict[str, float]] = {}
    with bar("answering", 3 * options.scenes) as show:
        folder = Path(model_path(options.model))
        for done, numbers in measure(folder, scenes=options.scenes, seed=options.seed):
            show(done, "")
            found = numbers
    if options.json:
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
        return 0
    table = Table("", "value", "rows", box=box.SIMPLE_HEAD)
    for name, words in TINY_MEASURES.items():
        table.add_row(words, f"{found[name]['value']:.3f}", f"{found[name]['rows']:.0f}")
    Console().print(table)
    return 0
