"""`o3rl bench chaos`: a table of what was struck, and how soon the run trained on."""

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from cluster.chaos import KINDS, Chaos, ChaosError, Trial, prepared
from cluster.chaos_site import Site
from cluster.progress import bar

VIDEOS = 24  # 147 rows: 36 steps a run


def run(options: argparse.Namespace) -> int:
    """Strike, audit, tell; exit code 1 if a run did not come through."""
    kinds = options.kinds.split(",") if options.kinds else list(KINDS)
    if unknown := sorted(set(kinds) - set(KINDS)):
        raise ValueError(f"--kinds {unknown}: there are {list(KINDS)}")
    if options.trials < 1:
        raise ValueError(f"--trials is {options.trials}; it must be 1 or more")
    folder = workplace(options.folder, "chaos")
    trials: list[Trial] = []
    failed = ""
    data = prepared(folder, videos=VIDEOS)
    with Site(folder) as site, bar("trials", options.trials) as show:
        try:
            for trial in Chaos(site, data, seed=options.seed).trials(kinds, options.trials):
                trials.append(trial)
                show(len(trials), f"{trial.kind}: {trial.seconds:.1f} s")
        except ChaosError as error:
            failed = str(error)
    if options.json:
        found = {"trials": [asdict(trial) for trial in trials], "failed": failed}
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
    else:
        Console().print(_table(trials))
        sys.stdout.write(failed + "\n" if failed else f"every run came through; {folder}\n")
    return 1 if failed else 0


def _table(trials: list[Trial]) -> Table:
    by_kind: dict[str, list[Trial]] = defaultdict(list)
    for trial in trials:
        by_kind[trial.kind].append(trial)
    table = Table(title="Seconds until the next step was trained", title_justify="left", box=None)
    for column in ("struck", "trials", "median", "longest", "driver started again"):
        table.add_column(column, justify="left" if column == "struck" else "right")
    for kind in (kind for kind in KINDS if kind in by_kind):
        found = by_kind[kind]
        seconds = [trial.seconds for trial in found]
        resumed = sum(trial.resumed for trial in found)
        table.add_row(
            kind, str(len(found)), f"{median(seconds):.1f}", f"{max(seconds):.1f}", str(resumed)
        )
    return table


def workplace(folder: Path | None, name: str) -> Path:
    """Where a benchmark's runs go: what they leave is the evidence, and is kept."""
    if folder is None:
        return Path(tempfile.mkdtemp(prefix=f"o3rl-{name}-"))
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"--folder {folder} is not empty; name a new one")
    folder.mkdir(parents=True, exist_ok=True)
    return folder.absolute()
