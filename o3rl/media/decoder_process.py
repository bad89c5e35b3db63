"""The process that reads media: asked over a socket, killed by its parent when it hangs.

It imports PyAV or decord, Pillow and numpy, of this project what stands beside it: not torch.
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
from importlib import import_module
from typing import Any

import numpy as np
from PIL import Image

from o3rl.media.pictures import MAX_PIXELS, Unreadable, open_image, resized

MEMORY_BYTES = 12 * 2**30  # a header that lies must not take the machine down
READERS = {
    "auto": "pyav_reader",  # right on every kind that was tried, and the faster one on each
    "pyav": "pyav_reader",
    "decord": "decord_reader",
}
KEPT = 4  # indices of files that were asked for last

_indices: dict[tuple[str, str, int, int], Any] = {}


def probe_video(request: dict) -> tuple[dict, bytes]:
    """Frames, their times from the first one on in seconds, displayed size, duration."""
    found = _index(request)
    times = np.round(found.times_F, 6).tolist()
    width, height = found.size
    duration = round(found.duration, 6)
    return {"times": times, "width": width, "height": height, "duration": duration}, b""


def doubt_video(request: dict) -> tuple[dict, bytes]:
    """What is doubtful about a video, each with its reason and what was found."""
    doubts = import_module("o3rl.media.doubts").doubts
    return {"doubts": list(doubts(request["path"], _index(request | {"reader": "pyav"})))}, b""


def probe_image(request: dict) -> tuple[dict, bytes]:
    """Width and height, upright."""
    image = open_image(request["path"])
    return {"width": image.width, "height": image.height}, b""


def read_frames(request: dict) -> tuple[dict, bytes]:
    """Frames of a plan: of the video by index, or where that is -1 of an image of their own."""
    path, size = request["path"], request["size"]
    indices = [index for index in request["indices"] if index >= 0]
    of_video: dict[int, np.ndarray] = {}
    if indices:
        for index, image in _reader(request).read(path, _index(request), indices):
            of_video[index] = resized(image, size)
    frames = [
        of_video[index] if index >= 0 else resized(open_image(image), size)
        for index, image in zip(request["indices"], request["images"], strict=True)
    ]
    return {}, np.stack(frames).tobytes()


def read_image(request: dict) -> tuple[dict, bytes]:
    """The picture, resized."""
    return {}, resized(open_image(request["path"]), request["size"]).tobytes()


ANSWERS = {
    "probe video": probe_video,
    "doubt video": doubt_video,
    "probe image": probe_image,
    "read frames": read_frames,
    "read image": read_image,
}


def _reader(request: dict) -> Any:
    return import_module(f"o3rl.media.{READERS[request['reader']]}")


def _index(request: dict) -> Any:
    """The index of a file, made once while the file is the same."""
    facts = os.stat(request["path"])
    key = (request["path"], request["reader"], facts.st_size, facts.st_mtime_ns)
    if key not in _indices:
        found = _reader(request).index(request["path"])
        while len(_indices) >= KEPT:
            del _indices[next(iter(_indices))]
        _indices[key] = found
    return _indices[key]


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


def serve_socket(socket_number: int) -> None:
    """Serve the socket of this number, within limits."""
    # What libraries write to standard error about a bad file is known by its reason; ours goes on.
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import_module("o3rl.media.pyav_reader")  # before it is asked: a file's time is its own
    serve(socket.socket(fileno=socket_number))
