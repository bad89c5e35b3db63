"""`o3rl bench …`: what the parts of the system cost on this machine, as a table or JSON."""

import argparse
import json
import sys
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from cluster.bench.rewards import Growth, Rates, StepShare, growth, metrics_of, rates, step_share


def rewards(options: argparse.Namespace) -> int:
    """Time the scorer; with `--run` also its share of that run's steps."""
    if options.seconds <= 0:
        raise ValueError(f"--seconds is {options.seconds:g}; it must be more than 0")
    if options.run is not None and not metrics_of(options.run).is_file():
        raise FileNotFoundError(f"--run {options.run}: there is no {metrics_of(options.run)}")
    measured = rates(options.seconds)
    share = None if options.run is None else step_share(options.run, measured)
    grown = growth()
    if options.json:
        found = {
            "completions_per_second": measured,
            "hostile_texts": {name: asdict(each) for name, each in grown.items()},
            "step_share": None if share is None else asdict(share),
        }
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
        return 0
    console = Console()
    console.print(_rates_table(measured))
    console.print(_growth_table(grown))
    if share is not None:
        console.print(_share_words(share))
    return 0


def _rates_table(measured: Rates) -> Table:
    table = _table("Completions a second, one core", ["task", *measured])
    for task in next(iter(measured.values())):
        table.add_row(task, *(f"{by_task[task]:,.0f}" for by_task in measured.values()))
    return table


def _growth_table(grown: dict[str, Growth]) -> Table:
    sizes = next(iter(grown.values())).parse
    heads = [f"{size // 1000:,} kB" for size in sizes]
    table = _table(
        "Milliseconds to parse a hostile text, by length; to score the longest, slowest profile",
        ["text of", *heads, "scored"],
    )
    for name, each in grown.items():
        milliseconds = [*each.parse.values(), each.score]
        table.add_row(name, *(f"{1000 * value:,.2f}" for value in milliseconds))
    return table


def _share_words(share: StepShare) -> str:
    def percent(value: float | None) -> str:
        return "not logged" if value is None else f"{value:.2%}"

    return (
        f"Of a step of {share.step_seconds:.2f} s (mean of {share.steps}), scoring "
        f"{share.completions} completions is {percent(share.computed)} of computing; scorer "
        f"processes were at work for {percent(share.worked)}, and the step waited for the last of "
        f"them for {percent(share.waited)}."
    )


def _table(title: str, columns: list[str]) -> Table:
    table = Table(title=title, title_justify="left", box=None)
    for column in columns:
        table.add_column(column, justify="left" if column == columns[0] else "right")
    return table
