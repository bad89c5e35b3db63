"""Waiting for an actor: no longer than a limit, and an error that names it."""

from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError


def answer_of(reference: Any, seconds: float, *, who: str, what: str) -> Any:
    """What `ray.get` gives; TimeoutError naming `who` if `what` has no answer within `seconds`."""
    try:
        return ray.get(reference, timeout=seconds)
    except GetTimeoutError as error:
        raise TimeoutError(f"{who}: no answer to {what!r} within {seconds:.0f} s") from error
    except RayActorError as error:
        raise TimeoutError(f"{who}: it died and did not come back ({what})") from error
