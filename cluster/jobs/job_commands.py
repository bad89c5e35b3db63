"""Runs on a cluster, from the command line: submit, list, status, logs, scale, stop.

| who waits         | for whom                      | at most                 |
|-------------------|-------------------------------|-------------------------|
| status, stop      | the controller's answer       | `ANSWER_SECONDS`        |
| scale             | replicas to start or to leave | `SCALE_SECONDS`         |
| any, by HTTP      | the same command as a job     | `jobs.ASK_SECONDS`      |
| submit            | the MLflow server, twice      | 20 s each               |
| submit            | the cluster to take the job   | `jobs.START_SECONDS`    |

A controller is spoken to through Ray, which takes a machine of the cluster; where only the HTTP
address can be reached, the same command is run over there, as a job that is forgotten afterwards.
"""

import argparse
import asyncio
import json
import logging
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.run.run_control import Status
from o3rl.config import RunConfig, load
from o3rl.config.shipped import find
from o3rl.persistence.checkpoints import start_from

if TYPE_CHECKING:  # a wrong configuration is told before Ray is imported
    from cluster.jobs.jobs import Attempt, Jobs

ANSWER_SECONDS = 60.0
SCALE_SECONDS = 3600.0  # the pool's own limits, of start, load and leave, come first
POLL_SECONDS = 1.0

log = logging.getLogger(__name__)


def submit(options: argparse.Namespace) -> int:
    """Pack, submit the next attempt of the run, and with --wait follow it to its end."""
    config = load(find(options.config), [*options.overrides, "cluster.address=auto"])
    from cluster.jobs.jobs import connect
    from cluster.jobs.package import pack_job, travelling

    config = travelling(config)
    jobs = connect(options.address)
    number = jobs.next(config)
    if number == 1 and not by_http(options.address):  # else its folder need not be seen from here
        start_from(Path(config.folder) / "rl", resume=options.resume)
    config = _with_mlflow_run(config, jobs, first=number == 1 and not options.resume)
    with tempfile.TemporaryDirectory(prefix="o3rl-") as folder:
        pack_job(config, Path(folder))
        further = ["--again"] if number > 1 else ["--resume"] if options.resume else []
        attempt = jobs.submit(config, Path(folder), number=number, options=further)
    sys.stdout.write(f"{attempt.id} is submitted; `o3rl logs {attempt.run} -f` follows it\n")
    sys.stdout.flush()
    return _follow(jobs, attempt) if options.wait else 0


def list_(options: argparse.Namespace) -> int:
    """A line for each attempt of each run."""
    from cluster.jobs.jobs import connect

    attempts = connect(options.address).attempts()
    if options.json:
        sys.stdout.write(json.dumps([each.plain() for each in attempts], indent=1) + "\n")
        return 0
    lines = [("RUN", "ATTEMPT", "JOB", "BEGUN", "MLFLOW RUN", "FOLDER")]
    for each in attempts:
        begun = datetime.fromtimestamp(each.began).isoformat("T", "seconds")
        shown = (str(each.number), each.status.lower(), begun, each.mlflow_run or "-", each.folder)
        lines.append((each.run, *shown))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        sys.stdout.write("  ".join(cells).rstrip() + "\n")
    return 0


def logs(options: argparse.Namespace) -> int:
    """What the last attempt has said, or says until it ends."""
    from cluster.jobs.jobs import connect

    jobs = connect(options.address)
    attempt = jobs.last(options.run)
    if options.follow:
        return _follow(jobs, attempt)
    sys.stdout.write(jobs.client.get_job_logs(attempt.id))
    return 0


def status(options: argparse.Namespace) -> int:
    """What a run tells of itself; without RUN, every one that runs."""
    if by_http(options.address):
        json_ = ["--json"] if options.json else []
        return _over_there(options, "status", [*json_, *([options.run] if options.run else [])])
    with _on(options.address) as cluster:
        runs = [options.run] if options.run else cluster.runs()
        found = [cluster.ask(run, "status") for run in runs]
    if options.json:
        sys.stdout.write(json.dumps([asdict(each) for each in found], indent=1) + "\n")
        return 0
    sys.stdout.write("\n".join(map(described, found)) if found else "nothing runs here\n")
    return 0


