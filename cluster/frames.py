"""The media actor as the loop and the evaluation use it: without blocking, failures as values."""

import asyncio
from dataclasses import dataclass

import numpy as np

from cluster.media import Media
from o3rl.decode import MediaError
from o3rl.flow import Failure, FramePlan, Row


@dataclass(frozen=True, slots=True)
class AsyncMedia:
    """Waits in threads; the handle below bounds every wait."""

    media: Media

    async def prepare(self, row: Row, *, training: bool) -> tuple[FramePlan, str] | Failure:
        """(plan, key of the frames); a Failure with the reason if the media cannot be read.

        The frames are decoded here, so that a file which cannot be read fails before it is sampled.
        """
        try:
            return await asyncio.to_thread(self._prepare, row, training)
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
