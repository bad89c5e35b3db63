"""CPU seconds of either reader for frames of a minute and of an hour of 720p30 H.264.

    python -m tests.o3rl.media.cpu [frames, 16 by default]

An hour is a ten-second encoding whose packets are written again and again.
"""

import resource
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np
from PIL import Image

from o3rl.media.pictures import resized

PERIOD, RATE = 10, 30


def encoded(path: Path) -> Path:
    """Ten seconds of a noisy picture that moves."""
    noise = np.random.default_rng(0).integers(0, 255, (90, 160, 3), dtype=np.uint8)
    large = np.asarray(Image.fromarray(noise).resize((1680, 1120), Image.Resampling.BICUBIC))
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264", rate=RATE, options={"preset": "veryfast", "crf": "26", "g": "250"}
        )
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        for i in range(PERIOD * RATE):
            x, y = int(100 + 90 * np.sin(i / 40)), int(100 + 90 * np.cos(i / 25))
            pixels = np.ascontiguousarray(large[y : y + 720, x : x + 1280])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def repeated(source: Path, target: Path, times: int) -> Path:
    """The packets of a file, one after the other, `times` times."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = old.streams.video[0]
        written = new.add_stream_from_template(stream)
        packets = [packet for packet in old.demux(stream) if packet.size]
        for turn in range(times):
            shift = int(turn * PERIOD / stream.time_base)
            for each in packets:
                packet = av.Packet(bytes(each))
                packet.pts, packet.dts = each.pts + shift, each.dts + shift
                packet.duration, packet.time_base = each.duration, each.time_base
                packet.is_keyframe, packet.stream = each.is_keyframe, written
                new.mux(packet)
    return target


def spent(name: str, path: str, count: int) -> float:
    """CPU seconds of this process for an index and `count` frames of 420 × 224."""
    reader = import_module(f"o3rl.media.{name}")
    before = resource.getrusage(resource.RUSAGE_SELF)
    known = reader.index(path)
    last = len(known.times_F) - 1
    for _, image in reader.read(path, known, [round(i * last / (count - 1)) for i in range(count)]):
        resized(image, (420, 224))
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(count: int = 16) -> None:
    """A line a file and reader, each in a process of its own."""
    with TemporaryDirectory() as folder:
        short = encoded(Path(folder) / "short.mp4")
        for length, times in (("1 minute", 6), ("1 hour", 360)):
            path = repeated(short, Path(folder) / "long.mp4", times)
            for name in ("pyav_reader", "decord_reader"):
                call = f"spent({name!r}, {str(path)!r}, {count})"
                code = f"from {__spec__.name} import spent; print({call})"
                out = subprocess.run([sys.executable, "-c", code], stdout=-1, stderr=-3, check=True)
                seconds = float(out.stdout)
                sys.stdout.write(f"{length}, {count} frames, {name}: {seconds:.2f} s of CPU\n")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
