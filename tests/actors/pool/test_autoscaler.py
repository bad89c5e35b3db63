"""A replica that finds no room gets a node from Ray's autoscaler, which has this machine only."""

import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from ray.util import get_node_ip_address

from actors.pool.replica_state import State
from actors.pool.rollout_pool import RolloutPool
from o3rl.types import Group, Version
from tests.actors.conftest import ROLLOUTS, SAMPLING, SEED, frames, model, prompt, states
from tests.faults.processes import carrying, free_port, kill

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

SPOT = "spot"  # what only nodes have that the autoscaler brings
MARK = "O3RL_TEST_AUTOSCALER"
QUICK = replace(
    ROLLOUTS,
    engine="tests.faults.fake_engine:FakeEngine",
    start_seconds=60,
    resource=SPOT,
    leave_seconds=5,
)


def fetch(key: str):
    return frames(key)


LISTS = (
    "cluster_synced_files",
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)


def autoscaling(address: str) -> dict:
    """A cluster that may have one spot node beside its head."""
    return {
        **{name: {} for name in ("auth", "docker", "file_mounts")},
        **{name: [] for name in LISTS},
        "cluster_name": "o3rl-test",
        "max_workers": 1,
        "idle_timeout_minutes": 5,
        "upscaling_speed": 1.0,
        "provider": {"type": "fake_multinode", "gcs_address": address},
        "head_node_type": "head",
        "available_node_types": {
            "head": {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": {"CPU": 1, SPOT: 1}, "node_config": {}, "max_workers": 1},
        },
    }


@pytest.fixture
def cluster(tmp_path) -> Iterator[str]:
    """Address of a Ray of one node and its autoscaler."""
    port = free_port()
    address = f"{get_node_ip_address()}:{port}"
    settings = tmp_path / "autoscaler.json"
    settings.write_text(json.dumps(autoscaling(address)))
    token, here = uuid.uuid4().hex, Path(__file__)
    environment = os.environ | {
        MARK: token,
        "RAY_AUTH_MODE": "disabled",
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "PYTHONPATH": os.pathsep.join([str(here.parents[3]), str(here.parent)]),
    }
    ray_command = str(Path(sys.executable).with_name("ray"))
    command = [ray_command, "start", "--head", f"--port={port}", "--num-cpus=1"]
    # Not where other clusters of this machine are looked for; and short, for names of sockets.
    place = tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)
    command += [f"--temp-dir={place.name}", "--include-dashboard=false"]
    command += [f"--autoscaling-config={settings}"]
    try:
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=120)
        ray.init(address=address, log_to_driver=False)
        yield address
    finally:
        ray.shutdown()
        deadline = time.monotonic() + 30
        while pids := list(carrying(MARK, token)):
            assert time.monotonic() < deadline, pids
            kill(pids)
            time.sleep(0.2)
        place.cleanup()


@pytest.mark.usefixtures("cluster")
def test_a_replica_that_finds_no_room_gets_a_node(run, policies):
    assert SPOT not in ray.cluster_resources()
    pool = RolloutPool(
        model(policies.base), sampling=SAMPLING, rollouts=QUICK, fetch=fetch, source=None, seed=SEED
    )
    try:
        run(pool.fleet.start())
        run(pool.weights.adopt(Version(0, 0)))
        assert states(pool) == (State.HEALTHY,)
        assert ray.cluster_resources()[SPOT] == 1
        assert isinstance(run(pool.sample(prompt(0))), Group)
    finally:
        run(pool.fleet.close())
