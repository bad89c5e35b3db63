"""`o3rl configs`: the shipped configurations, one of them, and what every setting is for."""

import argparse
import json
import sys

from rich.console import Console
from rich.table import Table

from o3rl.config.reference import as_commented_yaml, as_json_schema, as_markdown
from o3rl.config.shipped import find, folder, load_named


def run(options: argparse.Namespace) -> int:
    """Without a name a table of the shipped ones; with one its file, or all of it, resolved.

    Raises ValueError where options do not go together, FileNotFoundError for an unknown name.
    """
    if options.reference or options.schema:
        if options.config or options.resolved:
            raise ValueError("--reference and --schema are of all configurations: no CONFIG")
        schema = json.dumps(as_json_schema(), indent=1, ensure_ascii=False)
        sys.stdout.write(as_markdown() if options.reference else f"{schema}\n")
    elif not options.config:
        if options.resolved:
            raise ValueError("--resolved is of one: name it, or give its path")
        Console().print(_table())
    elif options.resolved or options.overrides:
        run = load_named(options.config, options.overrides)
        sys.stdout.write(as_commented_yaml(run))
    else:
        sys.stdout.write(find(options.config).read_text())
    return 0


def _table() -> Table:
    """Each shipped configuration with the comment that its file opens with."""
    table = Table("name", "what it is for", box=None)
    for path in sorted(folder().glob("*.yaml")):
        first = path.read_text().splitlines()[0]
        table.add_row(path.stem, first.removeprefix("#").strip())
    return table