def scale(options: argparse.Namespace) -> int:
    """Have so many rollout replicas; returns when they are there, or says what was in the way."""
    if by_http(options.address):
        return _over_there(options, "scale", [options.run, "--rollouts", str(options.rollouts)])
    with _on(options.address) as cluster:
        sys.stderr.write(f"waiting for {options.rollouts} rollout replicas of {options.run}\n")
        problems = cluster.ask(options.run, "scale", options.rollouts, seconds=SCALE_SECONDS)
    if problems:
        raise ValueError(f"run {options.run}: {'; '.join(problems)}")
    sys.stdout.write(f"run {options.run} has {options.rollouts} rollout replicas\n")
    return 0


def stop(options: argparse.Namespace) -> int:
    """Have a run finish its step, write a checkpoint and end; returns when it has been told."""
    if by_http(options.address):
        return _over_there(options, "stop", [options.run])
    with _on(options.address) as cluster:
        cluster.ask(options.run, "stop")
    sys.stdout.write(
        f"run {options.run} finishes its step, writes a checkpoint and ends; "
        f"`o3rl submit` goes on from there\n"
    )
    return 0


def described(status: Status) -> str:
    """A run in a few lines.

    demo: training, step 12 of 60, 4.5 s a step, 210 tokens/s, ends in 3 min
    """
    words = [f"{status.run}: {status.phase}"]
    if status.steps:
        words.append(f"step {status.step} of {status.steps}")
    if status.step_seconds:
        words += [
            f"{status.step_seconds:.1f} s a step",
            f"{status.tokens_per_second:.0f} tokens/s",
            f"ends in {_duration(status.eta_seconds)}",
        ]
    loop = ", ".join(f"{name} {value}" for name, value in status.loop.items() if name != "step")
    lines = [", ".join(words), f"  attempt {status.attempt} in {status.folder}"]
    lines += [f"  MLflow run {status.mlflow_run}"] if status.mlflow_run else []
    lines += [f"  {loop}"] if loop else []
    for replica in status.replicas:
        told = dict(replica)
        seconds = told.pop("first_group", None)
        words = [f"{name} {value}" for name, value in told.items() if value != ""]
        words += [f"first group after {seconds:.1f} s"] if seconds is not None else []
        lines.append("  " + ", ".join(words))
    shown = [name for name in ("reward/total", "validation/total") if name in status.metrics]
    lines += [f"  {name} {status.metrics[name]:.3f}" for name in shown]
    return "\n".join(lines) + "\n"


def by_http(address: str) -> bool:
    """Whether the cluster can only be reached by HTTP."""
    from cluster.services.reachability import pointed_at

    with pointed_at(address) as where:
        return where.startswith(("http://", "https://"))


class Cluster:
    """The controllers on the Ray cluster that this process has joined."""

    def __init__(self, address: str):
        self._address = address

    def runs(self) -> list[str]:
        """Those that run."""
        import ray

        from cluster.run.controller import NAMESPACE, PREFIX

        named: list[Any] = ray.util.list_named_actors(all_namespaces=True)  # Ray says list[str]
        ours = [each["name"] for each in named if each["namespace"] == NAMESPACE]
        return sorted(name.removeprefix(PREFIX) for name in ours if name.startswith(PREFIX))

    def ask(self, run: str, method: str, *arguments: Any, seconds: float = ANSWER_SECONDS) -> Any:
        """What the controller of `run` answers.

        Raises ValueError where it refuses, does not run or ends meanwhile, TimeoutError naming it.
        """
        import ray
        from ray.exceptions import GetTimeoutError, RayTaskError

        from cluster.run.controller import NAMESPACE, PREFIX
        from o3rl.ray_calls import DIED

        try:
            controller = ray.get_actor(PREFIX + run, namespace=NAMESPACE)
        except ValueError as error:
            raise ValueError(self._missing(run)) from error
        try:
            return ray.get(getattr(controller, method).remote(*arguments), timeout=seconds)
        except GetTimeoutError as error:
            raise TimeoutError(
                f"the controller of run {run} has not answered {method!r} within {seconds:.0f} s"
            ) from error
        except DIED as error:
            raise ValueError(f"run {run} ended before it answered {method!r}") from error
        except RayTaskError as error:
            if isinstance(error.cause, ValueError):
                raise error.cause from error
            raise

    def _missing(self, run: str) -> str:
        """Why there is no controller of `run`: it has ended, or never was."""
        from cluster.jobs.jobs import connect

        try:
            last = connect(self._address).last(run)
        except ValueError:
            others = ", ".join(self.runs())
            return f"no run {run!r} is running here; there are {others or 'none at all'}"
        if last.ended:
            return _ended(last)
        return f"run {run} has not started yet, or starts again: {last.id} is {last.status.lower()}"


