"""What `o3rl bench` refuses, and new weights to an engine for real on a tiny policy."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.commands import cli

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("weights --steps 0", "argument --steps: '0' is no whole number from 1 on"),
        ("weights --rate 0", "argument --rate: '0' is no number above 0"),
        ("weights --rate high", "argument --rate: 'high' is no number above 0"),
        ("learner --repeats -1", "argument --repeats: '-1' is no whole number from 1 on"),
        ("loop --rounds 1", "argument --rounds: '1' is no whole number from 2 on"),
        ("rewards --seconds nan", "argument --seconds: 'nan' is no number above 0"),
    ],
)
def test_what_cannot_be_measured_is_refused_at_once(words, said, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["bench", *words.split()])
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.e2e
def test_both_ways_give_a_busy_engine_the_same_weights():
    command = ["bench", "weights", "--model", "1m", "--steps", "2", "--json"]
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
