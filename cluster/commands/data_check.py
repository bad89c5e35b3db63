"""`o3rl data check` and `o3rl data stats`: what a data set holds and what is wrong with it."""

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cluster.commands.data import reader
from cluster.outputs import is_object_with, is_page, require_own
from cluster.progress import bar
from o3rl.config import FramesConfig, require
from o3rl.data.check import Check, Checker, open_rows
from o3rl.data.contamination import read_benchmark
from o3rl.data.media_paths import read_source_map
from o3rl.data.statistics import ALL, SERIES, Spread
from o3rl.evaluation.data_page import rejected_of, sampled, write_check_page
from o3rl.files import write_text
from o3rl.media.probe import probe_all
from o3rl.media.reader import MediaReader

PAGE_FRAMES = FramesConfig(max_frames=8)


def check(options: argparse.Namespace) -> int:
    """Check a data set; exit code 1 if no row can be used."""
    require(options.pictures >= 0, "--pictures", options.pictures, "0 or more")
    benchmarks = dict(map(_benchmark, options.benchmark or ()))
    if options.out is not None:
        require_own(options.out / "check.json", "--out", is_object_with("rejected", "by_task"))
        require_own(options.out / "check.html", "--out", is_page)
    checker, report = _look(options)
    found = checker.report(report, benchmarks=benchmarks)
    Console().print(check_table(found))
    if options.out is not None:
        _write(options, checker, found)
        Console().print(f"see {options.out / 'check.html'} and check.json beside it")
    without = found.media.rows_without if found.media else 0
    return 0 if found.rows > without else 1


def stats(options: argparse.Namespace) -> int:
    """Lengths, durations and counts of evidence by task."""
    if options.out is not None:
        require_own(options.out, "--out", is_object_with("rows"))
    checker, report = _look(options)
    found = checker.report(report)
    Console().print(stats_table(found.by_task | {ALL: found.rows}, found.stats))
    if options.out is not None:
        write_text(options.out, _json(found.stats | {"rows": found.by_task}))
    return 0 if found.rows else 1


def check_table(check: Check) -> Table:
    """The report for a terminal."""
    table = Table(
        title=Text(f"{check.source}: {check.rows} rows, {rejected_of(check)} records rejected"),
        title_justify="left",
        box=None,
    )
    table.add_column("")
    table.add_column("count", justify="right")
    table.add_column("for instance", overflow="fold")

    def add(words: str, count: int, example: str = "") -> None:
        table.add_row(Text(words), str(count), Text(example))

    for task, count in check.by_task.items():
        add(f"task: {task}", count)
    for source, count in check.by_source.items():
        add(f"source: {source or 'none'}", count)
    for word, reasons in (
        ("rejected", check.rejected),
        ("for SFT only", check.sft_only),
        ("mended", check.mended),
        ("duplicate", check.duplicates),
        ("doubt", check.doubted),
        ("doubt", check.media.doubts if check.media else {}),
    ):
        for reason, counted in reasons.items():
            add(f"{word}: {reason}", counted.count, counted.example)
    for sentence in check.advice:
        add("advice", 1, sentence)
    if check.media is not None:
        add("media: readable", check.media.readable)
        for reason, bad in check.media.bad.items():
            add(f"media: {reason}", bad.files, f"{bad.example} ({bad.rows} rows need such)")
        add("rows without media", check.media.rows_without)
    for name, shared in check.benchmarks.items():
        examples = ", ".join(shared.examples)
        said = f"{shared.rows} rows; {examples}" if shared.videos else f"of {shared.ids} ids none"
        add(f"videos shared with {name}", shared.videos, said)
    return table


def stats_table(rows: Mapping[str, int], spreads: Mapping[str, Mapping[str, Spread]]) -> Table:
    """One line a task and series: mean, least, median, 95 %, most."""
    table = Table(box=None, title="rows by task", title_justify="left")
    table.add_column("")
    for name in ("count", "mean", "least", "median", "95 %", "most"):
        table.add_column(name, justify="right")
    for task, found in spreads.items():
        table.add_row(Text(task, style="bold"), str(rows[task]))
        for name in (name for name in SERIES if name in found):
            spread = found[name]
            numbers = (spread.mean, spread.least, spread.median, spread.p95, spread.most)
            table.add_row(f"  {name}", str(spread.count), *(f"{number:.4g}" for number in numbers))
    return table


def _look(options: argparse.Namespace) -> tuple[Checker, Any]:
    """See every row, and with a media root probe every file."""
    if not options.source.exists():
        raise FileNotFoundError(f"there is no file or data set {options.source}")
    if options.media is not None and not options.media.is_dir():
        raise ValueError(f"the media root {options.media} is no folder")
    require(options.seconds > 0, "--seconds", options.seconds, "more than 0")
    checker = Checker()
    with reader(options) as adapter:
        rows, report = open_rows(
            options.source, adapter=adapter, source_map=read_source_map(options.sources)
        )
        for row in rows:
            checker.see(row)
    if options.media is not None:
        media = checker.media()
        probes = probe_all(options.media, media, readers=options.readers, seconds=options.seconds)
        with bar("media", len(media)) as show:
            failed = 0
            for done, probe in enumerate(probes, start=1):
                checker.probed(probe)
                failed += bool(probe.reason)
                show(done, f"{failed} cannot be read" if failed else "")
    return checker, report


def _write(options: argparse.Namespace, checker: Checker, found: Check) -> None:
    write_text(options.out / "check.json", _json(asdict(found)))
    entries = []
    if options.media is not None:
        reader = MediaReader(options.media, PAGE_FRAMES)
        try:
            entries = list(sampled(checker.sample(options.pictures), reader))
        finally:
            reader.close()
    write_check_page(options.out / "check.html", found, entries)


def _benchmark(text: str) -> tuple[str, list[str]]:
    name, separator, path = text.partition("=")
    if not (name and separator and path):
        raise ValueError(f"--benchmark {text!r} must read NAME=FILE")
    return name, read_benchmark(Path(path))


def _json(value: Mapping[str, Any]) -> str:
    def plain(each: object) -> object:
        if isinstance(each, Spread):
            return asdict(each)
        raise TypeError(f"{each!r} has no JSON")

    return json.dumps(value, indent=1, default=plain, ensure_ascii=False) + "\n"
