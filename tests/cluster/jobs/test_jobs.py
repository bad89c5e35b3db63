"""Attempts of a run as Ray jobs: numbers, what is refused, what a job is started with."""

import os
import socket
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

import pytest
from ray.exceptions import AuthenticationError, RpcError

from cluster.jobs.jobs import Attempt, Jobs, connect
from cluster.services.reachability import knock, one_line, pointed_at
from cluster.services.session import join_ray
from o3rl.config import RunConfig


class Word(Enum):
    RUNNING = "RUNNING"
    STOPPED = "STOPPED"
    SUCCEEDED = "SUCCEEDED"


@dataclass
class Job:
    submission_id: str | None
    status: Word = Word.STOPPED
    metadata: dict[str, str] | None = field(default_factory=lambda: {"folder": "/runs/demo"})
    start_time: int | None = 1_760_000_000_000
    message: str | None = None
    runtime_env: dict[str, Any] | None = None


class FakeClient:
    def __init__(self, *jobs: Job):
        self.jobs = list(jobs)
        self.submitted: list[dict[str, Any]] = []
        self.deleted: list[str] = []

    def list_jobs(self):
        return self.jobs

    def submit_job(self, **job):
        self.submitted.append(job)
        return job["submission_id"]

    def get_job_status(self, job_id):
        assert job_id == self.submitted[-1]["submission_id"]
        return Word.SUCCEEDED

    def get_job_logs(self, job_id):
        return f"said by {job_id}"

    def delete_job(self, job_id):
        self.deleted.append(job_id)
        return True


DEMO = RunConfig(name="demo", folder="/runs/demo")


def test_attempts_are_those_of_ours_by_run_and_number():
    client = FakeClient(
        Job("demo-a10", Word.RUNNING),
        Job("demo-a2"),
        Job("demo-a-b-a1"),
        Job(None),
        Job("raysubmit_x"),
        Job("other-a1", metadata=None),
        Job("demo-asked-0f"),
    )
    found = Jobs(client, "here").attempts()
    assert [(each.run, each.number) for each in found] == [
        ("demo", 2), ("demo", 10), ("demo-a-b", 1),
    ]  # fmt: skip
    assert (found[1].ended, found[0].ended) == (False, True)
    assert [each.id for each in Jobs(client, "here").attempts("demo")] == ["demo-a2", "demo-a10"]
    assert found[0].began == 1_760_000_000


def test_the_next_attempt_is_one_more_than_the_last():
    assert Jobs(FakeClient(), "here").next(DEMO) == 1
    assert Jobs(FakeClient(Job("demo-a1"), Job("demo-a3")), "here").next(DEMO) == 4


def test_a_run_that_runs_or_was_another_one_is_not_submitted():
    with pytest.raises(ValueError, match=r"demo-a1 is running; end it by `o3rl stop demo`"):
        Jobs(FakeClient(Job("demo-a1", Word.RUNNING)), "here").next(DEMO)
    with pytest.raises(ValueError, match=r"demo-a1 has trained in /runs/demo, and this"):
        Jobs(FakeClient(Job("demo-a1")), "here").next(replace(DEMO, folder="/runs/else"))
    with pytest.raises(ValueError, match=r"name is 'my run'; .* letters, digits"):
        Jobs(FakeClient(), "here").next(replace(DEMO, name="my run"))


def test_an_unknown_run_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no run 'x' was submitted to here; there are demo"):
        Jobs(FakeClient(Job("demo-a1")), "here").last("x")
    with pytest.raises(ValueError, match="none at all"):
        Jobs(FakeClient(), "here").last("x")


def test_a_job_is_started_with_what_was_packed_and_its_metadata(tmp_path):
    client = FakeClient()
    run = replace(DEMO, tracking=replace(DEMO.tracking, run_id="abc"))
    attempt = Jobs(client, "here").submit(run, tmp_path, number=2, options=["--again"])
    assert attempt.id == "demo-a2"
    assert client.submitted == [
        {
            "entrypoint": "python -m cluster.commands.cli train run.yaml --again",
            "submission_id": "demo-a2",
            "runtime_env": {"working_dir": str(tmp_path)},
            "metadata": {"folder": "/runs/demo", "mlflow_run": "abc"},
        }
    ]


def test_a_job_that_is_not_taken_is_told_with_the_reason(tmp_path):
    class Full(FakeClient):
        def submit_job(self, **job):
            raise RuntimeError(f"Request failed with status code 500:\n{job['submission_id']} used")

    with pytest.raises(ValueError, match=r"here does not take the job: .*: demo-a1 used"):
        Jobs(Full(), "here").submit(DEMO, tmp_path, number=1, options=[])


def test_a_command_is_run_over_there_with_what_the_run_brought_and_forgotten():
    client = FakeClient(Job("demo-a1", Word.RUNNING, runtime_env={"working_dir": "gcs://x.zip"}))
    code, said = Jobs(client, "here").ask("demo", ["scale", "demo", "--rollouts", "2"])
    [job] = client.submitted
    assert job["runtime_env"] == {"working_dir": "gcs://x.zip"}
    assert job["entrypoint"] == "python -m cluster.commands.cli scale demo --rollouts 2"
    assert (code, said) == (0, f"said by {job['submission_id']}")
    assert client.deleted == [job["submission_id"]]
    assert Attempt("demo", 1, "RUNNING").id != job["submission_id"]


def test_an_address_that_is_given_goes_before_the_environment(monkeypatch):
    """Ray's own order is the other way round."""
    monkeypatch.setenv("RAY_ADDRESS", "there:1")
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    with pointed_at("http://here:8265") as where:
        assert where == "http://here:8265"
        assert "RAY_ADDRESS" not in os.environ
    with pointed_at("") as where:
        assert where == "there:1"
    assert os.environ["RAY_ADDRESS"] == "there:1"
    monkeypatch.delenv("RAY_ADDRESS")
    with pointed_at("") as where:
        assert where == "auto"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("status code 401: missing token"), "refuses us: its token must be in"),
        (
            AuthenticationError("InvalidAuthToken: it\nis incorrect"),
            "the Ray cluster at x refuses us",
        ),
        (ConnectionError("a\nb"), "no Ray cluster answers at x"),
        (ConnectionError("10.0.0.5:40123: Connection refused"), "no Ray cluster answers at x"),
        (RpcError("Timed out while waiting for GCS"), "no Ray cluster answers at x"),
    ],
)
def test_a_cluster_that_refuses_us_is_told_from_one_that_is_not_there(error, told):
    with pytest.raises(ValueError, match=told) as caught, one_line("x"):
        raise error
    assert "\n" not in str(caught.value)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("asked", [knock, connect, lambda place: join_ray(place, 0)])
def test_nobody_is_waited_for_where_nobody_listens(asked, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # free again after the block
    with pytest.raises((ValueError, ConnectionError), match="Connection refused"):
        asked(f"127.0.0.1:{port}")
