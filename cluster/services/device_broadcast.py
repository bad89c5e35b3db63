"""Weights from the learner's GPU straight to the replicas', where `rollouts.transfer` says so.

    pool ── give ──► HandOver ── send ──► learner group ── open, feed, finish ──► replicas

| who waits | for whom                         | at most                              |
|-----------|----------------------------------|--------------------------------------|
| `give`    | the learner's call of the moment | that one's limit                     |
| `give`    | the learner's ranks              | `learning.seconds`                   |
| rank 0    | each step of every replica       | `rollouts.load_seconds`, 30 s beyond |
| rank 0    | every engine, to connect (`nccl`)| 300 s (vLLM's)                       |

Laws: those who ask at about the same time take the version together; the learner does not train
while it sends; where one of them fails, all of them are started again; weights that one refuses
are an error of the run.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from actors.pool.replica_fleet import LOAD_MARGIN_SECONDS
from actors.pool.replica_state import Slot
from actors.weights.update_stream import HandOverFailed, Loaded
from learners.group.learner_group import LearnerGroup
from o3rl.config import RolloutsConfig, Transfer
from o3rl.ray_calls import first_line
from o3rl.types import Version
from o3rl.weights.device_protocol import DeviceWeights, Sender

GATHER_SECONDS = 0.05  # for all who are told of a version to ask for it


@dataclass(frozen=True)
class Replicas:
    """See `o3rl.weights.device_protocol.Receivers`; used in rank 0's process."""

    members: tuple[str, ...]
    actors: tuple[Any, ...]  # Ray's handles carry no type
    transfer: Transfer
    tensor_parallel: int
    seconds: float

    def link(self, init: Mapping[str, Any]) -> None:
        """Have each connect, at its place among the engines' workers: the sender is the first."""
        inits = [dict(init) for _ in self.actors]
        if self.transfer is Transfer.nccl:
            for number, own in enumerate(inits):
                own["rank_offset"] = 1 + number * self.tensor_parallel
        calls = [actor.link.remote(own) for actor, own in zip(self.actors, inits, strict=True)]
        self._answers(calls, "connect")

    def open(self, version: Version, names: Sequence[str]) -> None:
        """Have each stand still."""
        calls = [actor.open.remote(version, tuple(names)) for actor in self.actors]
        self._answers(calls, f"begin with version {version}")

    def feed(self, update: Mapping[str, Any]) -> None:
        """Have each take an update."""
        self._answers([actor.feed.remote(update) for actor in self.actors], "take its weights")

    def finish(self, digest: str) -> list[Loaded]:
        """Have each serve."""
        calls = [actor.finish.remote(digest) for actor in self.actors]
        return self._answers(calls, "serve new weights")

    def sender(self, weights: DeviceWeights, *, rank: int, place: tuple[str, int]) -> Sender:
        """By CUDA IPC or NCCL. Asks each before whether it lives: who connects waits for all."""
        from actors.weights.device_sender import (  # vLLM: here, and not in who calls
            over_ipc,
            over_nccl,
        )

        if rank == 0:
            self._answers([actor.ping.remote() for actor in self.actors], "answer")
        if self.transfer is Transfer.ipc:
            return over_ipc(weights, self, rank=rank)
        engines = len(self.actors) * self.tensor_parallel
        return over_nccl(weights, self, rank=rank, place=place, engines=engines)

    def _answers(self, calls: Sequence[Any], what: str) -> list[Any]:
        """Of all, in order. The first that fails ends the wait: others may hang because of it.

        Raises ValueError where a replica refused, HandOverFailed naming those that failed or said
        nothing.
        """
        who = dict(zip(calls, self.members, strict=True))
        answers: dict[Any, Any] = {}
        end = time.monotonic() + self.seconds
        waiting = list(calls)
        while waiting:
            left = max(0.0, end - time.monotonic())
            done, waiting = ray.wait(waiting, num_returns=1, timeout=left)
            if not done:
                silent = ", ".join(who[call] for call in waiting)
                raise HandOverFailed(f"{silent} did not {what} within {self.seconds:.0f} s")
            [call] = done
            try:
                answers[call] = ray.get(call)
            except RayError as error:
                cause = getattr(error, "cause", None)
                if isinstance(cause, ValueError):
                    raise ValueError(str(cause)) from error
                raise HandOverFailed(f"{who[call]}: {first_line(error)}") from error
        return [answers[call] for call in calls]


@dataclass
class _Asking:
    """Those who take a version together."""

    version: Version
    slots: list[Slot] = field(default_factory=list)
    sent: asyncio.Task[dict[int, Loaded]] | None = None


class HandOver:
    """The rollout pool's way to the learner's weights. Use it from one event loop."""

    def __init__(self, group: LearnerGroup, rollouts: RolloutsConfig):
        self._group, self._rollouts = group, rollouts
        self._asking: _Asking | None = None

    async def give(self, slot: Slot, version: Version) -> Loaded:
        """Have a replica take `version`, and serve it.

        Raises TrainedOn if the learner has trained on, ValueError if the replica refuses the
        weights, HandOverFailed if it or one that took part does not come through it.
        """
        asking = self._asking
        if asking is None or asking.version != version:
            asking = self._asking = _Asking(version)
            asking.sent = asyncio.create_task(self._send(asking))
        asking.slots.append(slot)
        assert asking.sent is not None
        reports = await asyncio.shield(asking.sent)
        return reports[slot.index]

    async def _send(self, asking: _Asking) -> dict[int, Loaded]:
        await asyncio.sleep(GATHER_SECONDS)
        if self._asking is asking:
            self._asking = None
        slots = asking.slots
        replicas = Replicas(
            members=tuple(str(slot) for slot in slots),
            actors=tuple(slot.actor for slot in slots),
            transfer=self._rollouts.transfer,
            tensor_parallel=self._rollouts.tensor_parallel,
            seconds=self._rollouts.load_seconds + LOAD_MARGIN_SECONDS,
        )
        try:
            reports = await self._group.send(asking.version, replicas)
        except RayTaskError as error:
            if isinstance(error.cause, HandOverFailed):
                raise HandOverFailed(str(error.cause)) from error
            raise
        return {slot.index: report for slot, report in zip(slots, reports, strict=True)}
