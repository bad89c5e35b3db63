"""`o3rl bench learner`: a step with a shared prompt, against plain transformers and the bound."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

COLUMNS = ("P, C, G", "shared s", "baseline s", "speedup", "bound", "of bound", "memory ratio")


def run(options: argparse.Namespace) -> int:
    """Measure, then a table or JSON."""
    if options.repeats < 1:
        raise ValueError(f"--repeats is {options.repeats}; it must be 1 or more")
    from cluster.bench.learner import measure
    from cluster.bench.random_models import Setting, Shape

    setting = Setting(options.model, options.device, not options.without_checkpointing)
    shapes = [Shape.parse(text) for text in options.shapes.split(",")]
    memory = not options.without_memory
    found = measure(shapes, setting, repeats=options.repeats, memory=memory)
    if options.json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return 0
    Console().print(table(found))
    return 0


def table(found: Sequence[Mapping[str, Any]]) -> Table:
    """One line a shape: medians, the speedup, and its share of the bound."""
    first = found[0]
    shown = Table(
        title=f"{first['parameters'] / 1e6:.0f} M parameters, {first['dtype']}, {first['device']}, "
        f"{first['threads']} threads",
        title_justify="left",
        box=None,
    )
    for name in (*COLUMNS, "baseline"):
        shown.add_column(name, justify="right")
    for each in found:
        baseline, memory = each["baseline"], each["memory_ratio"]
        shown.add_row(
            f"{each['P']}, {each['C']}, {each['G']}",
            f"{median(each['seconds']['shared']):.2f}",
            f"{median(each['seconds'][baseline]):.2f}",
            f"{each['speedup']:.2f}",
            f"{each['bound']:.2f}",
            f"{each['speedup_of_bound']:.2f}",
            "" if memory is None else f"{memory:.2f}",
            baseline,
        )
    return shown
