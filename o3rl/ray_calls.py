"""Calls of Ray actors: what counts as a death, and an answer within a limit.

The one file of `o3rl` that names Ray.
"""

import asyncio
from collections.abc import Awaitable
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

# What Ray raises where an actor's process is no more, or cannot be; only the first one is usual.
DIED = (RayActorError, OutOfMemoryError, ActorUnschedulableError, RuntimeEnvSetupError)


def beside_us() -> NodeAffinitySchedulingStrategy:
    """On the caller's node: not on one that comes and goes with the load.

    A soft affinity is no more than a wish: Ray spills actors that ask for no CPU at all.
    """
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def answer_of(reference: Any, seconds: float, *, who: str, what: str) -> Any:
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


def of(reference: Any) -> Awaitable[Any]:
    """A Ray reference as a future of this event loop."""
    return asyncio.wrap_future(reference.future())


def first_line(error: BaseException) -> str:
    """One line of an error: Ray's carry whole tracebacks."""
    cause = getattr(error, "cause", None) or error
    lines = str(cause).strip().splitlines() or [repr(cause)]
    return f"{type(cause).__name__}: {lines[0]}"
