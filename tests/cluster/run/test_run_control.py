"""Steering a run between its steps: what waits, what is refused, what status tells."""

import asyncio
from pathlib import Path

import pytest

from cluster.run.run_control import Control, Phase, Running
from o3rl.persistence.checkpoints import Checkpoint
from o3rl.types import Version

NOTHING = (Version(0, 1), ())
METRICS = {"tokens/sampled": 100.0, "reward/total": 0.5}


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class FakeLoop:
    def __init__(self):
        self.step = 0
        self.stopped = False

    def status(self):
        return {"version": float(self.step)}

    def stop(self):
        self.stopped = True


class FakePool:
    def describe(self):
        return [{"replica": 0, "state": "healthy", "version": "0.1"}]

    async def scale(self, replicas: int):
        return (f"no room for {replicas}",)


class Desk:
    """A control with all that it steers; `saved` holds the steps of checkpoints."""

    def __init__(self):
        self.clock, self.loop, self.saved = Clock(), FakeLoop(), []
        self.control = Control("demo", "/runs/demo", clock=self.clock)
        self.control.steps = 10

    async def save(self, step: int) -> Checkpoint:
        self.saved.append(step)
        return Checkpoint(Path(f"step-{step}"))

    def start(self) -> Control:
        self.control.started(Running(self.loop, FakePool(), self.save, lambda: "abc"))
        return self.control

    async def step(self, seconds: float = 2.0) -> None:
        self.clock.now += seconds
        self.loop.step += 1
        await self.control.stepped(self.loop.step, *NOTHING, dict(METRICS))


def test_status_before_and_while_it_trains():
    desk = Desk()
    assert (desk.control.status().phase, desk.control.status().steps) == ("starting", 10)
    control = desk.start()

    async def go():
        for _ in range(3):
            await desk.step(seconds=2.0)

    asyncio.run(go())
    status = control.status()
    assert (status.run, status.folder, status.phase) == ("demo", "/runs/demo", "training")
    assert (status.step, status.steps, status.mlflow_run) == (3, 10, "abc")
    assert status.step_seconds == pytest.approx(2.0)
    assert status.tokens_per_second == pytest.approx(3 * 100 / 6)
    assert status.eta_seconds == pytest.approx(7 * 2.0)
    assert status.replicas == [{"replica": 0, "state": "healthy", "version": "0.1"}]
    assert (status.loop["version"], status.metrics["reward/total"]) == (3.0, 0.5)


def test_rates_are_of_the_latest_steps():
    desk = Desk()
    desk.start()

    async def go():
        for seconds in [100.0] * 5 + [1.0] * 20:
            await desk.step(seconds)

    asyncio.run(go())
    assert desk.control.status().step_seconds == pytest.approx(1.0)


def test_a_checkpoint_is_taken_after_the_running_step_for_all_who_asked():
    async def go():
        desk = Desk()
        control = desk.start()
        asked = [asyncio.create_task(control.checkpoint()) for _ in range(2)]
        await asyncio.sleep(0)
        assert desk.saved == []
        await desk.step()
        await desk.step()
        assert await asyncio.gather(*asked) == [Path("step-1")] * 2
        assert desk.saved == [1]

    asyncio.run(go())


def test_a_paused_run_waits_between_steps_and_still_takes_checkpoints():
    async def go():
        desk = Desk()
        control = desk.start()
        control.pause()
        step = asyncio.create_task(desk.step())
        await asyncio.sleep(0.01)
        assert not step.done()
        assert control.status().phase == Phase.PAUSED
        assert await asyncio.wait_for(control.checkpoint(), 1) == Path("step-1")
        assert not step.done()
        desk.clock.now += 1000.0  # of a pause are no part of a step
        control.resume()
        await asyncio.wait_for(step, 1)
        await desk.step(seconds=2.0)
        assert control.status().step_seconds == pytest.approx(2.0)
        assert control.status().phase == Phase.TRAINING

    asyncio.run(go())


def test_stop_ends_the_loop_and_a_pause():
    async def go():
        desk = Desk()
        control = desk.start()
        control.pause()
        step = asyncio.create_task(desk.step())
        await asyncio.sleep(0)
        control.stop()
        await asyncio.wait_for(step, 1)
        assert desk.loop.stopped
        assert control.status().phase == Phase.STOPPING
        with pytest.raises(ValueError, match="run demo is stopping"):
            control.pause()

    asyncio.run(go())


def test_stop_before_the_services_are_up_ends_the_loop_as_it_begins():
    desk = Desk()
    desk.control.stop()
    assert not desk.loop.stopped
    assert desk.start().status().phase == Phase.STOPPING
    assert desk.loop.stopped


def test_scale_is_the_pools():
    async def go():
        assert await Desk().start().scale(7) == ("no room for 7",)
        with pytest.raises(ValueError, match="run demo is starting"):
            await Desk().control.scale(2)

    asyncio.run(go())


def test_what_a_run_that_does_not_train_is_asked_is_refused_by_its_phase():
    async def go():
        desk = Desk()
        with pytest.raises(ValueError, match="run demo is starting; ask again while it trains"):
            await desk.control.checkpoint()
        control = desk.start()
        asked = asyncio.create_task(control.checkpoint())
        await asyncio.sleep(0)
        control.enter(Phase.WRITING)
        with pytest.raises(ValueError, match="run demo is writing the model: no step follows"):
            await asked
        with pytest.raises(ValueError, match="run demo is writing the model"):
            control.stop()

    asyncio.run(go())


def test_a_checkpoint_that_fails_ends_the_run_and_answers_who_asked():
    async def go():
        desk = Desk()

        async def full(step: int) -> Checkpoint:
            raise OSError(f"no room for step {step}")

        desk.save = full
        control = desk.start()
        asked = asyncio.create_task(control.checkpoint())
        await asyncio.sleep(0)
        with pytest.raises(OSError, match="no room"):
            await desk.step()
        control.enter(Phase.ENDED)
        with pytest.raises(ValueError, match="ended"):
            await asked

    asyncio.run(go())
