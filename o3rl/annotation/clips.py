"""What an annotator is shown: frames of a video or of its part, and native crops of them."""

import asyncio
import math
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from o3rl.config import FramesConfig
from o3rl.media.decoder import Decoder, MediaError, inside
from o3rl.media.frame_plan import nearest_index, part_of, plan_video
from o3rl.types import Box, FramePlan, Interval

SMALLEST, LARGEST = 56, 1024  # pixels of a crop's sides, as vision models want them


@dataclass(frozen=True, slots=True)
class ShownClip:
    """Frames, uint8 [F, height, width, 3], their times in the whole video, and their size."""

    frames: np.ndarray
    times: tuple[float, ...]
    size: tuple[int, int]  # width, height


class Clips:
    """Reads videos below a root, in as many child processes as there are `readers`."""

    def __init__(self, root: Path, frames: FramesConfig, *, readers: int):
        self._root, self._frames = root, frames
        self._all = [Decoder(frames.decode_seconds, reader=frames.reader) for _ in range(readers)]
        self._idle: asyncio.Queue[Decoder] = asyncio.Queue()
        for decoder in self._all:
            self._idle.put_nowait(decoder)

    async def clip(self, video: str, interval: Interval | None) -> ShownClip:
        """Evenly sampled frames. Raises MediaError, and MediaUnready where no reader starts."""
        return await self._with_decoder(lambda decoder: self._clip(decoder, video, interval))

    async def crops(self, video: str, wanted: Sequence[tuple[float, Box]]) -> list[np.ndarray]:
        """What is in each (time, box), cut from the native frame nearest to the time."""
        return await self._with_decoder(lambda decoder: self._crops(decoder, video, wanted))

    def close(self) -> None:
        """End the child processes."""
        for decoder in self._all:
            decoder.close()

    async def _with_decoder(self, work):
        decoder = await self._idle.get()
        working = asyncio.ensure_future(asyncio.to_thread(decoder.twice, work))
        working.add_done_callback(lambda _: self._idle.put_nowait(decoder))
        return await asyncio.shield(working)  # a thread cannot be stopped

    def _clip(self, decoder: Decoder, video: str, interval: Interval | None) -> ShownClip:
        path = inside(self._root, video)
        info = decoder.probe(path)
        with _plannable(video):
            shown, first = (info, 0) if interval is None else part_of(info, *interval)
            plan = plan_video(shown, self._frames, first=first)
        times = tuple(info.times[index] for index in plan.indices_F)
        return ShownClip(decoder.decode(path, plan), times, plan.size)

    def _crops(
        self, decoder: Decoder, video: str, wanted: Sequence[tuple[float, Box]]
    ) -> list[np.ndarray]:
        path = inside(self._root, video)
        info = decoder.probe(path)
        indices = [nearest_index(info, time) for time, _ in wanted]
        order = sorted(set(indices))
        times = tuple(info.times[index] for index in order)
        plan = FramePlan(tuple(order), times, (info.width, info.height), info.duration)
        frames = dict(zip(order, decoder.decode(path, plan), strict=True))
        return [crop(frames[at], box) for at, (_, box) in zip(indices, wanted, strict=True)]


def crop(frame: np.ndarray, box: Box) -> np.ndarray:
    """The box (shares) cut from a frame, outward to whole pixels, at a size that models take."""
    height, width = frame.shape[:2]
    x1, y1 = math.floor(box[0] * width), math.floor(box[1] * height)
    x2, y2 = math.ceil(box[2] * width), math.ceil(box[3] * height)
    cut = frame[y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)]
    high, wide = cut.shape[:2]
    scale = min(max(1.0, SMALLEST / min(high, wide)), LARGEST / max(high, wide))
    if scale == 1.0:
        return cut
    size = (max(1, round(wide * scale)), max(1, round(high * scale)))
    return np.asarray(Image.fromarray(cut).resize(size, Image.Resampling.BICUBIC))


@contextmanager
def _plannable(video: str):
    """What no plan can be made of is a fault of the file or its interval."""
    try:
        yield
    except MediaError:
        raise
    except ValueError as error:
        raise MediaError(video, "no frames of that size or in that interval") from error
