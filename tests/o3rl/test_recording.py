"""Batches on disk: the same when they are read again, and a clear word where they are not whole."""

import asyncio
import math
from dataclasses import replace

import pytest
from made import scored_group

from o3rl.flow import Claim, Version
from o3rl.recording import Recording, read_batches


def test_what_is_read_is_what_was_written(tmp_path):
    first, second = scored_group((1.0, 2.0)), scored_group((0.0, 0.5), group=1)
    claim = Claim("dog", math.inf, ((0.0, 0.1, 1.0, 0.9),), key_time=2.0)
    first = replace(
        first, rewards_G=tuple(replace(reward, claims=(claim,)) for reward in first.rewards_G)
    )
    recording = Recording(tmp_path / "batches")
    for step, groups in ((1, [first]), (2, [first]), (2, [second, first])):  # step 2 once more
        asyncio.run(recording.stepped(step, Version(0, step), groups, {}))
    assert list(read_batches(tmp_path / "batches")) == [(1, [first]), (2, [second, first])]


def test_what_is_not_whole_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no recorded batch; .* --record"):
        list(read_batches(tmp_path))
    recording = Recording(tmp_path)
    for step in (1, 3):
        asyncio.run(recording.stepped(step, Version(0, step), [scored_group((1.0, 2.0))], {}))
    with pytest.raises(FileNotFoundError, match=r"step-000002.json.gz is missing"):
        list(read_batches(tmp_path))
    (tmp_path / "step-000002.json.gz").write_bytes(b"of something else")
    with pytest.raises(ValueError, match=r"step-000002.json.gz is no recorded batch"):
        list(read_batches(tmp_path))
