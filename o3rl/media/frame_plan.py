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
EXACT = 1e-6  # seconds to which times are kept
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
    """Width and height of a video's frame as it goes in: its budget, and up to 5 % above.

    A budget of 0, which no configuration has, leaves the frame its size but for the factor.
    ValueError if a side is below 1 or one is over 200 times the other.
    """
    ceiling = int(CEILING * frames.pixels) or 2 * width * height + frames.factor**2
    return _fitted(width, height, frames.factor, frames.pixels or frames.factor**2, ceiling)


def image_size(width: int, height: int, frames: FramesConfig) -> tuple[int, int]:
    """The same of a single image, which keeps its size between limits of its own."""
    return _fitted(width, height, frames.factor, frames.image_min_pixels, frames.image_max_pixels)


def plan_video(
    info: VideoInfo,
    frames: FramesConfig,
    *,
    key_frames: Sequence[KeyFrame] = (),
    first: int = 0,
) -> FramePlan:
    """Evenly sampled frames, the key frames merged among them by exact time.

    `first` is the index in its file of what `part_of` gave; the plan's are of the file.

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
        indices_F=tuple(index if index < 0 else first + index for index in indices_F),
        times_F=times_F,
        size=smart_size(info.width, info.height, frames),
        duration=info.duration,
        images_F=images_F if any(images_F) else (),
    )


def plan_image(width: int, height: int, frames: FramesConfig) -> FramePlan:
    """The plan of a single image: one frame at time 0, duration 0."""
    return FramePlan((0,), (0.0,), image_size(width, height, frames), 0.0)


def sample_indices(info: VideoInfo, frames: FramesConfig) -> tuple[int, ...]:
    """Even count, first and last frame included; a clip of one frame gives that frame.

    n = floor_even(min(clamp(fps·duration, min, max), total)); indices are
    round(linspace(0, total−1, n)), or where the rate varies the frames nearest to
    linspace(0, time of the last, n), each once.
    """
    wanted = min(max(frames.fps * info.duration, frames.min_frames), frames.max_frames)
    count = int(min(wanted, info.frames)) // 2 * 2
    if count < 2:
        return (0,)
    if not rate_varies(info):
        return tuple(round(i * (info.frames - 1) / (count - 1)) for i in range(count))
    step, chosen = info.times[-1] / (count - 1), [-1]
    for i in range(count):  # forward, and no further than leaves room for those that follow
        index = max(nearest_index(info, i * step), chosen[-1] + 1)
        chosen.append(min(index, info.frames - count + i))
    return tuple(chosen[1:])


def rate_varies(info: VideoInfo) -> bool:
    """Whether a frame is shown half a mean period or more off its place in an even row."""
    period = info.times[-1] / max(info.frames - 1, 1)
    return any(abs(time - i * period) >= period / 2 > 0 for i, time in enumerate(info.times))


def part_of(info: VideoInfo, start: float, end: float) -> tuple[VideoInfo, int]:
    """The frames from `start` to before `end` as a video of its own, and the index of the first.

    ValueError if there are none.
    """
    first, stop = (bisect_left(info.times, time - EXACT) for time in (start, end))
    if first >= stop:
        raise ValueError(f"no frames from {start} s to {end} s of {info.duration} s")
    zero = info.times[first]
    times = tuple(time - zero for time in info.times[first:stop])
    length = min(end, info.duration) - zero
    return VideoInfo(len(times), times, info.width, info.height, length), first


def nearest_index(info: VideoInfo, time: float) -> int:
    """The frame whose presentation time is nearest; the earlier of two equally near."""
    after = min(bisect_left(info.times, time), info.frames - 1)
    before = max(after - 1, 0)
    return before if time - info.times[before] <= info.times[after] - time else after


def _fitted(width: int, height: int, factor: int, floor: int, ceiling: int) -> tuple[int, int]:
    """Qwen's smart_resize: sides as multiples of the factor, the area within the limits."""
    if width < 1 or height < 1:
        raise ValueError(f"frame size is {width}×{height}; both sides must be at least 1 pixel")
    if max(width, height) / min(width, height) > MAX_ASPECT:
        raise ValueError(f"frame is {width}×{height}; one side is over {MAX_ASPECT} of the other")
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
