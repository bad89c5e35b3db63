"""Writing to disk by several ranks: one that cannot write must not leave the others waiting for it.

every rank: writes.do(…) … ; writes.settle() ── all agree ──► all go on, or all raise OSError
"""

from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from safetensors import SafetensorError

FULL_DISK = ("PytorchStreamWriter", "inline_container")  # in what torch says of a failed write


class Writes:
    """What this rank writes in one go. After a failure it writes no more, and still settles."""

    def __init__(self) -> None:
        self._failed = ""

    def do(self, write: Callable[..., Any], *arguments: Any, **keywords: Any) -> None:
        """Call `write`, unless an earlier one has failed; a disk's failure is kept for `settle`."""
        if self._failed:
            return
        try:
            write(*arguments, **keywords)
        except (OSError, SafetensorError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not _of_disk(error):
                raise
            self._failed = f"rank {rank()}: {error}"

    def settle(self) -> None:
        """All ranks enter. Raises OSError on each of them, naming those that could not write."""
        failed = [self._failed]
        if _initialised():
            failed *= dist.get_world_size()
            dist.all_gather_object(failed, self._failed)
        if any(failed):
            raise OSError("; ".join(each for each in failed if each))


def rank() -> int:
    """This process's; 0 where there are no others."""
    return dist.get_rank() if _initialised() else 0


def _of_disk(error: RuntimeError) -> bool:
    return any(words in str(error) for words in FULL_DISK)


def _initialised() -> bool:
    return dist.is_available() and dist.is_initialized()
