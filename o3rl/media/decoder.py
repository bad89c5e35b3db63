"""Probing and decoding, in a child process: a file that hangs or kills it costs one row.

`Decoder` is for one thread at a time; `reader` shares several among many. The child holds
PyAV and Pillow (`o3rl.media.decoder_process`); nothing of it is imported here.

Two kinds of failure: `MediaError` is of a file, and the next try ends the same way; `TimeoutError`
is of whoever reads (no process, no room, no answer in time), and a later try may go well.
"""

import errno
import json
import logging
import os
import socket
import stat
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from o3rl.media.frame_plan import VideoInfo
from o3rl.types import FramePlan

log = logging.getLogger(__name__)
T = TypeVar("T")

START_SECONDS = 120.0
DOUBT_SECONDS = 20.0  # for both readers: decord hangs on files that PyAV reads
# The project stands last on the path, where its modules hide no others.
CHILD = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from o3rl.media.decoder_process import serve_socket; serve_socket(int(sys.argv[2]))"
)
PROJECT = Path(__file__).parents[2]
# Reasons for which no process is asked.
NOT_THERE = {"missing", "not a file", "empty", "outside the media root", "path cannot be resolved"}
GONE = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG, errno.EPERM)


class MediaError(ValueError):
    """A file that cannot be used. `reason` is short and free of values, so it can be counted."""

    def __init__(self, path: str | Path, reason: str):
        super().__init__(f"{path}: {reason}")
        self.path = str(path)
        self.reason = reason

    def __reduce__(self):
        return MediaError, (self.path, self.reason)


class MediaLost(RuntimeError):
    """Who reads the media does not answer: no fault of a file, and no row's to be set aside for."""


class MediaUnready(TimeoutError):
    """Who reads has no process, no room or no storage now: a time-out, no fault of a file."""


def inside(root: Path, relative: str) -> Path:
    """The file at `relative` below `root`, under whichever Unicode form its name has there.

    Links are the owner's own and may lead anywhere. Raises MediaError if the text of the path is
    absolute or climbs out by `..`.
    """
    tidy = os.path.normpath(relative)
    if os.path.isabs(tidy) or tidy.split(os.sep)[0] == "..":
        raise MediaError(relative, "outside the media root")
    path = root / tidy
    try:
        if not path.exists():
            path = root
            for part in Path(tidy).parts:
                forms = (path / unicodedata.normalize(form, part) for form in ("NFC", "NFD"))
                path = next((each for each in forms if each.exists()), path / part)
        return path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a link to itself, a null byte
        raise MediaError(relative, "path cannot be resolved") from error


def check_file(path: Path) -> os.stat_result:
    """What the system knows of a file with content.

    Raises MediaError, and MediaUnready where it is the storage that fails.
    """
    try:
        facts = path.stat()
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno not in GONE:
            raise MediaUnready(f"{path}: {error}") from error
        raise MediaError(path, "missing") from error
    if not stat.S_ISREG(facts.st_mode):
        raise MediaError(path, "not a file")
    if facts.st_size == 0:
        raise MediaError(path, "empty")
    return facts


