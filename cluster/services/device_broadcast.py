"""The replicas that take a version together, as rank 0 drives them: each step is a call of all.

weight_transfer ── send ──► learner group ── link, open, feed, finish ──► ReplicaReceivers
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from actors.weights.update_stream import HandOverFailed, Loaded
from o3rl.config import Transfer
from o3rl.ray_calls import first_line
from o3rl.types import Version
from o3rl.weights.device_protocol import DeviceWeights, Sender


@dataclass(frozen=True)
class ReplicaReceivers:
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
