"""Runs as Ray jobs: which attempts of a run there are, and submitting the next one.

A run's name is its id; each attempt is a job of its own, `RUN-a1`, `RUN-a2`, for Ray refuses a used
id. An attempt after the first goes on from the last checkpoint. All goes through the cluster's HTTP
address, with Ray's token.
"""

import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import join
from typing import Any, Protocol

from cluster.services.reachability import _with_token, knock, one_line, pointed_at
from o3rl.config import RunConfig

ENDED = ("STOPPED", "SUCCEEDED", "FAILED")
ASK_SECONDS = 180.0  # for a command that runs on the cluster
START_SECONDS = 60.0  # for a cluster to take a job
ID = re.compile(r"(?P<run>[A-Za-z0-9][A-Za-z0-9._-]*)-a(?P<attempt>[1-9][0-9]*)")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One job of a run.

    >>> Attempt("demo", 2, status="RUNNING", folder="/runs/demo", mlflow_run="5c2f…", began=1.76e9)
    """

    run: str
    number: int
    status: str  # Ray's: PENDING, RUNNING, or one of ENDED
    folder: str = ""
    mlflow_run: str = ""
    began: float = 0.0  # seconds since 1970
    message: str = ""  # Ray's, on how it is
    brought: Mapping[str, Any] | None = None  # its runtime environment

    def plain(self) -> dict[str, Any]:
        """What `o3rl list --json` prints: all but the environment, which may hold tokens."""
        return {name: value for name, value in asdict(self).items() if name != "brought"}

    @property
    def id(self) -> str:
        """Ray's submission id."""
        return f"{self.run}-a{self.number}"

    @property
    def ended(self) -> bool:
        """Whether it is over, in whatever way."""
        return self.status in ENDED


class Client(Protocol):
    """Ray's JobSubmissionClient, as far as it is used here."""

    def list_jobs(self) -> Sequence[Any]:
        """All jobs that the cluster knows."""
        ...

    def submit_job(
        self,
        *,
        entrypoint: str,
        submission_id: str,
        runtime_env: dict[str, Any],
        metadata: dict[str, str],
    ) -> str:
        """Start a job; returns its id."""
        ...

    def get_job_status(self, job_id: str) -> Any:
        """One of Ray's words."""
        ...

    def get_job_logs(self, job_id: str) -> str:
        """What the job has written."""
        ...

    def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        """What the job writes, until it ends."""
        ...

    def delete_job(self, job_id: str) -> bool:
        """Forget a job that has ended."""
        ...


class Jobs:
    """The runs on one cluster."""

    def __init__(self, client: Client, address: str):
        self.client = client
        self._address = address

    def attempts(self, run: str = "") -> list[Attempt]:
        """Those of `run`, or of all runs; by run and number."""
        found = [_attempt(job) for job in self.client.list_jobs()]
        ours = [each for each in found if each and run in ("", each.run)]
        return sorted(ours, key=lambda each: (each.run, each.number))

    def last(self, run: str) -> Attempt:
        """The last attempt of a run; ValueError that names the known ones if there is none."""
        attempts = self.attempts(run)
        if not attempts:
            known = sorted({each.run for each in self.attempts()})
            raise ValueError(
                f"no run {run!r} was submitted to {self._address}; "
                f"there are {', '.join(known) or 'none at all'}"
            )
        return attempts[-1]

    def next(self, run: RunConfig) -> int:
        """The number of the next attempt. ValueError if the last one runs, or was another run."""
        if not ID.fullmatch(f"{run.name}-a1"):
            raise ValueError(
                f"name is {run.name!r}; the name of a submitted run is made of letters, digits, "
                "'.', '_' and '-'"
            )
        attempts = self.attempts(run.name)
        if not attempts:
            return 1
        last = attempts[-1]
        if not last.ended:
            raise ValueError(
                f"{last.id} is {last.status.lower()}; end it by `o3rl stop {run.name}` before the "
                "next attempt, or give this run another name=…"
            )
        if last.folder != run.folder:
            raise ValueError(
                f"{last.id} has trained in {last.folder}, and this is to train in {run.folder}: "
                "give another run another name=…"
            )
        return last.number + 1

    def submit(
        self, run: RunConfig, folder: Path, *, number: int, options: Sequence[str]
    ) -> Attempt:
        """Start attempt `number` with what was packed in `folder`; `options` go to `o3rl train`."""
        from cluster.jobs.package import CONFIG

        attempt = Attempt(run.name, number, "PENDING", run.folder, run.tracking.run_id)
        self._start(
            entrypoint=join(["python", "-m", "cluster.commands.cli", "train", CONFIG, *options]),
            submission_id=attempt.id,
            runtime_env={"working_dir": str(folder)},
            metadata={"folder": attempt.folder, "mlflow_run": attempt.mlflow_run},
        )
        return attempt

    def ask(self, run: str, arguments: Sequence[str]) -> tuple[int, str]:
        """Run `o3rl ARGUMENTS` on the cluster, with the source of a run's last attempt.

        Returns exit code and output; TimeoutError if that takes more than `ASK_SECONDS`.
        """
        last = self.last(run)
        asked = f"{run}-asked-{uuid.uuid4().hex[:8]}"
        self._start(
            entrypoint=join(["python", "-m", "cluster.commands.cli", *arguments]),
            submission_id=asked,
            runtime_env=dict(last.brought or {}),
            metadata={},
        )
        deadline = time.monotonic() + ASK_SECONDS
        while (status := str(self.client.get_job_status(asked).value)) not in ENDED:
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"{self._address}: no answer to `o3rl {join(arguments)}` within "
                    f"{ASK_SECONDS:.0f} s; it is job {asked}"
                )
            time.sleep(0.5)
        said = self.client.get_job_logs(asked)
        self.client.delete_job(asked)
        return (0 if status == "SUCCEEDED" else 1), said

    def _start(self, **job: Any) -> None:
        """Start a job. A cluster that was just started takes none for some seconds: asked again.

        ValueError with Ray's reason where it does not take it.
        """
        from o3rl.ray_calls import in_a_line

        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.client.submit_job(**job)
                return
            except RuntimeError as error:
                if "No available agent" not in str(error) or time.monotonic() > deadline:
                    said = in_a_line(error)
                    raise ValueError(f"{self._address} does not take the job: {said}") from error
            time.sleep(2.0)


def connect(address: str) -> Jobs:
    """The jobs of the cluster at `address`. ValueError if none answers there, or refuses us."""
    from ray.job_submission import JobSubmissionClient

    for chatty in ("modules.job.sdk", "modules.dashboard_sdk"):
        logging.getLogger(f"ray.dashboard.{chatty}").setLevel(logging.WARNING)
    with pointed_at(address) as where, one_line(where):
        if "://" not in where:
            knock(where)
        return Jobs(_with_token(lambda: JobSubmissionClient(where)), where)


def _attempt(job: Any) -> Attempt | None:
    """A job of Ray's list as an attempt; None for what is none of ours."""
    match = ID.fullmatch(job.submission_id or "")
    metadata = job.metadata or {}
    if match is None or "folder" not in metadata:
        return None
    return Attempt(
        match["run"],
        int(match["attempt"]),
        str(job.status.value),
        metadata["folder"],
        metadata.get("mlflow_run", ""),
        (job.start_time or 0) / 1000,
        job.message or "",
        job.runtime_env,
    )
