"""Replicas join and leave a run while it trains: `python -m tests.faults.elasticity`.

A Ray of several nodes on this machine, one replica a node, each with an engine that answers one
prompt at a time (`tests.faults.fake_engine`), so that throughput is theirs; all else is real. The
run is scaled from outside by `o3rl scale`, as a user would.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, cycle, groupby
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cluster.progress import bar
from o3rl.tracking import curves
from o3rl.tracking.metrics_log import read_series
from tests.by_hand import command, takes_folder, workplace
from tests.faults.site import Site
from tests.faults.trials import prepared

NAME = "elastic"
SCALED = {6: 3, 22: 2}  # after which step to how many replicas; one to begin with
STEPS = 34
GROUPS = 8
VIDEOS = 48  # 291 rows
SECONDS = 600.0  # limit for one step, and for a command
POLL_SECONDS = 0.1
SETTINGS = (
    f"name={NAME}",
    f"loop.steps={STEPS}",
    f"loop.groups={GROUPS}",
    "loop.max_staleness=1",
    "loop.validate_every=0",
    "loop.checkpoint_every=1000",
    "sampling.group_size=4",
    "rollouts.replicas=1",
    "rollouts.engine=tests.faults.fake_engine:Slower",
    "tracking.rollouts=0",
    "tracking.model=false",
)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Steps in a row that so many replicas served."""

    replicas: int
    steps: int
    seconds: float  # of all of them

    @property
    def step_seconds(self) -> float:
        """Of one step, in the mean: some wait for others' prompts, and others then do not wait."""
        return self.seconds / self.steps

    @property
    def prompts_per_second(self) -> float:
        """That were trained."""
        return GROUPS / self.step_seconds


def run(options: argparse.Namespace) -> int:
    """Train, scale, tell; what the run has left stays in the folder, with the picture."""
    folder = workplace(options.folder, "elastic")
    metrics, picture = folder / "run" / "rl" / "metrics.jsonl", folder / "elastic.png"
    joined = _scaled(folder, metrics)
    series = read_series(metrics)
    found = stretches(series)
    draw(found, series["seconds/step"], picture)
    if options.json:
        each = [asdict(part) | {"prompts_per_second": part.prompts_per_second} for part in found]
        report = {"stretches": each, "first_group_seconds": joined}
        sys.stdout.write(json.dumps(report, indent=1) + "\n")
        return 0
    console = Console()
    console.print(_table(found))
    for replica, seconds in joined.items():
        told = "no group yet" if seconds is None else f"{seconds:.1f} s to its first group"
        console.print(f"replica {replica}, from `o3rl scale` on: {told}")
    console.print(f"picture: {picture}", soft_wrap=True)
    return 0


def stretches(series: Mapping[str, Sequence[tuple[int, float]]]) -> list[Stretch]:
    """A run's steps, cut where the number of healthy replicas changes."""
    seconds = dict(series["seconds/step"])
    found = []
    for replicas, points in groupby(series["pool/healthy"], key=lambda point: int(point[1])):
        steps = [step for step, _ in points]
        found.append(Stretch(replicas, len(steps), sum(seconds[step] for step in steps)))
    return found


def draw(found: Sequence[Stretch], seconds: Sequence[tuple[int, float]], picture: Path) -> None:
    """Prompts trained by time, on bands for the serving replicas."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axis: Any = figure.subplots()
    begin = 0.0
    for part, color in zip(found, cycle(curves.COLORS)):
        end = begin + part.seconds
        axis.axvspan(begin, end, color=color, alpha=0.12, linewidth=0)
        replicas = "1 replica" if part.replicas == 1 else f"{part.replicas} replicas"
        said = f"{replicas}\n{part.prompts_per_second:.2f} prompts/s"
        axis.text((begin + end) / 2, GROUPS * STEPS * 1.02, said, ha="center", va="bottom")
        begin = end
    times = [0.0, *accumulate(value for _, value in seconds)]
    axis.plot(times, [GROUPS * step for step in range(len(times))], color=curves.INK, linewidth=2)
    axis.set(xlabel="seconds", ylabel="prompts trained", xlim=(0, begin), ylim=(0, None))
    axis.set_ylim(top=GROUPS * STEPS * 1.2)
    axis.grid(color=curves.GRID)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture, dpi=110, facecolor=curves.PAPER)


def _scaled(folder: Path, metrics: Path) -> dict[int, float | None]:
    """Run it; seconds from `o3rl scale` to the first group, of each replica that joined."""
    data = prepared(folder, videos=VIDEOS, marks=())
    joined: dict[int, float | None] = {}
    with Site(folder, nodes=max(SCALED.values())) as site, bar("steps", STEPS) as show:
        settings = [
            f"folder={folder / 'run'}",
            f"model.path={data.model}",
            f"data.train={data.rows}",
            f"data.media={data.media}",
            *SETTINGS,
            *site.settings,
        ]
        site.drive(["tiny_demo", *settings], folder / "log.txt")
        for step in _steps(site, metrics, folder / "log.txt"):
            show(step, "")
            if step in SCALED:
                joined |= _first_groups(site)
                _ask(site, "scale", "--rollouts", str(SCALED[step]))
    return joined


def _steps(site: Site, metrics: Path, log: Path) -> Iterator[int]:
    """Each step as it is logged, to the end of the run."""
    step, deadline = 0, time.monotonic() + SECONDS
    while step < STEPS or site.driver.poll() is None:
        last = max((s for s, _ in _logged(metrics)), default=0)
        while step < last:
            step, deadline = step + 1, time.monotonic() + SECONDS
            yield step
        if site.driver.poll() not in (None, 0):
            raise RuntimeError(f"the run has failed; see {log}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"no step after {step} within {SECONDS:g} s; see {log}")
        time.sleep(POLL_SECONDS)


def _logged(metrics: Path) -> list[tuple[int, float]]:
    return read_series(metrics).get("seconds/step", []) if metrics.is_file() else []


def _first_groups(site: Site) -> dict[int, float | None]:
    """Of the replicas of now, without the one that was there from the start."""
    [status] = json.loads(_ask(site, "status", "--json"))
    return {each["replica"]: each["first_group"] for each in status["replicas"][1:]}


def _ask(site: Site, command: str, *arguments: str) -> str:
    """What an `o3rl` command says of the run."""
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "cluster.commands.cli",
            command,
            NAME,
            *arguments,
            "--address",
            site.address,
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    ).stdout


def _table(found: Sequence[Stretch]) -> Table:
    table = Table(title="Steps by serving replicas", title_justify="left", box=None)
    for column in ("replicas", "steps", "seconds a step", "prompts/s"):
        table.add_column(column, justify="right")
    for each in found:
        table.add_row(
            str(each.replicas),
            str(each.steps),
            f"{each.step_seconds:.2f}",
            f"{each.prompts_per_second:.2f}",
        )
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m tests.faults.elasticity", description=__doc__)
    takes_folder(parser)
    command(run, parser)
