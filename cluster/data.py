"""`o3rl data …` and `o3rl score`: files in, files out, a table of what was counted."""

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cluster.progress import bar
from o3rl.stgr import ImportReport


def synth(options: argparse.Namespace) -> int:
    """Write a synthetic STGR data set."""
    from o3rl.synth.dataset import Size, write_dataset
    from o3rl.synth.questions import PERFECT, Teacher

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
    """Import one STGR file; exit code 1 if no row is left."""
    from o3rl.stgr import import_file

    report = import_file(options.source, options.out, media=options.media)
    Console().print(import_table(report))
    return 0 if report.rows else 1


def import_table(report: ImportReport) -> Table:
    """Rows by task, and what was rejected or mended by reason with an example."""
    table = Table(
        title_justify="left",
        title=f"{Path(report.source).name}: {report.rows} rows of {report.read}",
        box=None,
    )
    table.add_column("")
    table.add_column("rows", justify="right")
    table.add_column("for instance")
    for task, count in sorted(report.by_task.items()):
        table.add_row(task, str(count), "")
    for word, reasons in (("rejected", report.rejected), ("mended", report.mended)):
        for reason, counted in sorted(reasons.items()):
            table.add_row(f"{word}: {reason}", str(counted.count), counted.example)
    return table


def score(options: argparse.Namespace) -> int:
    """Score a JSONL file of completions; exit code 1 if no line could be read."""
    from rewards.score_file import score_file

    counts = score_file(options.source, options.out, profile=options.profile)
    Console().print(f"{counts.scored} lines scored, {len(counts.bad)} bad; see {options.out}")
    for number, reason in counts.bad[:20]:
        Console(stderr=True).print(f"line {number}: {reason}", markup=False)
    return 0 if counts.scored else 1
