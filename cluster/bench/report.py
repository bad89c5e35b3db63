"""What a benchmark tells: JSON, or tables and sentences; and nothing of the libraries it runs."""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib import import_module

from rich.console import Console, RenderableType
from rich.table import Table

Report = tuple[object, Sequence[RenderableType]]  # plain values, and what is shown of them


def run(options: argparse.Namespace) -> int:
    """Measure by `run` of the module that the command is named for, and tell what it gives."""
    with only_the_report():  # some libraries print as they are imported
        found, shown = import_module(f"cluster.bench.{options.kind}").run(options)
    return tell(found, shown, as_json=options.json)


def tell(found: object, shown: Iterable[RenderableType], *, as_json: bool) -> int:
    """To standard output: `found`, plain values and dataclasses, as JSON, or what is shown of it.

    Gives the exit code of the command.
    """
    if as_json:
        sys.stdout.write(json.dumps(found, indent=1, default=asdict) + "\n")
        return 0
    console = Console()
    for each in shown:
        console.print(each)
    return 0


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Names on the left, numbers beside them."""
    made = Table(title=title, title_justify="left", box=None)
    for place, column in enumerate(columns):
        made.add_column(column, justify="right" if place else "left")
    for row in rows:
        made.add_row(*row)
    return made


@contextmanager
def only_the_report() -> Iterator[None]:
    """What libraries and their processes print meanwhile goes to standard error."""
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
