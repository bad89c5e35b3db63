"""`o3rl plan`: what a run would place where, its memory, disk and steps, and all that is wrong.

Looks at the configuration, the data sets' task columns, the model's config.json and free disk; no
Ray, GPU or torch. Exit code 1 if there is a problem.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cluster.plan.estimate import PROCESS_BYTES, Plan, Steps, plan_of
from cluster.plan.node_placement import Node
from learners.model.architecture import Architecture, config_of
from o3rl.config import RunConfig, examine, require, user_code
from o3rl.config.shipped import find, model_path
from o3rl.config.user_functions import check_module
from o3rl.data.parquet import read_tasks
from o3rl.data.row_order import RowOrder
from o3rl.tracking.tracker import absolute_uri
from o3rl.types import Task

T = TypeVar("T")
UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def run(options: argparse.Namespace) -> int:
    """Plan, and show it as tables or JSON."""
    require(options.nodes >= 0, "--nodes", options.nodes, "0 (as many as need be) or more")
    config, problems = examine(find(options.config), options.overrides)
    plan = None
    if config is not None:
        plan, problems = planned(config, options)
    if options.json:
        shown = as_json(plan) if plan else {"problems": problems}
        sys.stdout.write(json.dumps(shown, indent=1) + "\n")
    else:
        _show(Console(), plan, problems)
    return int(bool(problems))


def planned(config: RunConfig, options: argparse.Namespace) -> tuple[Plan | None, tuple[str, ...]]:
    """The plan of a configuration that is right in itself, and all problems, of the plan too.

    No plan where the model's sizes cannot be had.
    """
    problems: list[str] = []
    node, nodes = _nodes(config, options)
    sft = _told(lambda: _tasks(config, config.sft.rows, config.sft.task_weights), problems)
    rl = _told(lambda: _tasks(config, config.data.train, config.data.task_weights), problems)
    if config.data.validation and config.loop.validate_every:
        _told(lambda: read_tasks(config.data.validation), problems)
    _told(lambda: absolute_uri(config.tracking.uri, Path(config.folder)), problems)
    if not Path(config.data.media).is_dir():
        problems.append(f"data.media is {config.data.media!r}; it must be a folder")
    for key, target in user_code(config).items():
        _told(lambda target=target, key=key: check_module(target, where=key), problems)
    path, architecture = _model(config, problems)
    if architecture is None:
        return None, tuple(problems)
    found = plan_of(
        config,
        architecture,
        node,
        nodes=nodes,
        sft_tasks=sft or (),
        rl_tasks=rl or (),
        disk_free=_disk_free(Path(config.folder)),
    )
    problems += found.problems
    return replace(found, model=path, problems=tuple(problems)), tuple(problems)


def as_json(plan: Plan) -> dict:
    """Plain values; `process_bytes` is what each process takes beside its tensors."""
    return asdict(plan) | {"process_bytes": PROCESS_BYTES}


def _nodes(config: RunConfig, options: argparse.Namespace) -> tuple[Node, int]:
    """A node and how many there are: this machine where the run starts a Ray of its own."""
    here = not config.cluster.address
    cpus = options.node_cpus or (here and (config.cluster.cpus or os.cpu_count())) or 64
    return Node(cpus, options.node_gpus, options.gpu_gib), options.nodes or int(here)


def _tasks(config: RunConfig, folder: str, weights: dict[str, float]) -> list[Task]:
    """Of the rows of a stage. Raises ValueError where they cannot be read or ordered."""
    tasks = read_tasks(folder, limit=config.data.max_rows)
    RowOrder(tasks, 0, weights={Task[name.upper()]: weight for name, weight in weights.items()})
    return tasks


def _model(config: RunConfig, problems: list[str]) -> tuple[str, Architecture | None]:
    """The policy and its sizes; before the cold start, those of the model that this starts from."""
    path = model_path(config.model.path)
    if config.sft.start and not Path(path).exists() and Path(path).is_relative_to(config.folder):
        path = model_path(config.sft.start)
    sizes = _told(lambda: Architecture.of(config_of(path)), problems, "model.path: ")
    return path, sizes


def _told(ask: Callable[[], T], problems: list[str], prefix: str = "") -> T | None:
    """What `ask` gives; None, and its words among the problems, where it raises ValueError."""
    try:
        return ask()
    except ValueError as error:
        problems.append(f"{prefix}{error}")
        return None


def _disk_free(folder: Path) -> int:
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    return shutil.disk_usage(there).free


def _show(console: Console, plan: Plan | None, problems: tuple[str, ...]) -> None:
    if plan is not None:
        for table in (services_table(plan), amounts_table(plan), steps_table(plan)):
            console.print(table)
            console.print()
    for problem in problems:
        console.print(f"[b red]problem[/] {escape(problem)}", soft_wrap=True)
    if not problems:
        console.print("No problem was found.")


def services_table(plan: Plan) -> Table:
    """Where each service goes."""
    size = f"{plan.parameters / 1e6:,.1f} M parameters, {plan.trained / 1e6:,.1f} M trained"
    table = Table(title=f"{escape(plan.model)}: {size}", title_justify="left", box=None)
    for name in ("service", "processes", "CPUs each", "GPUs each", "beside tensors"):
        table.add_column(name, justify="left" if name == "service" else "right")
    nodes = len(plan.services[0].by_node) if plan.services else 0
    for index in range(nodes):
        table.add_column(f"node {index}", justify="right")
    for service in plan.services:
        unit = service.unit
        table.add_row(
            unit.name,
            str(unit.count),
            f"{unit.cpus:g}",
            f"{unit.gpus:g}",
            in_words(PROCESS_BYTES[unit.name]),
            *(str(count or "") for count in service.by_node),
        )
    return table


def amounts_table(plan: Plan) -> Table:
    """Bytes by what and where."""
    table = Table("bytes of", "where, each", box=None)
    table.add_column("", justify="right")
    table.add_column("formula (b a number, Ψ parameters, T trained)")
    for amount in plan.amounts:
        table.add_row(amount.name, amount.where, in_words(amount.bytes), escape(amount.formula))
    rank = sum(each.bytes for each in plan.amounts if each.where == "learner rank")
    table.add_row("all of a rank", "learner rank", in_words(rank), "tensors, without overhead")
    table.caption = (
        f"{plan.kv_blocks} KV blocks a replica: {plan.whole_sequences} sequences of full length"
    )
    table.caption_justify = "left"
    return table


def steps_table(plan: Plan) -> Table:
    """How long the stages are; `?` where their data are not there."""
    table = Table("", box=None)
    for stage in ("SFT", "RL"):
        table.add_column(stage, justify="right")
    for name in Steps.__dataclass_fields__:
        values = [
            f"{getattr(steps, name):,g}" if steps is not None else "?"
            for steps in (plan.sft, plan.rl)
        ]
        table.add_row(name.replace("_", " "), *values)
    return table


def in_words(size: float) -> str:
    """Bytes in binary units.

    >>> in_words(2**30)
    '1.0 GiB'
    """
    for unit in UNITS[:-1]:
        if size < 1024:
            return f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} {UNITS[-1]}"
