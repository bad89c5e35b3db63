"""`o3rl data …` and `o3rl score`: files in, files out, a table of what was counted."""

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cluster.progress import bar


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
    Console().print(import_table(report, options.source))
    return 0 if report.accepted else 1


def import_table(report, source: Path) -> Table:
    """Rows by task, and what was rejected by reason with an example."""
    table = Table(title=f"{source.name}: {report.accepted} rows", title_justify="left")
    table.add_column("")
    table.add_column("rows", justify="right")
    table.add_column("for instance")
    for task, count in sorted(report.tasks.items()):
        table.add_row(str(task), str(count), "")
    for reason, count in sorted(report.rejected.items()):
        table.add_row(f"[red]rejected: {reason}[/]", str(count), str(report.examples[reason]))
    return table


def score(options: argparse.Namespace) -> int:
    """Score a JSONL file of completions; exit code 1 if no line could be read."""
    from rewards.score_file import score_file

    counts = score_file(options.source, options.out, profile=options.profile)
    Console().print(f"{counts}; written to {options.out}")
    return 0 if counts.scored else 1
