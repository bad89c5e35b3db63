"""What the supervisor of a run counts, and whom it blames."""

import asyncio
from concurrent.futures import Future
from itertools import chain, repeat
from types import SimpleNamespace

import pytest

from cluster.run import supervisor
from cluster.run.controller import Look
from cluster.run.run_control import Control, Phase, RunLost
from cluster.run.supervisor import Losses, _Eye, supervise
from o3rl.config import ClusterConfig, RunConfig
from o3rl.persistence.checkpoints import Checkpoint


def test_losses_are_counted_since_the_last_new_checkpoint(tmp_path):
    first, third = Checkpoint(tmp_path / "step-000001"), Checkpoint(tmp_path / "step-000003")
    losses = Losses()
    last = [None, None, first, first, third, first]  # the last one was damaged: nothing is reached
    assert [losses.add(checkpoint) for checkpoint in last] == [1, 2, 1, 2, 1, 2]


class Controller:
    """Answers its second call."""

    def __init__(self) -> None:
        self.calls = 0

    @property
    def look(self) -> "Controller":
        return self

    def remote(self, _: int) -> "Controller":
        self.calls += 1
        return self

    def future(self) -> Future[Look]:
        answer: Future[Look] = Future()
        if self.calls == 2:
            control = Control("run", "folder")
            control.stop()
            control.enter(Phase.WRITING)
            answer.set_result(Look(control.status(), (), 0, 2**22 + 1, control.stopping))
        return answer


@pytest.mark.parametrize(("passed", "calls"), [(0.1, 1), (60.0, 2)])
def test_one_that_was_stopped_itself_asks_again_before_it_blames(monkeypatch, passed, calls):
    """`passed`: seconds between the question and the end of a wait of 0.1 s."""
    times = chain([0.0], repeat(passed))
    monkeypatch.setattr(supervisor, "time", SimpleNamespace(monotonic=lambda: next(times)))
    controller = Controller()
    eye = _Eye(controller)
    if calls == 1:
        with pytest.raises(RunLost, match="the controller has not answered for 0 s"):
            asyncio.run(eye.look(0.1))
    else:
        assert asyncio.run(eye.look(0.1)).steps == 0
        assert eye.stopping, "also where nobody looked before it wrote"
    assert controller.calls == calls


@pytest.mark.parametrize(("stopping", "starts"), [(False, 3), (True, 1)])
def test_a_run_that_was_to_stop_is_not_started_again(tmp_path, monkeypatch, stopping, starts):
    begun = []

    def start(*_, **__) -> object:
        begun.append(None)
        return object()

    async def lost(eye: _Eye, *_) -> None:
        eye.stopping = stopping
        raise RunLost("the learner was lost")

    monkeypatch.setattr("cluster.run.controller.start_controller", start)
    monkeypatch.setattr(supervisor, "_trained", lost)
    session = SimpleNamespace(renew=lambda: None)
    config = RunConfig(folder=str(tmp_path), cluster=ClusterConfig(controller_restarts=2))
    said = "it was to stop, and there is no checkpoint" if stopping else "that was 3 times"
    with pytest.raises(RuntimeError, match=f"the learner was lost; {said}"):
        asyncio.run(supervise(config, session))  # pyright: ignore
    assert len(begun) == starts
