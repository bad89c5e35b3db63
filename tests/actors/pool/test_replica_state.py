"""A replica's ways from state to state, and that nobody else writes one."""

import ast
from pathlib import Path

import pytest

from actors.engine.replica import ProcessLocation
from actors.pool.replica_state import Replica, State
from o3rl.types import Version

ROOT = Path(__file__).parents[3]
HERE = ProcessLocation("node", 1)


def test_one_file_assigns_a_replicas_state():
    writers = set()
    for path in sorted((ROOT / "actors").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            targets = node.targets if isinstance(node, ast.Assign) else ()
            flat = [part for each in targets for part in getattr(each, "elts", [each])]
            if any(isinstance(part, ast.Attribute) and part.attr == "state" for part in flat):
                writers.add(path.name)
    assert writers == {"replica_state.py"}


def test_from_nothing_to_serving_and_back():
    replica = Replica(0, None)
    replica.begin()
    replica.started(HERE)
    assert (replica.state, replica.location) == (State.STALE, HERE)
    replica.outdated()
    replica.loaded(Version(0, 1))
    replica.serve()
    assert (replica.state, replica.version) == (State.HEALTHY, Version(0, 1))
    replica.sleep()
    assert (replica.state, replica.version) == (State.STALE, None)


def test_one_that_leaves_is_left_at_that():
    replica = Replica(0, None)
    replica.leave()
    replica.started(HERE)
    replica.serve()
    assert not replica.suspect("late")
    assert not replica.answered()
    assert replica.state is State.LEAVING
    assert not replica.live
    assert not replica.member


def test_a_suspect_that_answers_is_stale_and_only_a_suspect_is():
    replica = Replica(0, None, state=State.HEALTHY)
    assert replica.suspect("late")
    assert not replica.suspect("later")
    assert (replica.why, replica.answered(), replica.state) == ("late", True, State.STALE)
    assert not replica.answered()


def test_after_three_deaths_in_a_row_it_stays_dead_excused_ones_apart():
    replica = Replica(0, None, state=State.HEALTHY, version=Version(0, 1))
    assert [replica.died("x", excused=each) for each in (False, True, False, False)] == [True] * 4
    assert (replica.state, replica.version, replica.deaths) == (State.STARTING, None, 3)
    assert replica.returned_group()
    assert not replica.returned_group()
    assert [replica.died("y", excused=False) for _ in range(4)] == [True, True, True, False]
    assert (replica.state, replica.why) == (State.DEAD, "y")


@pytest.mark.parametrize("state", [State.STARTING, State.SUSPECT, State.LEAVING, State.DEAD])
def test_weights_are_for_those_that_live(state):
    with pytest.raises(AssertionError):
        Replica(0, None, state=state).outdated()
