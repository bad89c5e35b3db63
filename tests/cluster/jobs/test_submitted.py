"""A run as a job on a real Ray cluster of two nodes with an MLflow server, as a user meets it.

Submitted, looked at, scaled, killed, submitted again, stopped with a checkpoint, read back from
MLflow. The engine has no model, all else is real; one cluster serves all, in order.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import pytest
import yaml

from tests.faults.processes import carrying, free_port, kill, title_of

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

RUN = {
    "name": "sub",
    "model": {
        "path": "tiny",
        "dtype": "float32",
        "prompt_style": "brief",
        "gradient_checkpointing": False,
        "freeze_vision": True,
    },
    "frames": {"max_frames": 4, "pixels": 12544},
    "sampling": {"group_size": 2, "max_tokens": 16, "max_prompt_tokens": 640},
    "rewards": {"custom": {"vowels": "story_reward:vowels"}},
    "learning": {"clip_low": 0.02, "clip_high": 0.02, "mini_batches": 1, "rate": 1e-4},
    "rollouts": {
        "cpus": 1,
        "gpus": 0,
        "max_model_tokens": 1024,
        "enforce_eager": True,
        "engine": "tests.faults.fake_engine:FakeEngine",
    },
    "loop": {"groups": 2, "steps": 2000, "validate_every": 0, "checkpoint_every": 5},
    "cluster": {"cpus_per_rank": 1, "gpus_per_rank": 0},
}


@dataclass(frozen=True)
class Site:
    """A cluster, an MLflow server and a configuration."""

    ray: str
    http: str
    mlflow: str
    config: str
    folder: Path
    environment: dict[str, str]

    @property
    def mark(self) -> tuple[str, str]:
        """By which processes of the cluster are known."""
        return "RAY_AUTH_TOKEN_PATH", self.environment["RAY_AUTH_TOKEN_PATH"]

    def command(self, *arguments: str, address: str = "") -> list[str]:
        start = [sys.executable, "-m", "cluster.commands.cli", *arguments]
        return [*start, "--address", address or self.ray]

    def o3rl(self, *arguments: str, address: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments, address=address),
            capture_output=True,
            text=True,
            timeout=400,
            env=self.environment,
        )

    def jobs(self) -> dict[str, str]:
        """Status by attempt, as `o3rl list` shows them."""
        lines = self.o3rl("list").stdout.splitlines()[1:]
        return {f"{w[0]}-a{w[1]}": w[2] for line in lines if len(w := line.split()) > 2}


def wait_until(done, what: str, seconds: float = 240.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.5)


@contextmanager
def running(*command: str, **keywords) -> Iterator[subprocess.Popen[str]]:
    """A process that ends with the block."""
    with subprocess.Popen(command, text=True, **keywords) as process:
        try:
            yield process
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("sub")
    token = folder / "token"
    token.write_text("0f" * 32)
    here, port, dashboard = Path(__file__).parents[1], free_port(), free_port()
    paths = [str(here.parents[1]), str(here / "run"), os.environ.get("PYTHONPATH", "")]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join(paths),
    }
    server = (sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
              "--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}",
              "--artifacts-destination", str(folder / "artifacts"))  # fmt: skip
    nodes = (sys.executable, str(here / "two_nodes.py"), str(dashboard))
    with (
        (folder / "mlflow.log").open("w") as log,
        running(*server, stdout=log, stderr=log, cwd=folder),
        running(
            *nodes, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment
        ) as cluster,
    ):
        make_data(folder)
        told = cluster.stdout.readline()
        assert told.startswith("up "), (folder / "mlflow.log").read_text()[-3000:]
        mlflow = f"http://127.0.0.1:{port}"
        wait_until(lambda: answers(f"{mlflow}/health"), "MLflow's server")
        config = folder / "run.yaml"
        data = {"train": str(folder / "rows"), "media": str(folder / "data" / "media")}
        tracking = {"uri": mlflow, "experiment": "sub"}
        at = {"folder": str(folder / "run"), "data": data, "tracking": tracking}
        config.write_text(yaml.safe_dump(RUN | at))
        yield Site(
            told.split()[1],
            f"http://127.0.0.1:{dashboard}",
            mlflow,
            str(config),
            folder / "run" / "rl",
            environment,
        )
        cluster.stdin.close()
        cluster.wait(timeout=60)


def answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def make_data(folder: Path) -> None:
    for arguments in (
        ["synth", "--out", str(folder / "data"), "--videos", "4", "--pictures", "2",
         "--held-out-videos", "1", "--held-out-pictures", "1"],
        ["import", str(folder / "data" / "STGR-RL.json"), "--media", str(folder / "data" / "media"),
         "--out", str(folder / "rows")],
    ):  # fmt: skip
        command = [sys.executable, "-m", "cluster.commands.cli", "data", *arguments]
        subprocess.run(command, check=True, capture_output=True, timeout=300)


def checkpoints(site: Site) -> list[int]:
    """Their steps."""
    return sorted(int(path.name[5:]) for path in (site.folder / "checkpoints").glob("step-??????"))


def status(site: Site) -> dict:
    """The run's, by `o3rl status`; empty while there is no controller."""
    done = site.o3rl("status", "sub", "--json")
    return json.loads(done.stdout)[0] if done.returncode == 0 else {}


