"""`o3rl benchmark`: a model asked a benchmark, or stored replies scored, by whose rules is said."""

import argparse
import asyncio
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cluster.outputs import is_object_with, require_own
from cluster.progress import bar, one_more
from learners.model import architecture
from o3rl.benchmarks.judge import Judge, JudgeSettings, judged
from o3rl.benchmarks.registry import benchmark_named, scorer_named
from o3rl.benchmarks.runner import Benchmark, Row, Scoring, load_rows, read_list, result
from o3rl.config import require
from o3rl.files import write_text

ASIDE = (
    "schema",
    "benchmark",
    "model",
    "questions",
    "sampling",
    "scoring",
    "boxes",
    "judge",
    "unit",
    "counts",
    "named",
    "per_row",
)


def score(options: argparse.Namespace) -> int:
    """Print the figures of a file of replies; exit code 0, whatever they are."""
    name, size, scorer = scorer_named(options.name)
    scoring = Scoring(options.scoring, options.boxes)
    records: Sequence[Row] = read_list(options.file)
    settings: dict[str, Any] = {"scoring": scoring.by, "boxes": scoring.convention or "as written"}
    settings["judge"] = "stored scores" if name == "V-STaR" else None
    if judge := _judge(options, name):
        records, settings["judge"] = _judged(records, judge, scoring.by), judge.settings.shown()
    found = result(name, size, records, scorer(records, scoring), settings=settings)
    _give(found, options, options.out)
    return 0


def run(options: argparse.Namespace) -> int:
    """Check all that was said, ask what was not asked before, score it."""
    from cluster.run.answer import config_of_model
    from cluster.run.benchmark import Run

    benchmark = _as_asked(benchmark_named(options.name), options)
    if not options.media.is_dir():
        raise ValueError(f"--media {options.media} is no folder")
    require(options.limit >= 0, "--limit", options.limit, "0 (all rows) or more")
    judge = _judge(options, benchmark.name)
    rows = load_rows(benchmark, options.data, subset=options.subset or options.limit > 0)
    rows = rows[: options.limit or None]
    config = config_of_model(options)
    family = architecture.config_of(config.model.path).get("model_type", "")
    boxes = family if options.boxes is None and options.scoring == "ours" else options.boxes or ""
    scoring = Scoring(options.scoring, boxes)
    folder = options.folder or Path("runs/benchmarks") / options.name
    asked = Run(config, benchmark, rows, options.media, folder, not options.plain)
    require_own(folder / "result.json", "--folder", is_object_with("schema", "benchmark"))
    left = asked.left()
    for video in asked.missing():
        sys.stderr.write(f"missing, its rows score 0: {video}\n")
    records = _asked(asked, left)
    settings: dict[str, Any] = {
        "model": config.model.path,
        "questions": "plain" if options.plain else "thinking",
        "sampling": asdict(benchmark.sampling),
        "scoring": scoring.by,
        "boxes": scoring.convention or "as written",
        "judge": None,
    }
    if judge:
        records, settings["judge"] = _judged(records, judge, scoring.by), judge.settings.shown()
    elif benchmark.name == "V-STaR":
        settings["judge"] = "none: no what answer counts as right"
    write_text(folder / "replies.json", json.dumps(records))
    scores = benchmark.score(records, scoring)
    _give(
        result(benchmark.name, benchmark.size, records, scores, settings=settings),
        options,
        folder / "result.json",
    )
    return 0


def _as_asked(benchmark: Benchmark, options: argparse.Namespace) -> Benchmark:
    """With the frames, pixels and tokens that the command line wants."""
    wanted = {
        name: value
        for name in ("frames", "pixels", "max_tokens")
        if (value := getattr(options, name)) is not None
    }
    sampling = replace(benchmark.sampling, **wanted)
    frames = sampling.frames
    require(frames >= 2 and frames % 2 == 0, "--frames", frames, "an even number from 2 on")
    require(sampling.pixels >= 0, "--pixels", sampling.pixels, "0 (their own size) or more")
    require(sampling.max_tokens >= 1, "--max-tokens", sampling.max_tokens, "1 or more")
    return replace(benchmark, sampling=sampling)


def _asked(asked: Any, left: int) -> Sequence[Row]:
    """The records of a `cluster.run.benchmark.Run`."""
    from cluster.run.benchmark import replies
    from cluster.services.session import ray_session

    with ray_session(asked.config.cluster), bar(asked.benchmark.name, len(asked.rows)) as show:
        return asyncio.run(replies(asked, one_more(show, f"{left} were to be asked")))


def _judge(options: argparse.Namespace, name: str) -> Judge | None:
    if not options.judge:
        return None
    if name != "V-STaR":
        raise ValueError(f"--judge is for V-STaR's what answers; {name} needs none")
    return Judge(JudgeSettings(options.judge, options.judge_model), options.judge_cache)


def _give(found: dict[str, Any], options: argparse.Namespace, out: Path | None) -> None:
    """The result as a file and on the terminal."""
    text = json.dumps(found, indent=2)  # ASCII: a reply may hold half a character
    if out is not None:
        write_text(out, text)
    if options.json:
        sys.stdout.write(f"{text}\n")
    else:
        _show(found)


def _judged(records: Sequence[Row], judge: Judge, by: str) -> list[Row]:
    with bar("judge", len(records)) as show:
        return asyncio.run(judged(records, judge, by=by, advance=one_more(show)))


def _show(found: dict[str, Any]) -> None:
    console, counts = Console(), found["counts"]
    table = Table(
        title=f"{found['benchmark']}, scored by {found['scoring']}; shares in per cent", box=None
    )
    table.add_column("")
    table.add_column("", justify="right")
    figures = {key: value for key, value in found.items() if key not in ASIDE}
    for path, value in _leaves(figures):
        table.add_row(" ".join(path), _shown(path, value, found["unit"]))
    console.print(table)
    of = f" of {counts['expected']}, a subset" if counts["subset"] else ""
    console.print(f"{counts['given']} rows{of}; something was read from {counts['read']}")
    if found["judge"]:
        console.print(f"judge: {found['judge']}", markup=False)
    for reason, count in counts["without_reply"].items():
        console.print(f"without a reply, scored 0: {count}, {reason}", markup=False)


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _leaves(each, (*path, key))
    elif not isinstance(value, list):
        yield path, value


def _shown(path: tuple[str, ...], value: Any, unit: str) -> str:
    """Shares in per cent with one decimal; counts and mean scores as they are."""
    if not isinstance(value, float):
        return str(value)
    if path[-1].endswith("_score"):
        return f"{value:.2f}"
    is_per_cent = unit == "per cent" or path[-1].endswith("_per_cent") or path[0][:3] == "by_"
    return f"{value if is_per_cent else 100 * value:.1f}"
