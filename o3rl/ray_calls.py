"""Calls of Ray actors: what counts as a death, an answer within a limit, an error in a line; what
is asked of Ray and what it has; the stacks of a process that says nothing.

The one file of `o3rl` that names Ray.
"""

import asyncio
from typing import Any

import ray
from ray.exceptions import (
    ActorUnschedulableError,
    GetTimeoutError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    RuntimeEnvSetupError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from o3rl.config import RESOURCE_SHARE
from o3rl.stacks import dump_stacks, log_stacks

# What Ray raises where an actor's process is no more, or cannot be; only the first one is usual.
DIED = (RayActorError, OutOfMemoryError, ActorUnschedulableError, RuntimeEnvSetupError)


def beside_us() -> NodeAffinitySchedulingStrategy:
    """On the caller's node: not on one that comes and goes with the load.

    A soft affinity is no more than a wish: Ray spills actors that ask for no CPU at all.
    """
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def answer_within(reference: Any, seconds: float, *, who: str, what: str) -> Any:
    """What `ray.get` gives; TimeoutError naming `who` if `what` has no answer within `seconds`."""
    try:
        return ray.get(reference, timeout=seconds)
    except GetTimeoutError as error:
        raise TimeoutError(f"{who}: no answer to {what!r} within {seconds:.0f} s") from error
    except DIED as error:
        raise TimeoutError(f"{who}: it died and did not come back ({what})") from error


def in_a_line(error: BaseException) -> str:
    """What it says itself: without the traceback of the process that raised it, and without the
    guesses that Ray adds to what it knows.
    """
    own = error.cause if isinstance(error, RayTaskError) else error
    return " ".join(str(own).split()).partition(" Some common causes")[0]


def as_future(reference: Any) -> asyncio.Future[Any]:
    """A Ray reference as a future of this event loop."""
    return asyncio.wrap_future(reference.future())


async def answered(reference: Any, seconds: float | None) -> Any:
    """Its answer, awaited for at most `seconds`; TimeoutError, and what Ray raises."""
    return await asyncio.wait_for(as_future(reference), seconds)


def first_line(error: BaseException) -> str:
    """One line of an error: Ray's carry whole tracebacks."""
    cause = getattr(error, "cause", None) or error
    lines = str(cause).strip().splitlines() or [repr(cause)]
    return f"{type(cause).__name__}: {lines[0]}"


def bundle(*, cpus: float, gpus: float, resource: str = "") -> dict[str, float]:
    """What one actor asks a placement group for; `resource` names the nodes that it may be on."""
    asked = {"CPU": float(cpus)}
    if gpus:
        asked["GPU"] = float(gpus)
    if resource:
        asked[resource] = RESOURCE_SHARE
    return asked


def free() -> str:
    """What nobody has taken of the cluster's cores and GPUs."""
    left = ray.available_resources()
    return f"CPU {left.get('CPU', 0):g}, GPU {left.get('GPU', 0):g}"


async def log_stacks_at(who: str, pid: int, where: Any) -> None:
    """Log what `who`, a process that says nothing, is doing, read on its node: `where` is how Ray
    schedules a task there.
    """
    task = ray.remote(dump_stacks).options(num_cpus=0, scheduling_strategy=where)
    reference = task.remote(pid)
    await log_stacks(who, as_future(reference))
    ray.cancel(reference)
