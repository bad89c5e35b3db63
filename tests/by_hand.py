"""The command line of modules that are started by hand, `python -m tests.…`."""

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path


def command(run: Callable[[argparse.Namespace], int], parser: argparse.ArgumentParser) -> None:
    """Run it and exit; the user's errors in a line, and SIGTERM as Ctrl-C, so that all is ended."""
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(run(options))
    except (ValueError, OSError) as error:
        sys.exit(f"{parser.prog}: {error}")


def takes_folder(parser: argparse.ArgumentParser) -> None:
    """--folder."""
    words = "for the runs (default: a new temporary one)"
    parser.add_argument("--folder", type=Path, help=words)


def workplace(folder: Path | None, name: str) -> Path:
    """Where runs go: what they leave is the evidence, and is kept."""
    if folder is None:
        return Path(tempfile.mkdtemp(prefix=f"o3rl-{name}-"))
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"--folder {folder} is not empty; name a new one")
    folder.mkdir(parents=True, exist_ok=True)
    return folder.absolute()