def healthy(site: Site, replicas: int) -> bool:
    """Whether so many replicas serve; one that is loading a version is stale for a moment."""
    return [each["state"] for each in status(site)["replicas"]] == ["healthy"] * replicas


def trains(site: Site) -> bool:
    job = site.jobs()
    assert "failed" not in job.values(), site.o3rl("logs", "sub").stdout[-4000:]
    return status(site).get("step", 0) >= 2


def test_before_there_is_a_run_each_command_says_so_in_a_line(site):
    for command in ("logs", "status", "stop"):
        done = site.o3rl(command, "sub")
        assert (done.returncode, done.stdout) == (1, "")
        assert re.fullmatch(rf"o3rl {command}: no run 'sub' .*none at all\n", done.stderr)


def test_submit_status_and_scale(site):
    done = site.o3rl("submit", site.config)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("sub-a1 is submitted")
    wait_until(lambda: trains(site), "two steps")
    found = status(site)
    assert (found["run"], found["attempt"], found["steps"]) == ("sub", 1, 2000)
    assert (found["phase"], found["folder"]) == ("training", str(site.folder.parent))
    assert found["step_seconds"] > 0
    assert found["eta_seconds"] > 0
    wait_until(lambda: healthy(site, 1), "a healthy replica")
    again = site.o3rl("submit", site.config)
    assert again.returncode == 1
    assert again.stderr.startswith("o3rl submit: sub-a1 is running; end it by `o3rl stop sub`")
    scaled = site.o3rl("scale", "sub", "--rollouts", "2")
    assert (scaled.returncode, scaled.stdout) == (0, "run sub has 2 rollout replicas\n")
    wait_until(lambda: healthy(site, 2), "two healthy replicas")


def test_a_killed_driver_ends_its_attempt(site):
    wait_until(lambda: checkpoints(site), "a checkpoint")
    drivers = [pid for pid in carrying(*site.mark) if "cluster.commands.cli train" in title_of(pid)]
    assert drivers
    kill(drivers)
    wait_until(lambda: site.jobs() == {"sub-a1": "failed"}, "the end of attempt 1")
    ended = site.o3rl("status", "sub")
    assert ended.returncode == 1
    assert ended.stderr.startswith("o3rl status: run sub has ended: sub-a1 failed")


def test_the_second_attempt_goes_on_until_it_is_stopped(site):
    saved = checkpoints(site)[-1]
    with running(
        *site.command("submit", site.config, "--wait"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=site.environment,
    ) as second:
        wait_until(lambda: status(site).get("step", 0) >= saved + 2, "two more steps", 120)
        assert status(site)["attempt"] == 2
        by_http = json.loads(site.o3rl("status", "sub", "--json", address=site.http).stdout)
        assert [each["run"] for each in by_http] == ["sub"]
        done = site.o3rl("stop", "sub", address=site.http)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "run sub finishes its step" in done.stdout
        said, complaints = second.communicate(timeout=120)
    assert second.returncode == 0, said[-4000:] + complaints[-2000:]
    assert "sub-a2 succeeded" in said
    assert site.jobs() == {"sub-a1": "failed", "sub-a2": "succeeded"}
    steps = checkpoints(site)[-1]
    assert f"stopped after {steps} steps" in site.o3rl("logs", "sub").stdout
    assert json.loads((site.folder / "attempts" / "000002.json").read_text())["ended"] == "finished"


def test_mlflow_has_each_step_of_both_attempts_once(site):
    import mlflow

    client = mlflow.MlflowClient(site.mlflow)
    experiment = client.get_experiment_by_name("sub")
    [run] = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.run_id in site.o3rl("list").stdout
    history = client.get_metric_history(run.info.run_id, "reward/total")
    assert sorted(each.step for each in history) == list(range(1, checkpoints(site)[-1] + 1))
