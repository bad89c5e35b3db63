"""Batches on disk: the same when they are read again, and a clear word where they are not whole."""

import asyncio
import math
from dataclasses import replace

import pytest

from o3rl.persistence.batch_log import Recording, read_batch, recorded_steps
from o3rl.types import Claim, Version
from tests.o3rl.made import scored_group


def record(recording: Recording, step: int, *groups) -> None:
    asyncio.run(recording.stepped(step, Version(0, step), list(groups), {}))


def test_what_is_read_is_what_was_written(tmp_path):
    first, second = scored_group((1.0, 2.0)), scored_group((0.0, 0.5), group=1)
    claim = Claim("dog", math.inf, ((0.0, 0.1, 1.0, 0.9),), key_time=2.0)
    first = replace(
        first, rewards_G=tuple(replace(reward, claims=(claim,)) for reward in first.rewards_G)
    )
    recording = Recording(tmp_path / "batches")
    record(recording, 1, first)
    record(recording, 2, second, first)
    assert recorded_steps(tmp_path / "batches") == 2
    assert read_batch(tmp_path / "batches", 1) == [first]
    assert read_batch(tmp_path / "batches", 2) == [second, first]


def test_a_resumed_run_drops_what_it_trains_again_and_a_new_one_does_not_mix(tmp_path):
    recording = Recording(tmp_path)
    for step in (1, 2, 3):
        record(recording, step, scored_group((1.0, 2.0)))
    with pytest.raises(ValueError, match=r"holds batches of another run"):
        Recording(tmp_path)
    Recording(tmp_path, after=2)
    assert recorded_steps(tmp_path) == 2
    Recording(tmp_path, after=0)
    with pytest.raises(FileNotFoundError, match=r"holds no batch; .* --record"):
        recorded_steps(tmp_path)


def test_what_is_not_whole_is_named(tmp_path):
    recording = Recording(tmp_path)
    for step in (1, 3):
        record(recording, step, scored_group((1.0, 2.0)))
    with pytest.raises(FileNotFoundError, match=r"step-000002.json.gz is missing"):
        recorded_steps(tmp_path)
    (tmp_path / "step-000002.json.gz").write_bytes(b"of something else")
    with pytest.raises(ValueError, match=r"step-000002.json.gz is no recorded batch"):
        read_batch(tmp_path, 2)
