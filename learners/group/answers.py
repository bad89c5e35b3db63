"""What the ranks answer, all of them together: one that fails ends the wait for the others."""

import asyncio
import sys
from collections.abc import Sequence
from typing import Any

from o3rl.ray_calls import DIED, as_future

GRACE_SECONDS = 5.0


class LearnerLost(RuntimeError):
    """A rank died or did not answer; the group must be closed and started again.

    `silent` are the ranks that did not answer.
    """

    def __init__(self, told: str, *, silent: Sequence[int] = ()):
        super().__init__(told)
        self.silent = tuple(silent)


async def all_answers(calls: Sequence[Any], *, what: str, seconds: float) -> list[Any]:
    """The answers of all ranks, in order.

    The first that fails ends the wait with its own error; LearnerLost where a rank died, or failed
    because another one has left a collective. Raises LearnerLost, naming the ranks that are waited
    for, after `seconds`.
    """
    tasks = [as_future(call) for call in calls]
    done, waiting = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
    if waiting and any(task.exception() for task in done):
        # A rank whose peer died fails in its collective, often before Ray tells of the death.
        more, waiting = await asyncio.wait(waiting, timeout=GRACE_SECONDS)
        done |= more
    late = [rank for rank, task in enumerate(tasks) if task in waiting]
    for task in waiting:
        task.cancel()
    errors = {rank: task.exception() for rank, task in enumerate(tasks) if task in done}
    for rank, error in errors.items():
        if isinstance(error, DIED):
            raise LearnerLost(f"{what}: rank {rank} died: {error}") from error
    for rank, error in errors.items():
        if error is not None and _of_peer(error):
            raise LearnerLost(f"{what}: rank {rank} lost the others: {error}") from error
    for error in errors.values():
        if error is not None:
            raise error
    if late:
        raise LearnerLost(
            f"{what}: no answer within {seconds:.0f} s from ranks {late}", silent=late
        )
    return [task.result() for task in tasks]


def _of_peer(error: BaseException) -> bool:
    """Whether a collective failed; gloo has no error type of its own."""
    torch = sys.modules.get("torch.distributed")  # it came with the error, or this is none of its
    return "/gloo/" in str(error) or (torch is not None and isinstance(error, torch.DistError))
