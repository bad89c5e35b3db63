"""`o3rl benchmark score`: what stored replies are worth, by our rules or the published ones."""

import argparse
import asyncio
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from cluster.progress import bar
from o3rl.benchmarks.judge import Judge, JudgeSettings, judged
from o3rl.benchmarks.registry import scorer_named
from o3rl.benchmarks.runner import Row, Scoring, read_list, result
from o3rl.files import write_text

ASIDE = ("schema", "benchmark", "scoring", "boxes", "judge", "unit", "counts", "named", "per_row")


def score(options: argparse.Namespace) -> int:
    """Print the figures of a file of replies; exit code 0, whatever they are."""
    name, size, scorer = scorer_named(options.name)
    scoring = Scoring(options.scoring, options.boxes)
    records: Sequence[Row] = read_list(options.file)
    settings: dict[str, Any] = {"scoring": scoring.by, "boxes": scoring.convention or "as written"}
    settings["judge"] = "stored scores" if name == "V-STaR" else None
    if options.judge:
        if name != "V-STaR":
            raise ValueError(f"--judge is for V-STaR's what answers; {name} needs none")
        judge = Judge(JudgeSettings(options.judge, options.judge_model), options.judge_cache)
        records, settings["judge"] = _judged(records, judge, scoring.by), judge.settings.shown()
    found = result(name, size, records, scorer(records, scoring), settings=settings)
    text = json.dumps(found, indent=2)  # ASCII: a reply may hold half a character
    if options.out is not None:
        write_text(options.out, text)
    if options.json:
        sys.stdout.write(f"{text}\n")
    else:
        _show(found)
    return 0


def _judged(records: Sequence[Row], judge: Judge, by: str) -> list[Row]:
    done = 0
    with bar("judge", len(records)) as show:

        def advance() -> None:
            nonlocal done
            done += 1
            show(done, "")

        return asyncio.run(judged(records, judge, by=by, advance=advance))


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