class Decoder:
    """A child process that reads one file at a time, each within `seconds`.

    A file that takes longer, or kills the child, raises MediaError; the next one gets a new child.
    One that does not start raises MediaUnready. `reader` is `frames.reader`.
    """

    def __init__(self, seconds: float, *, reader: str = "auto"):
        if not seconds > 0:
            raise ValueError(f"seconds is {seconds!r}; it must be more than 0")
        self._seconds = seconds
        self._reader = reader
        self._child: subprocess.Popen | None = None
        self._socket: socket.socket | None = None

    def probe(self, path: Path) -> VideoInfo:
        """Frames, times, size and duration of a video. Raises MediaError."""
        facts, _ = self._ask(path, {"what": "probe video"}, size=0)
        times = tuple(facts["times"])
        return VideoInfo(len(times), times, facts["width"], facts["height"], facts["duration"])

    def doubts(self, path: Path) -> tuple[tuple[str, str], ...]:
        """What is doubtful about a video: reasons to count, and what was found. Raises MediaError.

        Both readers look at three frames; a file that the other one hangs on is a doubt too.
        """
        before, self._seconds = self._seconds, min(self._seconds, DOUBT_SECONDS)
        try:
            facts, _ = self._ask(path, {"what": "doubt video"}, size=0)
        except MediaError as error:
            return ((f"comparing readers: {error.reason}", f"within {self._seconds:g} s"),)
        finally:
            self._seconds = before
        return tuple((reason, said) for reason, said in facts["doubts"])

    def probe_image(self, path: Path) -> tuple[int, int]:
        """Width and height of an image. Raises MediaError."""
        facts, _ = self._ask(path, {"what": "probe image"}, size=0)
        return facts["width"], facts["height"]

    def decode(
        self, path: Path, plan: FramePlan, *, images: Sequence[Path | None] = ()
    ) -> np.ndarray:
        """The plan's frames of a video, uint8 [F, height, width, 3]. Raises MediaError.

        `images` are the files of the frames whose index is -1, None for the others.
        """
        count = len(plan.indices_F)
        images = images or (None,) * count
        if len(images) != count:
            raise ValueError(f"plan has {count} frames, but there are {len(images)} images")
        for index, image in zip(plan.indices_F, images, strict=True):
            if index < 0:
                if image is None:
                    raise ValueError(f"plan of {path} has a frame without index and image")
                check_file(image)
        request = {
            "what": "read frames",
            "indices": plan.indices_F,
            "images": [image and str(image) for image in images],
            "size": plan.size,
        }
        return self._pixels(path, request, plan)

    def decode_image(self, path: Path, plan: FramePlan) -> np.ndarray:
        """A single image, uint8 [1, height, width, 3]. Raises MediaError."""
        return self._pixels(path, {"what": "read image", "size": plan.size}, plan)

    def twice(self, ask: Callable[["Decoder"], T]) -> T:
        """What `ask` gets from this; a file that cannot be read is tried again in a fresh child."""
        try:
            return ask(self)
        except MediaError as error:
            if error.reason in NOT_THERE:
                raise
            log.info("%s; a fresh reader tries once more", error)
        self.close()
        return ask(self)

    def close(self) -> None:
        """End the child, if there is one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._child is not None:
            self._child.kill()
            self._child.wait(timeout=10)
            self._child = None

    def _pixels(self, path: Path, request: dict, plan: FramePlan) -> np.ndarray:
        width, height = plan.size
        shape = (len(plan.indices_F), height, width, 3)
        _, pixels = self._ask(path, request, size=shape[0] * height * width * 3)
        return np.frombuffer(pixels, dtype=np.uint8).reshape(shape)

    def _ask(self, path: Path, request: dict, *, size: int) -> tuple[dict, bytearray]:
        """Facts and `size` bytes for a request on `path`."""
        check_file(path)
        connection = self._connection()
        told = {"path": str(path), "reader": self._reader, "seconds": self._seconds}
        deadline = time.monotonic() + self._seconds
        try:
            connection.settimeout(self._seconds)
            connection.sendall(json.dumps(request | told).encode() + b"\n")
            facts, rest = _read_line(connection, deadline)
            pixels = _read_bytes(connection, rest, facts["bytes"], deadline)
        except TimeoutError as error:
            self.close()
            raise MediaError(path, "reading timed out") from error
        except (EOFError, OSError) as error:
            self.close()
            raise MediaError(path, "reader died") from error
        if "error" in facts:
            raise MediaError(path, facts["error"])
        assert len(pixels) == size, (len(pixels), size)
        return facts, pixels

    def _connection(self) -> socket.socket:
        if self._socket is not None and self._child is not None and self._child.poll() is None:
            return self._socket
        self.close()
        try:
            ours, theirs = socket.socketpair()
            with theirs:
                # -P: the working directory stays off the path.
                self._child = subprocess.Popen(
                    [sys.executable, "-P", "-c", CHILD, str(PROJECT), str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
            self._socket = ours
            _read_line(ours, time.monotonic() + START_SECONDS)
        except (TimeoutError, EOFError, OSError) as error:
            status = self._child.poll() if self._child else None
            self.close()
            raise MediaUnready(
                f"the process that reads media did not start within {START_SECONDS:.0f} s "
                f"({error}; exit status {status}); try: {sys.executable} -c 'import av, PIL'"
            ) from error
        return ours


def _receive(connection: socket.socket, count: int, deadline: float) -> bytes:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the process that reads media is silent")
    connection.settimeout(left)
    data = connection.recv(count)
    if not data:
        raise EOFError("the process that reads media is gone")
    return data


def _read_line(connection: socket.socket, deadline: float) -> tuple[dict, bytes]:
    """The JSON of one line, and what came after it."""
    buffer = bytearray()
    while b"\n" not in buffer:
        buffer += _receive(connection, 65536, deadline)
    line, _, rest = bytes(buffer).partition(b"\n")
    return json.loads(line), rest


def _read_bytes(connection: socket.socket, start: bytes, count: int, deadline: float) -> bytearray:
    data = bytearray(start)
    while len(data) < count:
        data += _receive(connection, min(count - len(data), 2**20), deadline)
    return data
