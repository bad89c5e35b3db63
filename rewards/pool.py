"""The scorer pool: an elastic number of Ray actors, each one `Scorer`. The only file here with Ray.

    score(group) ─► idle worker ─► completions in order, each within `rewards.seconds`
                        │ died, or out of time
                        └─► killed, replaced; what is left of the group goes elsewhere

Laws: a worker is idle once it has started, so that one without room holds up no group while others
serve; a group keeps one worker at a time, groups run in parallel; a completion that takes its
worker down `ATTEMPTS` times is a `Failure` and its siblings are scored all the same; a worker that
may still be at work is never handed out again; a bug in a built-in reward is raised, never a zero.

| who waits | for whom | limit |
|---|---|---|
| start | one worker's start | `start_seconds` |
| score | an idle worker | those at work, each bounded below; `ATTEMPTS` times `start_seconds` |
| score | one completion | `rewards.seconds` |
| score | the stacks of a worker that is late | 15 s |
"""

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import monotonic, perf_counter
from typing import Any

import ray
from ray.exceptions import ObjectLostError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from o3rl.code_digest import source_digest
from o3rl.config import SCORER_CPUS, RewardsConfig
from o3rl.ray_calls import DIED, answered, first_line, free, log_stacks_at
from o3rl.types import Failure, FailureKind, Group, Prompt, Reward
from rewards.custom import CustomFault, CustomRewardError, RowScorer

ATTEMPTS = 3  # of one completion, each on another process; and of each worker to start for a group
RETRY_SECONDS = 30.0  # from a start that failed to the next one, while others serve

Outcome = Reward | CustomFault | Failure

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Place:
    node_id: str
    pid: int


@ray.remote(max_restarts=0)
class _Actor:
    def __init__(self, rewards: RewardsConfig, model_type: str):
        self._rewards, self._model_type = rewards, model_type

    def start(self, source: str) -> "_Place":
        """Where it is, once it is up. ValueError if it runs other code, or has no custom reward."""
        own = source_digest()
        if own != source:
            raise ValueError(f"a scorer runs source {own}, the driver {source}: install one wheel")
        self._scorer = RowScorer(self._rewards, self._model_type)
        return _Place(ray.get_runtime_context().get_node_id(), os.getpid())

    def score(self, prompt: Prompt, text: str) -> Reward | CustomFault:
        return self._scorer.score(prompt, text)


@dataclass(eq=False, slots=True)
class _Worker:
    actor: Any  # Ray's handles carry no type
    place: _Place | None = None  # once it has started

    async def show(self) -> None:
        """Log what it is doing, as it says nothing."""
        assert self.place is not None
        there = NodeAffinitySchedulingStrategy(self.place.node_id, soft=False)
        await log_stacks_at(f"the scorer with pid {self.place.pid}", self.place.pid, there)


