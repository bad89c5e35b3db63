"""`make faults`: a table of what was struck, and how soon the run trained on."""

import argparse
import json
import sys
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from cluster.progress import bar
from tests.by_hand import command, takes_folder, workplace
from tests.faults.site import Site
from tests.faults.trials import KINDS, Chaos, ChaosError, Trial, prepared

VIDEOS = 60  # 363 rows: 90 steps a run


def run(options: argparse.Namespace) -> int:
    """Strike, audit, tell; exit code 1 if a run did not come through.

    What was measured is told also where something unforeseen is raised.
    """
    kinds = options.kinds.split(",") if options.kinds else list(KINDS)
    if unknown := sorted(set(kinds) - set(KINDS)):
        raise ValueError(f"--kinds {unknown}: there are {list(KINDS)}")
    if options.trials < 1:
        raise ValueError(f"--trials is {options.trials}; it must be 1 or more")
    folder = workplace(options.folder, "chaos")
    found = Found(folder)
    try:
        data = prepared(folder, videos=VIDEOS)
        with Site(folder) as site, bar("trials", options.trials) as show:
            chaos = Chaos(site, data, seed=options.seed)
            found.calm = chaos.calm
            for trial in chaos.trials(kinds, options.trials):
                found.trials.append(trial)
                words = f"{trial.kind}: {trial.seconds:.1f} s"
                if len(found.trials) == options.trials:
                    words += "; the run goes on to its end"
                show(len(found.trials), words)
    except ChaosError as error:
        found.failed = str(error)
    except BaseException as error:  # an interrupt, too
        found.failed = f"{type(error).__name__}: {error}"
        found.tell(as_json=options.json)
        raise
    found.tell(as_json=options.json)
    return 1 if found.failed else 0


@dataclass
class Found:
    """What was measured so far. `calm`: seconds of steps that no strike touched."""

    folder: Path
    trials: list[Trial] = field(default_factory=list)
    calm: list[float] = field(default_factory=list)
    failed: str = ""

    @property
    def step_seconds(self) -> float | None:
        """Of an undisturbed step, the median; None before a run has ended."""
        return median(self.calm) if self.calm else None

    def tell(self, *, as_json: bool) -> None:
        """To standard output."""
        if as_json:
            report = {
                "trials": [asdict(trial) for trial in self.trials],
                "by_kind": dict(Counter(trial.kind for trial in self.trials)),
                "by_moment": dict(Counter(trial.moment for trial in self.trials)),
                "step_seconds": self.step_seconds,
                "failed": self.failed,
            }
            sys.stdout.write(json.dumps(report, indent=1) + "\n")
            return
        Console().print(_table(self.trials))
        if self.step_seconds is not None:
            steps = f"median of {len(self.calm)}"
            sys.stdout.write(f"an undisturbed step takes {self.step_seconds:.1f} s, {steps}\n")
        end = (
            f"it failed: {self.failed}" if self.failed else f"every run came through; {self.folder}"
        )
        sys.stdout.write(end + "\n")


def _table(trials: list[Trial]) -> Table:
    by_kind: dict[str, list[Trial]] = defaultdict(list)
    for trial in trials:
        by_kind[trial.kind].append(trial)
    table = Table(
        title="Seconds until a step that began after the strike was trained",
        title_justify="left",
        box=None,
    )
    columns = ("struck", "trials", "at a checkpoint", "at a publication", "median", "longest")
    for column in (*columns, "driver started again"):
        named = column == "struck"
        table.add_column(column, justify="left" if named else "right", no_wrap=named)
    for kind in (kind for kind in KINDS if kind in by_kind):
        found = by_kind[kind]
        seconds = [trial.seconds for trial in found]
        moments = Counter(trial.moment for trial in found)
        table.add_row(
            kind,
            str(len(found)),
            str(moments["checkpoint"]),
            str(moments["publication"]),
            f"{median(seconds):.1f}",
            f"{max(seconds):.1f}",
            str(sum(trial.resumed for trial in found)),
        )
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m tests.faults.chaos", description=__doc__)
    parser.add_argument("--trials", type=int, default=16, help="strikes (default 16)")
    parser.add_argument("--seed", type=int, default=0, help="of kinds and moments (default 0)")
    words = 'such as "kill replica,freeze store" (default: all; see docs/faults.md)'
    parser.add_argument("--kinds", help=words)
    takes_folder(parser)
    command(run, parser)
