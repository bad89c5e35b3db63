"""`o3rl demo` on damaged data: `python -m tests.data.damaged_demo VIDEOS ROWS [of the demo …]`.

So many damaged videos and rows are put among the training data between their making and their
import; all else is the demo itself.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

from cluster.commands import cli, demo
from tests.data.damage import add_damage


def main(arguments: list[str]) -> int:
    """The demo's exit code."""
    videos, records = map(int, arguments[:2])
    demo.write_synthetic = partial(_write, demo.write_synthetic, videos, records)
    return cli.main(["demo", *arguments[2:]])


def _write(write: Any, videos: int, records: int, out: Path, *made: Any, **how: Any) -> None:
    write(out, *made, **how)
    add_damage(out, videos=videos, records=records, seed=how["seed"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
