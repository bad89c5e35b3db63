"""The process that reads media: asked over a socket, killed by its parent when it hangs.

Run as a script, so it imports decord, Pillow and numpy only: neither this project nor torch.
A message is one line of JSON, then as many raw bytes as its `bytes` says. Each answer has either
`error`, a short reason that can be counted, or the facts asked for. It ends when its socket closes.
"""

import json
import os
import resource
import signal
import socket
import sys
import warnings

os.environ.setdefault("DECORD_EOF_RETRY_MAX", "2048")

import decord
import numpy as np
from PIL import Image, ImageOps

MAX_PIXELS = 64 * 2**20  # of one picture; 8K video has half of it
MAX_FRAMES = 2**21  # of one video: nearly ten hours at 60 fps
MEMORY_BYTES = 12 * 2**30  # a header that lies must not take the machine down
NARROW = 64  # decord pads a row of pixels to 64 bytes: below this width it miscounts channels
FRAMES_AT_ONCE = 4


class Unreadable(ValueError):
    """A file that cannot be used; its text is the reason to count."""


def open_video(path: str) -> tuple[decord.VideoReader, tuple[int, int]]:
    """A reader of three-channel frames, upright as the file's metadata says; width and height."""
    try:
        reader = decord.VideoReader(path, num_threads=1)
        if len(reader) < 1:
            raise Unreadable("no frames")
        if len(reader) > MAX_FRAMES:
            raise Unreadable("too many frames")
        height, width = reader[0].shape[:2]
        if width * height > MAX_PIXELS:
            raise Unreadable("too large")
        if width < NARROW:
            times = -(-NARROW // width)
            reader = decord.VideoReader(
                path, num_threads=1, width=width * times, height=height * times
            )
    except (decord.DECORDError, RuntimeError, IndexError) as error:
        raise Unreadable("no readable video") from error
    return reader, (width, height)


def probe_video(request: dict) -> tuple[dict, bytes]:
    """Frames, their times from the first one on in seconds, displayed size, duration."""
    reader, (width, height) = open_video(request["path"])
    spans = np.asarray(reader.get_frame_timestamp(range(len(reader))), dtype=np.float64)
    if not np.isfinite(spans).all():
        raise Unreadable("no frame times")
    # decord keeps times in single precision: 0.1 ms is what it can tell over a quarter of an hour.
    starts = np.round(np.maximum.accumulate(spans[:, 0] - spans[0, 0]), 4)
    end = round(float(spans[-1, 1] - spans[0, 0]), 4)
    if end <= starts[-1]:  # the last frame has no duration: take the mean one
        rate = reader.get_avg_fps()
        end = float(starts[-1]) + (1 / rate if np.isfinite(rate) and rate > 0 else 1.0)
    return {"times": starts.tolist(), "width": width, "height": height, "duration": end}, b""


def probe_image(request: dict) -> tuple[dict, bytes]:
    """Width and height, upright."""
    image = open_image(request["path"])
    return {"width": image.width, "height": image.height}, b""


def read_frames(request: dict) -> tuple[dict, bytes]:
    """Frames of a plan: of the video by index, or where that is -1 of an image of their own."""
    size = request["size"]
    indices = [index for index in request["indices"] if index >= 0]
    from_video = iter(read_video(request["path"], indices, size) if indices else ())
    frames = [
        next(from_video) if index >= 0 else resized(open_image(path), size)
        for index, path in zip(request["indices"], request["images"], strict=True)
    ]
    return {}, np.stack(frames).tobytes()


def read_image(request: dict) -> tuple[dict, bytes]:
    """The picture, resized."""
    return {}, resized(open_image(request["path"]), request["size"]).tobytes()


def read_video(path: str, indices: list[int], size: list[int]) -> list[np.ndarray]:
    """The frames at `indices` in their order, resized to (width, height)."""
    reader, _ = open_video(path)
    if max(indices) >= len(reader):
        raise Unreadable("fewer frames than planned")
    frames: dict[int, np.ndarray] = {}
    order = sorted(set(indices))
    for start in range(0, len(order), FRAMES_AT_ONCE):
        chunk = order[start : start + FRAMES_AT_ONCE]
        try:
            pixels = reader.get_batch(chunk).asnumpy()
        except (decord.DECORDError, RuntimeError) as error:
            raise Unreadable("frames cannot be decoded") from error
        for index, frame in zip(chunk, pixels, strict=True):
            frames[index] = resized(Image.fromarray(frame), size)
    return [frames[index] for index in indices]


def open_image(path: str) -> Image.Image:
    """The picture in RGB, upright as its metadata says."""
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Unreadable("too large")
            return ImageOps.exif_transpose(image).convert("RGB")
    except Image.DecompressionBombError as error:
        raise Unreadable("too large") from error
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, Unreadable):
            raise
        raise Unreadable("no readable image") from error


def resized(image: Image.Image, size: list[int]) -> np.ndarray:
    return np.asarray(image.resize((size[0], size[1]), Image.Resampling.BICUBIC), dtype=np.uint8)


ANSWERS = {
    "probe video": probe_video,
    "probe image": probe_image,
    "read frames": read_frames,
    "read image": read_image,
}


def serve(connection: socket.socket) -> None:
    """Say that we are up, then answer requests, one a line, until the other side closes."""
    connection.sendall(b"{}\n")
    with connection.makefile("rb") as requests:
        for line in requests:
            request = json.loads(line)
            # Kills this process inside native code too, should its parent be gone by then.
            signal.setitimer(signal.ITIMER_REAL, request["seconds"] + 1)
            try:
                facts, pixels = ANSWERS[request["what"]](request)
            except Unreadable as error:
                facts, pixels = {"error": str(error)}, b""
            except MemoryError:
                facts, pixels = {"error": "out of memory"}, b""
            connection.sendall(json.dumps(facts | {"bytes": len(pixels)}).encode() + b"\n")
            connection.sendall(pixels)
            signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
    # What libraries write to standard error about a bad file is known by its reason; ours goes on.
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    decord.logging.set_level(decord.logging.QUIET)
    serve(socket.socket(fileno=int(sys.argv[1])))
