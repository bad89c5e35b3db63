"""`o3rl demo`: the whole story by the commands that real data use, and a report at the end.

    data synth → data import → sft → train → evaluate base, sft, rl → report, curves, pages

Each stage has a budget of seconds on two CPU cores; the report holds what each took.
"""

import argparse
import asyncio
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from rich.console import Console

from cluster.commands.data import import_table, write_synthetic
from cluster.commands.demo_folder import demo_folder
from o3rl.config import RunConfig, as_yaml, require
from o3rl.config.shipped import load_named, model_path, of_model, start_of_sft

if TYPE_CHECKING:
    from cluster.services.session import Session

# Seconds of tiny_demo's stages on two CPU cores; what lies between them takes another 15.
BUDGET = {"synth": 45, "import": 10, "sft": 120, "rl": 370, "evaluate": 140, "report": 15}
FILES = {"sft": "STGR-SFT.json", "rl": "STGR-RL.json", "held-out": "STGR-held-out.json"}


def run(options: argparse.Namespace) -> int:
    """Run every stage; what an earlier demo made in the folder is removed first."""
    require(options.videos >= 8, "--videos", options.videos, "8 or more")
    overrides = [f"folder={options.folder}", f"seed={options.seed}", *options.overrides]
    config = load_named(options.config, overrides)
    clock = Clock(Console(), BUDGET if options.config == "tiny_demo" else {})
    with demo_folder(Path(config.folder)):
        return _run(config, options, clock)


def _run(config: RunConfig, options: argparse.Namespace, clock: "Clock") -> int:
    folder, console = Path(config.folder), clock.console
    (folder / "demo.yaml").write_text(as_yaml(config))
    with clock.stage("synth"):
        _synthesise(folder / "data", config.seed, options)
    with clock.stage("import"):
        _import(config, console)
    from cluster.services.session import ray_session

    with ray_session(config.cluster) as session:
        report, pages = asyncio.run(_learn(config, session, clock))
    with clock.stage("report"):
        _report(config, report, pages, clock, console)
    return 0


class Clock:
    """Times the stages and says how they compare with their budgets."""

    def __init__(self, console: Console, budget: Mapping[str, int]):
        self.seconds: dict[str, float] = {}
        self.console = console
        self._budget = budget
        self._began = perf_counter()

    @property
    def total(self) -> float:
        """Seconds until now, with what lies between the stages: imports, Ray's start."""
        return perf_counter() - self._began

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Announce, run and time one stage."""
        budget = self._budget.get(name)
        words = f" (budget {budget} s)" if budget else ""
        self.console.rule(f"[bold]{name}[/]{words}", align="left")
        began = perf_counter()
        yield
        self.seconds[name] = perf_counter() - began
        over = " [yellow]over its budget[/]" if budget and self.seconds[name] > budget else ""
        self.console.print(f"{name}: {self.seconds[name]:.0f} s{over}")


def _synthesise(out: Path, seed: int, options: argparse.Namespace) -> None:
    from o3rl.synth.dataset import Size, write_dataset
    from o3rl.synth.questions import Teacher

    videos = options.videos
    size = Size(videos, videos * 3 // 4, videos * 3 // 10, videos // 5)
    write_synthetic(out, size, seed=seed, teacher=Teacher(), write=write_dataset)


def _import(config: RunConfig, console: Console) -> None:
    from o3rl.data.stgr import import_file

    folder = Path(config.folder)
    for name, file in FILES.items():
        source = folder / "data" / file
        report = import_file(source, folder / "rows" / name, media=Path(config.data.media))
        console.print(import_table(report))


async def _learn(
    config: RunConfig, session: "Session", clock: Clock
) -> tuple[dict[str, Any], list[Any]]:
    """SFT, RL and the evaluation of base, SFT and RL; returns the report and the pages."""
    from cluster.run.evaluate import evaluate
    from cluster.run.sft import sft
    from cluster.run.supervisor import supervise
    from o3rl.data.parquet import read_rows
    from o3rl.evaluation import report

    with clock.stage("sft"):
        cold = await sft(start_of_sft(config))
    with clock.stage("rl"):
        trained = await supervise(of_model(config, str(cold.model)), session)
    with clock.stage("evaluate"):
        models = {
            "base": model_path(config.sft.start),
            "sft": str(cold.model),
            "rl": str(trained.model),
        }
        rows = read_rows(config.data.validation)
        folder = Path(config.folder) / "evaluation"
        found = await evaluate(config, models, rows, folder=folder)
    built = report.build(
        {name: each.modes for name, each in found.items()},
        seconds={**clock.seconds, "total": clock.total},
        steps={"sft": cold.steps, "rl": trained.steps},
        samples={"sft": cold.samples, "rl": trained.samples},
        tokens={"sft": cold.tokens, "rl": trained.tokens},
        seed=config.seed,
        config=as_yaml(config),
    )
    pages = [page for each in found.values() for page in (each.side_by_side, each.page) if page]
    return built, pages


def _track(config: RunConfig, report: dict[str, Any]) -> None:
    """Bring the report's numbers, pictures and pages to the tracker, beside the two stages."""
    from cluster.run.stage_tracker import tracked
    from o3rl.evaluation.report import MODES, SHOWN, STAGES, value

    folder = Path(config.folder)
    found = {
        f"{stage}/{mode}/{name}": value(report, stage, mode, name)
        for stage in STAGES
        for mode in MODES
        for name, _ in SHOWN
    }
    data = {"data.validation": config.data.validation}
    with tracked(config, folder / "evaluation", stage="evaluation", data=data) as tracker:
        tracker.log({name: number for name, number in found.items() if number is not None}, step=0)
        for name in ("report.json", "curves.png", "index.html"):
            tracker.artifact(folder / name, "")
        for page in sorted((folder / "evaluation").glob("*.html")):
            tracker.artifact(page, "evaluation")  # where index.html looks for it


def _report(
    config: RunConfig, report: dict[str, Any], pages: list[Any], clock: Clock, console: Console
) -> None:
    """Write report.json, curves.png and index.html; print the table and where to look."""
    from o3rl.evaluation.pages import write_index
    from o3rl.evaluation.report import table, write
    from o3rl.tracking import curves
    from o3rl.tracking.mlflow_store import how_to_open, sqlite_uri

    folder = Path(config.folder)
    write(folder / "report.json", report)
    curves.draw_curves(folder / "rl" / "metrics.jsonl", folder / "curves.png", title=config.name)
    write_index(
        folder / "index.html",
        f"{config.name}: what the model learned",
        pages,
        report=report,
        curves=folder / "curves.png",
    )
    _track(config, report)
    console.print(table(report))
    database = config.tracking.uri or sqlite_uri(folder / "mlflow.db")
    program = "" if shutil.which("mlflow") else f"{Path(sys.executable).parent}/"
    console.print(f"{clock.total:.0f} s in all. Where to look:", highlight=False)
    for what, where in (
        ("evidence", folder / "index.html"),
        ("curves", folder / "curves.png"),
        ("numbers", folder / "report.json"),
        ("MLflow", f"{program}{how_to_open(database)}"),
        ("ask it", f"o3rl answer VIDEO QUESTION --model {folder / 'rl' / 'model'}"),
    ):
        console.print(f"  {what:9} {where}", highlight=False, soft_wrap=True)