@contextmanager
def _on(address: str) -> Iterator[Cluster]:
    """Join the Ray cluster. ValueError if there is none."""
    import ray

    from cluster.services.reachability import pointed_at
    from cluster.services.session import join_ray

    with pointed_at(address) as where:
        join_ray(where, logging.ERROR)
    try:
        yield Cluster(address)
    finally:
        ray.shutdown()


def _over_there(options: argparse.Namespace, command: str, arguments: list[str]) -> int:
    from cluster.jobs.jobs import connect

    jobs = connect(options.address)
    run = options.run or next((each.run for each in jobs.attempts() if not each.ended), "")
    if not run:
        nothing = "no submitted run is running; others are asked for on the cluster itself"
        sys.stdout.write("[]\n" if "--json" in arguments else f"{nothing}\n")
        return 0
    last = jobs.last(run)
    if last.ended:
        raise ValueError(_ended(last))
    code, said = jobs.ask(run, [command, *arguments])
    sys.stdout.write(_document(said) if code == 0 and "--json" in arguments else said)
    return code


def _ended(last: "Attempt") -> str:
    told = f"run {last.run} has ended: {last.id} {last.status.lower()}"
    if last.status == "SUCCEEDED":
        return f"{told}, see {last.folder}; if it was stopped, `o3rl submit` goes on"
    return f"{told}; `o3rl logs {last.run}` tells why, `o3rl submit` makes the next attempt"


def _document(said: str) -> str:
    """The JSON in what a job has said: Ray's own lines are before it."""
    lines = said.splitlines()
    first = next((n for n, line in enumerate(lines) if line in ("[", "[]")), 0)
    return "\n".join(lines[first:]) + "\n"


def _follow(jobs: "Jobs", attempt: "Attempt") -> int:
    """Show what a job says until it ends; 0 if it succeeded."""

    async def show() -> None:
        async for text in jobs.client.tail_job_logs(attempt.id):
            sys.stdout.write(text)
            sys.stdout.flush()

    asyncio.run(show())
    last = jobs.last(attempt.run)
    while not last.ended:
        time.sleep(POLL_SECONDS)
        last = jobs.last(attempt.run)
    sys.stdout.write(f"{last.id} {last.status.lower()}\n")
    if last.status != "SUCCEEDED":
        log.warning("%s: %s", last.id, last.message)
    return 0 if last.status == "SUCCEEDED" else 1


def _with_mlflow_run(config: RunConfig, jobs: "Jobs", *, first: bool) -> RunConfig:
    """The run with the MLflow run that its attempts share, so that the job's metadata name it.

    That of the last attempt, or where this is the `first` a new one; without a server that answers
    here, the job makes it.
    """
    from cluster.run.stage_tracker import begin

    earlier = [each.mlflow_run for each in jobs.attempts(config.name) if each.mlflow_run]
    run_id = config.tracking.run_id or (earlier[-1] if earlier else "")
    if first and not run_id and config.tracking.uri.startswith(("http://", "https://")):
        run_id = begin(config, stage="rl")
    return replace(config, tracking=replace(config.tracking, run_id=run_id))


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
