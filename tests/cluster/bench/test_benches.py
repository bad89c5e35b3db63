"""Benchmarks of hand-over and elasticity: the tables, and the first for real on a tiny policy."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.bench import weight_transfer
from tests.faults.elasticity import Stretch, stretches

ROOT = Path(__file__).parents[3]


def test_steps_are_cut_where_the_number_of_replicas_changes():
    healthy = [(1, 1.0), (2, 1.0), (3, 3.0), (4, 3.0), (5, 3.0), (6, 1.0)]
    seconds = [(step, 9.0 / replicas) for step, replicas in healthy]
    found = stretches({"pool/healthy": healthy, "seconds/step": seconds})
    assert found == [Stretch(1, 2, 18.0), Stretch(3, 3, 9.0), Stretch(1, 1, 9.0)]
    assert [round(part.prompts_per_second, 2) for part in found] == [0.89, 2.67, 0.89]


@pytest.mark.parametrize(
    ("steps", "rate", "said"), [(0, 1e-6, "--steps is 0"), (1, 0.0, "--rate is 0")]
)
def test_what_cannot_be_measured_is_refused(steps, rate, said):
    options = argparse.Namespace(model="1m", steps=steps, rate=rate, json=True)
    with pytest.raises(ValueError, match=said):
        weight_transfer.run(options)


@pytest.mark.e2e
def test_both_ways_give_a_busy_engine_the_same_weights():
    command = ["bench", "handover", "--model", "1m", "--steps", "2", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "cluster.commands.cli", *command],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    ways = json.loads(done.stdout)["ways"]
    assert [step["digest"] for step in ways["full"]] == [s["digest"] for s in ways["changes"]]
    for step in ways["full"]:
        assert step["changed"] is None
        assert step["size"] == step["sent"]
        assert step["fetched"] == step["size"]
    for step in ways["changes"]:
        assert 0 < step["changed"] < 0.2
        assert step["sent"] < step["size"] / 2
        assert step["fetched"] == step["sent"]
