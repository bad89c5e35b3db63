"""Real media files, good and bad, written once a session."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import settings

# Time per example says nothing on a shared machine; pytest-timeout bounds the whole test.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")

ONE = 0x10000  # of a fixed-point matrix in MP4
UPRIGHT = (ONE, 0, 0, 0, ONE, 0, 0, 0, 0x40000000)


def write_video(path: Path, times: list[float], *, size: tuple[int, int] = (128, 96)) -> Path:
    """H.264 frames shown at `times`: frame i is grey 10·i mod 250, a red corner at the top left."""
    width, height = size
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for i, time in enumerate(times):
            pixels = np.full((height, width, 3), i * 10 % 250, np.uint8)
            pixels[: height // 3, : width // 3] = (255, 0, 0)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = round(1000 * time), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_rotated(path: Path, upright: Path, matrix: tuple[int, ...]) -> Path:
    """A copy of an MP4 file whose track header shows it turned."""
    data = upright.read_bytes()
    at = data.index(struct.pack(">9i", *UPRIGHT), data.index(b"tkhd"))
    path.write_bytes(data[:at] + struct.pack(">9i", *matrix) + data[at + 36 :])
    return path


def write_sound(path: Path) -> Path:
    """One second of silence in MP4, without a picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        for i in range(16):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = 16000, 1024 * i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="session")
def videos(tmp_path_factory) -> Path:
    """A media root: good.mp4 (4 s at 10 fps), variable.mp4, single.mp4, narrow.mp4, turned*.mp4,
    and under bad/ what must be refused."""
    root = tmp_path_factory.mktemp("videos")
    good = write_video(root / "good.mp4", [i / 10 for i in range(40)])
    write_video(root / "variable.mp4", [0, 0.5, 0.6, 3.0, 3.2])
    write_video(root / "single.mp4", [0])
    write_video(root / "narrow.mp4", [i / 10 for i in range(6)], size=(48, 64))
    write_video(root / "late.mp4", [100 + i / 10 for i in range(6)])
    turned = (0, ONE, 0, -ONE, 0, 0, 96 << 16, 0, 0x40000000)
    write_rotated(root / "turned90.mp4", good, turned)
    upside = (-ONE, 0, 0, 0, -ONE, 0, 128 << 16, 96 << 16, 0x40000000)
    write_rotated(root / "turned180.mp4", good, upside)
    bad = root / "bad"
    bad.mkdir()
    data = good.read_bytes()
    (bad / "empty.mp4").write_bytes(b"")
    (bad / "random.mp4").write_bytes(np.random.default_rng(0).bytes(20000))
    (bad / "truncated.mp4").write_bytes(data[: len(data) // 4])
    (bad / "cut.mp4").write_bytes(data[:-200])
    (bad / "header.mp4").write_bytes(data[:40] + bytes(20000))
    (bad / "folder.mp4").mkdir()
    (bad / "text.mp4").write_text("not a video\n" * 100)
    write_sound(bad / "sound.mp4")
    return root
