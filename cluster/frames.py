"""The media actor as the loop and the evaluation use it: without blocking, failures as values."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from cluster.media import Media
from o3rl.decode import MediaError
from o3rl.flow import Failure, FramePlan, Row

AT_ONCE = 64  # rows in the actor's queue; the limit of a call begins when it joins them


class AsyncMedia:
    """Waits in threads of its own, which queued rows cannot take from others."""

    def __init__(self, media: Media):
        self.media = media
        self._threads = ThreadPoolExecutor(AT_ONCE, "media")

    async def prepare(self, row: Row, *, training: bool) -> tuple[FramePlan, str] | Failure:
        """(plan, key of the frames); a Failure with the reason if the media cannot be read.

        The frames are decoded here, so that a file which cannot be read fails before it is sampled.
        Raises MediaLost where it is not the file's fault.
        """
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, self._prepare, row, training)
        except MediaError as error:
            return Failure(-1, -1, f"media: {error.reason}")
        except TimeoutError as error:
            return Failure(-1, -1, str(error))

    async def frames(self, key: str) -> np.ndarray:
        """uint8 [F, height, width, 3]."""
        return await asyncio.to_thread(self.media.frames, key)

    def _prepare(self, row: Row, training: bool) -> tuple[FramePlan, str]:
        plan, key = self.media.prepare(row, training=training)
        self.media.decode(key)
        return plan, key
