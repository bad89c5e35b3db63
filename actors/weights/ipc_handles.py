"""Handles of GPU memory that another process may map, as plain values: they cross by msgpack.

vLLM would have the whole handle pickled, and unpickled in a worker.
"""

from typing import Any

import torch

# Places in what torch's `reduce_tensor` gives for `rebuild_cuda_tensor` that hold objects, always
# these for a buffer of bytes; all else is numbers and bytes.
_OBJECTS = {0: torch.Tensor, 4: torch.TypedStorage, 5: torch.uint8}


def plain(handle: tuple[Any, ...]) -> list[Any]:
    """A buffer's handle without its objects. Raises TypeError if they are others."""
    for place, expected in _OBJECTS.items():
        if handle[place] is not expected:
            raise TypeError(f"the buffer's handle holds {handle[place]} at {place}, not {expected}")
    values = [None if place in _OBJECTS else value for place, value in enumerate(handle)]
    return [list(value) if isinstance(value, tuple) else value for value in values]


def rebuilt(values: list[Any]) -> tuple[Any, ...]:
    """What `plain` was given."""
    given = [tuple(value) if isinstance(value, list) else value for value in values]
    return tuple(_OBJECTS.get(place, value) for place, value in enumerate(given))
