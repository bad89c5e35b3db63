"""What is doubtful about a video: where readers would show other frames, or the container errs.

Three frames, the first, the middle and the last, are read by both readers and compared, and the
length that the container tells with that of the frames. Runs in the process that reads media.
"""

from collections.abc import Iterator

import numpy as np
from PIL import Image

from o3rl.media import decord_reader, pyav_reader
from o3rl.media.pictures import Unreadable, resized

SMALL = (64, 64)
OTHER = 6.0  # mean difference of two pictures, of 255, from which they are not the same frame
SLACK = 0.5  # seconds, or a fiftieth of the video

Doubt = tuple[str, str]  # a reason to count, and what was found


def doubts(path: str, known: pyav_reader.Index) -> Iterator[Doubt]:
    """Each doubt about a video whose index is known. Raises Unreadable where PyAV reads nothing."""
    told = pyav_reader.told_duration(path)
    if told is not None and abs(told - known.duration) > max(SLACK, known.duration / 50):
        said = f"it says {told:.1f} s, its frames last {known.duration:.1f} s"
        yield "the container tells another duration", said
    count = len(known.times_F)
    indices = sorted({0, count // 2, count - 1})
    ours = _small(dict(pyav_reader.read(path, known, indices)))
    try:
        other = decord_reader.index(path)
        theirs = _small(
            dict(decord_reader.read(path, other, [min(i, len(other.times_F) - 1) for i in indices]))
        )
    except Unreadable as error:
        yield "decord cannot read it", str(error)
        return
    for index in indices:
        at = min(index, len(other.times_F) - 1)
        time, theirs_at = float(known.times_F[index]), float(other.times_F[at])
        if abs(time - theirs_at) > SLACK / 5:
            yield (
                "decord would tell other times",
                f"{theirs_at:.1f} s for the frame at {time:.1f} s",
            )
            return
        if np.abs(ours[index] - theirs[at]).mean() > OTHER:
            yield "decord would show other frames", f"at {time:.1f} s"
            return


def _small(frames: dict[int, Image.Image]) -> dict[int, np.ndarray]:
    return {index: resized(each, SMALL).astype(np.float32) for index, each in frames.items()}
