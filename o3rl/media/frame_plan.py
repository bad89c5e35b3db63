"""Which frames the model sees: pure arithmetic from a clip's probe and the limits to a plan.

Times are true presentation times in seconds from the clip's first frame. Nothing here reads a file;
`o3rl.media.decoder` probes and executes.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from o3rl.config import FramesConfig
from o3rl.types import FramePlan, KeyFrame

CEILING = 1.05  # largest area of a frame, in budgets
MAX_ASPECT = 200  # Qwen's own limit of width by height
SAME_SECONDS = 0.05  # two frames as near as that count as one: lines tell times to 0.1 s


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What probing a video tells; width and height are in pixels, as shown (rotation applied).

    >>> VideoInfo(2, (0.0, 0.5), 1280, 720, 1.0)
    """

    frames: int
    times: tuple[float, ...]  # presentation time of each frame in seconds; the first is 0
    width: int
    height: int
    duration: float  # seconds, to the end of the last frame

    def __post_init__(self):
        if self.frames < 1 or len(self.times) != self.frames:
            raise ValueError(f"video has {self.frames} frames but {len(self.times)} times")
        if self.width < 1 or self.height < 1:
            raise ValueError(f"video size is {self.width}×{self.height}")
        if any(later < time for time, later in zip(self.times, self.times[1:], strict=False)):
            raise ValueError("frame times go backwards")


def smart_size(width: int, height: int, frames: FramesConfig) -> tuple[int, int]:
    """Qwen's smart_resize: width and height as multiples of the factor, within the budget.

    ValueError if a side is below 1 or one is over 200 times the other.
    """
    if width < 1 or height < 1:
        raise ValueError(f"frame size is {width}×{height}; both sides must be at least 1 pixel")
    if max(width, height) / min(width, height) > MAX_ASPECT:
        raise ValueError(f"frame is {width}×{height}; one side is over {MAX_ASPECT} of the other")
    factor, floor, ceiling = frames.factor, frames.pixels, int(CEILING * frames.pixels)
    wide, high = (round(side / factor) * factor for side in (width, height))
    if wide * high > ceiling:
        shrink = math.sqrt(width * height / ceiling)
        wide, high = (
            max(1, math.floor(side / shrink / factor)) * factor for side in (width, height)
        )
    elif wide * high < floor:
        grow = math.sqrt(floor / (width * height))
        wide, high = (math.ceil(side * grow / factor) * factor for side in (width, height))
    return wide, high


def plan_video(
    info: VideoInfo, frames: FramesConfig, *, key_frames: Sequence[KeyFrame] = ()
) -> FramePlan:
    """Evenly sampled frames, the key frames merged among them by exact time.

    A key frame that has its own image is always shown, at its own time; a sampled frame nearer
    to it than 0.05 s gives way. One without is the video's frame nearest to
    it, at that frame's time, shown once; for one after the end that is the last frame.
    """
    sampled = sample_indices(info, frames)
    own = [key for key in key_frames if key.path is not None]
    chosen: list[tuple[float, int, str | None]] = [
        (info.times[index], index, None)
        for index in sampled
        if not any(abs(key.time - info.times[index]) < SAME_SECONDS for key in own)
    ]
    chosen += [(key.time, -1, key.path) for key in own]
    seen = set(sampled)
    for key in key_frames:
        index = nearest_index(info, key.time)
        if key.path is None and index not in seen:
            seen.add(index)
            chosen.append((info.times[index], index, None))
    chosen.sort(key=lambda frame: frame[0])
    times_F, indices_F, images_F = zip(*chosen, strict=True)
    return FramePlan(
        indices_F=indices_F,
        times_F=times_F,
        size=smart_size(info.width, info.height, frames),
        duration=info.duration,
        images_F=images_F if any(images_F) else (),
    )


def plan_image(width: int, height: int, frames: FramesConfig) -> FramePlan:
    """The plan of a single image: one frame at time 0, duration 0."""
    return FramePlan((0,), (0.0,), smart_size(width, height, frames), 0.0)


def sample_indices(info: VideoInfo, frames: FramesConfig) -> tuple[int, ...]:
    """Even count, first and last frame included; a clip of one frame gives that frame.

    n = floor_even(min(clamp(fps·duration, min, max), total));
    indices are round(linspace(0, total−1, n)).
    """
    wanted = min(max(frames.fps * info.duration, frames.min_frames), frames.max_frames)
    count = int(min(wanted, info.frames)) // 2 * 2
    if count < 2:
        return (0,)
    return tuple(round(i * (info.frames - 1) / (count - 1)) for i in range(count))


def nearest_index(info: VideoInfo, time: float) -> int:
    """The frame whose presentation time is nearest; the earlier of two equally near."""
    after = min(bisect_left(info.times, time), info.frames - 1)
    before = max(after - 1, 0)
    return before if time - info.times[before] <= info.times[after] - time else after
