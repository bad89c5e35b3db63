"""Moments are seen by what lies in a run's folder, and not by what an earlier strike has left."""

import os
import random
import time

import pytest

from actors.weights.node_cache import MADE, PREFIX
from tests.faults import moments
from tests.faults.moments import STEP_SECONDS, Moment


def moment(name, folder) -> Moment:
    return Moment(name, folder, luck=random.Random(0))


def test_any_moment_comes_within_a_second(tmp_path):
    waits = moment("any", tmp_path)
    deadline = time.monotonic() + STEP_SECONDS + 0.5
    while not waits.is_here():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_checkpoint_is_here_until_it_has_its_name(tmp_path):
    waits = moment("checkpoint", tmp_path)
    assert not waits.is_here()
    aside = tmp_path / "checkpoints" / "step-000003.writing"
    aside.mkdir(parents=True)
    assert waits.is_here()
    aside.rename(aside.with_suffix(""))
    assert not waits.is_here()


def test_a_publication_is_here_until_a_replica_has_all_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(moments, "ROOTS", (tmp_path,))
    waits = moment("publication", tmp_path)
    version = tmp_path / f"{PREFIX}0-digest"
    version.mkdir()
    assert waits.is_here()
    (version / MADE).touch()
    assert not waits.is_here()


@pytest.mark.parametrize(
    ("name", "left"),
    [("checkpoint", "checkpoints/step-000003.writing"), ("publication", f"{PREFIX}0")],
)
def test_what_an_earlier_strike_left_half_done_is_no_moment(tmp_path, monkeypatch, name, left):
    monkeypatch.setattr(moments, "ROOTS", (tmp_path,))
    (tmp_path / left).mkdir(parents=True)
    os.utime(tmp_path / left, (1, 1))
    waits = moment(name, tmp_path)
    assert not waits.is_here()
    (tmp_path / left / "more").touch()
    assert waits.is_here()