class ScorerPool:
    """Scores groups on `rewards.workers` actors. Use it from one event loop.

    `model_type` is the model's, for its box convention; `source` the driver's `source_digest()`.
    Raises ValueError at once for what no worker could accept: an unknown model type, weight or
    custom function. Workers start when they are first asked for; after `patience` seconds with none
    `start` tells so.
    """

    def __init__(
        self,
        rewards: RewardsConfig,
        *,
        model_type: str,
        source: str,
        cpus: float = SCORER_CPUS,
        start_seconds: float = 120.0,
        patience: float = 30.0,
    ):
        RowScorer(rewards, model_type)
        self._rewards, self._model_type, self._source = rewards, model_type, source
        self._cpus, self._start_seconds, self._patience = cpus, start_seconds, patience
        self._size = rewards.workers
        self._workers: set[_Worker] = set()
        self._idle: list[_Worker] = []
        self._joining: set[asyncio.Task[None]] = set()
        self._waiting = 0  # for an idle worker
        self._failed = 0  # starts
        self._why = ""  # the last one did
        self._retry = 0.0  # seconds on the clock, before which others serve without a new one
        self._bug: Exception | None = None  # that a start raised
        self._changed = asyncio.Condition()
        self._faults: dict[tuple[str, str, str], str] = {}
        self._closed = False
        self.replaced = 0  # workers that died or ran out of time
        self.seconds = 0.0  # of workers on groups, from the first call to the last answer

    async def start(self) -> None:
        """Return when a worker serves. TimeoutError that tells what is free if none comes to."""
        taking = asyncio.ensure_future(self._take())
        try:
            patience = min(self._patience, self._start_seconds)
            await asyncio.wait([taking], timeout=patience)
            if not taking.done():
                log.warning("no scorer has started within %g s: %s", patience, self._room())
            worker = await asyncio.wait_for(taking, self._start_seconds - patience)
        except TimeoutError as error:
            waited = f"no scorer has started within {self._start_seconds:g} s"
            raise TimeoutError(f"{waited}: {self._room()}") from error
        finally:
            taking.cancel()
        if worker is None:
            raise TimeoutError(f"no scorer has started: {self._why}; {self._room()}")
        await self._give_back(worker, healthy=True)

    async def score(self, group: Group) -> tuple[Reward | Failure, ...]:
        """One outcome per rollout, in order.

        Raises CustomRewardError when the run's custom rewards have raised too many distinct
        exceptions, RuntimeError if the pool is closed, and what a bug in a built-in reward raises.
        """
        outcomes: dict[int, Outcome] = {}
        attempts: Counter[int] = Counter()
        everyone = range(len(group.rollouts_G))
        while waiting := [index for index in everyone if index not in outcomes]:
            worker = await self._take()
            if worker is None:
                outcomes.update({index: _failure(group, index, self._why) for index in waiting})
                continue
            healthy, began = False, perf_counter()
            try:
                healthy = await self._score_on(worker, group, waiting, outcomes, attempts)
            finally:
                self.seconds += perf_counter() - began
                await self._give_back(worker, healthy)
        return self._judged(group, [outcomes[index] for index in everyone])

    async def resize(self, workers: int) -> None:
        """Run with so many workers, 1 or more; those at work finish their group first."""
        if workers < 1:
            raise ValueError(f"a scorer pool needs at least 1 worker, not {workers}")
        async with self._changed:
            self._size = workers
            starting = [worker for worker in self._workers if worker.place is None]
            while len(self._workers) > workers and (starting or self._idle):
                self._discard(starting.pop() if starting else self._idle.pop())
            self._fill()
            self._changed.notify_all()

    async def close(self) -> None:
        """End all workers; groups in flight and later ones raise RuntimeError."""
        async with self._changed:
            self._closed = True
            for task in self._joining:
                task.cancel()
            for worker in tuple(self._workers):
                self._discard(worker)
            self._idle.clear()
            self._changed.notify_all()

    async def _score_on(
        self,
        worker: _Worker,
        group: Group,
        waiting: list[int],
        outcomes: dict[int, Outcome],
        attempts: Counter[int],
    ) -> bool:
        """Score those that wait; False if the worker must be replaced."""
        texts = [group.rollouts_G[index].text for index in waiting]
        calls = [worker.actor.score.remote(group.prompt, text) for text in texts]
        for index, call in zip(waiting, calls, strict=True):
            what = "scoring one completion"
            result = await _within(self._rewards.seconds, call, what, late=worker.show)
            if not isinstance(result, str):
                outcomes[index] = result
                continue
            attempts[index] += 1
            if attempts[index] >= ATTEMPTS:
                outcomes[index] = _failure(group, index, result)
            return False
        return True

    def _room(self) -> str:
        return f"each takes CPU {self._cpus:g}; free: {free()}"

    async def _join(self, worker: _Worker) -> None:
        """Start a worker: then it is idle, or has been given up."""
        try:
            call = worker.actor.start.remote(self._source)
            found = await _within(self._start_seconds, call, "the start of a scorer")
        except Exception as error:  # whatever it is: those who wait raise it
            self._bug, found = error, str(error)
        async with self._changed:
            try:
                if worker in self._workers:  # not given up meanwhile
                    self._joined(worker, found)
            finally:
                self._changed.notify_all()

    def _joined(self, worker: _Worker, found: _Place | str) -> None:
        if isinstance(found, str):
            log.warning("%s", found)
            self._failed, self._why = self._failed + 1, found
            self._retry = monotonic() + RETRY_SECONDS
            self.replaced += 1
            self._discard(worker)
            if self._waiting:
                self._fill()
        else:
            worker.place = found
            self._idle.append(worker)

    async def _take(self) -> _Worker | None:
        """An idle worker; None where none serves after `ATTEMPTS` starts of each."""
        async with self._changed:
            last = self._failed + ATTEMPTS * self._size
            self._waiting += 1
            try:
                self._fill()
                await self._changed.wait_for(
                    lambda: (
                        self._idle
                        or self._closed
                        or self._bug
                        or (self._failed >= last and not self._serving())
                    )
                )
            finally:
                self._waiting -= 1
            if self._closed:
                raise RuntimeError("the scorer pool is closed")
            if self._bug is not None:
                raise self._bug
            return self._idle.pop() if self._idle else None

    async def _give_back(self, worker: _Worker, healthy: bool) -> None:
        async with self._changed:
            if self._closed:
                return
            if healthy and len(self._workers) <= self._size:
                self._idle.append(worker)
            else:
                self.replaced += not healthy
                self._discard(worker)
                self._fill()
            self._changed.notify_all()

    def _serving(self) -> bool:
        return any(worker.place is not None for worker in self._workers)

    def _fill(self) -> None:
        if self._closed or self._bug or (self._serving() and monotonic() < self._retry):
            return
        while len(self._workers) < self._size:
            options = _Actor.options(num_cpus=self._cpus)
            worker = _Worker(options.remote(self._rewards, self._model_type))
            self._workers.add(worker)
            task = asyncio.create_task(self._join(worker))
            self._joining.add(task)
            task.add_done_callback(self._joining.discard)

    def _discard(self, worker: _Worker) -> None:
        self._workers.discard(worker)
        ray.kill(worker.actor, no_restart=True)

    def _judged(self, group: Group, outcomes: list[Outcome]) -> tuple[Reward | Failure, ...]:
        """The outcomes, or where a custom reward raised a failure for each."""
        faults = [outcome for outcome in outcomes if isinstance(outcome, CustomFault)]
        if not faults:
            return tuple(outcome for outcome in outcomes if not isinstance(outcome, CustomFault))
        for fault in faults:
            if fault.identity not in self._faults:
                log.warning("group %d: %s", group.prompt.group, fault)
                self._faults[fault.identity] = str(fault)
        if len(self._faults) >= self._rewards.custom_errors:
            raise CustomRewardError(
                f"{len(self._faults)} distinct errors of custom rewards "
                f"(rewards.custom_errors is {self._rewards.custom_errors}): "
                + "; ".join(self._faults.values())
            )
        return tuple(
            _failure(group, index, str(faults[0])) for index in range(len(group.rollouts_G))
        )


def _failure(group: Group, index: int, reason: str) -> Failure:
    sample = group.rollouts_G[index].sample
    log.warning("sample %d of group %d: %s", sample, group.prompt.group, reason)
    return Failure(group.prompt.group, sample, reason, FailureKind.SERVICE)


async def _within(
    seconds: float,
    call: Any,
    what: str,
    *,
    late: Callable[[], Awaitable[None]] | None = None,
) -> Any:
    """The call's result; what became of it, as text, if its process died or took too long.

    Where it took too long, `late` is called first.
    """
    try:
        return await answered(call, seconds)
    except TimeoutError:
        if late is not None:
            await late()
        return f"{what} took longer than {seconds:g} s"
    except (*DIED, ObjectLostError) as error:
        return f"{what}: the scorer process died: {first_line(error):.300}"
