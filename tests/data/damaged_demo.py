"""`o3rl demo` on damaged data: `python -m tests.data.damaged_demo VIDEOS ROWS [of the demo …]`.

So many damaged videos and rows are put among the training data between their making and their
import; all else is the demo itself.
"""

import sys
from pathlib import Path
from typing import Any

from cluster.commands import cli, demo
from tests.data.damage import add_damage


def main(arguments: list[str]) -> int:
    """The demo's exit code."""
    videos, records = map(int, arguments[:2])
    undamaged = demo.write_synthetic

    def damaged(out: Path, *of: Any, seed: int, **how: Any) -> None:
        undamaged(out, *of, seed=seed, **how)
        add_damage(out, videos=videos, records=records, seed=seed)

    demo.write_synthetic = damaged
    return cli.main(["demo", *arguments[2:]])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
