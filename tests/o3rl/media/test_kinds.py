"""Kinds of video files: what a reader shows, against PyAV's whole decode in time order."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from o3rl.config import FramesConfig
from o3rl.media.decoder import Decoder, MediaError
from o3rl.media.frame_plan import plan_video
from o3rl.types import FramePlan
from tests.o3rl.conftest import ONE, UPRIGHT, write_rotated
from tests.o3rl.media.kinds import HEIGHT, WIDTH, copied, drawn, encode, number_of, steady
from tests.o3rl.media.kinds import whole_decode as whole

FRAMES = FramesConfig(pixels=16 * 28 * 28)
H264 = {"bf": "3", "g": "30", "crf": "18", "preset": "veryfast"}
SHORT = {**H264, "g": "5"}
MPEG = {"bf": "2", "g": "12", "b": "2M"}
X265 = {"x265-params": "keyint=8:bframes=3:log-level=none", "preset": "ultrafast"}
PAL = {"rate": Fraction(25), "tick": None}
T, T25 = steady(60), steady(60, 25)
INTERLACED = 0x20000000 | 0x00040000  # AV_CODEC_FLAG_INTERLACED_ME and _DCT


@dataclass(frozen=True)
class Kind:
    """How to make a file of a kind; `rate` where its container keeps no presentation times."""

    name: str
    make: Callable[[Path, Path], Path]  # of a plain MP4 with B-frames, a path without its ending
    rate: float = 0.0
    size: tuple[int, int] = (WIDTH, HEIGHT)
    frames: int = 60


def made(ending: str, times=T, **options) -> Callable[[Path, Path], Path]:
    return lambda _, path: encode(path.with_suffix(ending), times, **options)


def cut(ending: str, **options) -> Callable[[Path, Path], Path]:
    return lambda plain, path: copied(plain, path.with_suffix(ending), **options)


def ts_cut(plain: Path, path: Path) -> Path:
    whole_file = encode(path.with_suffix(".whole.ts"), T, options=SHORT)
    del plain
    return copied(whole_file, path.with_suffix(".ts"), skip=3)


def short_gops_cut(plain: Path, path: Path) -> Path:
    del plain
    source = encode(path.with_suffix(".whole.mp4"), T, options=SHORT)
    return copied(source, path.with_suffix(".mp4"), start=2.3)


def with_cover(plain: Path, path: Path) -> Path:
    """A picture beside the video, and first in the file."""
    with av.open(str(plain)) as old, av.open(str(path.with_suffix(".mp4")), "w") as new:
        cover = new.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        stream = old.streams.video[0]
        video = new.add_stream_from_template(stream)
        frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
        new.mux(cover.encode(frame.reformat(format="yuvj420p")))
        new.mux(cover.encode())
        for packet in old.demux(stream):
            if packet.pts is not None:
                packet.stream = video
                new.mux(packet)
    return path.with_suffix(".mp4")


KINDS = [
    Kind("h264-mp4", made(".mp4", options=H264)),
    Kind("h264-mp4-fragmented", made(".mp4", options=H264,
         mux={"movflags": "frag_keyframe+empty_moov"})),
    Kind("h264-mp4-edit-list", cut(".mp4", start=2.5), frames=35),
    Kind("h264-mp4-edit-list-short-gops", short_gops_cut, frames=37),
    Kind("h264-mov-edit-list-late", cut(".mov", start=1.2, shift=3.0)),
    Kind("h264-mkv", made(".mkv", options=H264)),
    Kind("h264-mkv-cut", cut(".mkv", start=4.5), frames=0),
    Kind("h264-mp4-long-sound", made(".mp4", options=H264, sound=12.0)),
    Kind("h264-mp4-open-gops", made(".mp4", options={
         **H264, "x264-params": "open-gop=1:keyint=8:min-keyint=8:bframes=3:b-pyramid=normal"})),
    Kind("h264-ts", made(".ts", options=H264)),
    Kind("h264-ts-short-gops", made(".ts", options=SHORT)),
    Kind("h264-ts-no-key-frame-first", ts_cut, frames=0),
    Kind("h264-ts-intra-refresh", made(".ts", options={
         **H264, "bf": "0", "x264-params": "intra-refresh=1:keyint=20:bframes=0"})),
    Kind("h264-flv", made(".flv", options=H264)),
    Kind("h264-avi", made(".avi", options=H264, tick=None), rate=10),
    Kind("h264-interlaced", made(".mp4", T25, options={**H264, "x264-params": "tff=1"}, **PAL)),
    Kind("h264-10-bit", made(".mp4", options=H264, pixels="yuv420p10le")),
    Kind("h264-444", made(".mp4", options=H264, pixels="yuv444p")),
    Kind("h264-one-frame", made(".mp4", [0.0], options=H264), frames=1),
    Kind("h264-two-frames", made(".mp4", T[:2], options=H264), frames=2),
    Kind("h264-variable-rate", made(".mp4", [i**2 / 100 for i in range(60)], options=H264)),
    Kind("h264-mkv-variable-rate", made(".mkv", [i**2 / 100 for i in range(60)], options=H264)),
    Kind("h264-cover-art", with_cover),
    Kind("h264-wide-pixels", made(".mp4", options=H264, aspect=Fraction(4, 3)), size=(165, 96)),
    Kind("h264-narrow-pixels", made(".mkv", options=H264, aspect=Fraction(1, 2)), size=(124, 192)),
    Kind("hevc-short-gops", made(".mp4", codec="libx265", options=X265)),
    Kind("hevc-mkv-open-gops", made(".mkv", codec="libx265", options={
         **X265, "x265-params": "keyint=8:bframes=3:open-gop=1:log-level=none"})),
    Kind("hevc-ts", made(".ts", codec="libx265", options=X265)),
    Kind("av1", made(".mp4", codec="libsvtav1", options={"preset": "8", "crf": "15", "g": "20"})),
    Kind("vp8", made(".webm", codec="libvpx", options={
         "auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "8", "deadline": "realtime"})),
    Kind("vp9", made(".webm", codec="libvpx-vp9", options={
         "lag-in-frames": "16", "deadline": "realtime", "cpu-used": "8", "g": "20"})),
    Kind("vp9-alpha", made(".webm", codec="libvpx-vp9", pixels="yuva420p", options={
         "deadline": "realtime", "cpu-used": "8"})),
    Kind("mpeg4-mp4", made(".mp4", codec="mpeg4", options=MPEG, tick=None)),
    Kind("mpeg4-avi", made(".avi", codec="mpeg4", options=MPEG, tick=None), rate=10),
    Kind("mpeg4-avi-no-b", made(".avi", codec="mpeg4", options={"g": "12"}, tick=None), rate=10),
    Kind("mpeg2-ps", made(".mpg", T25, codec="mpeg2video", options=MPEG, **PAL), rate=25),
    Kind("mpeg2-vob", made(".vob", T25, codec="mpeg2video", options=MPEG, **PAL), rate=25),
    Kind("mpeg2-ts", made(".ts", T25, codec="mpeg2video", options=MPEG, **PAL)),
    Kind("mpeg2-ts-interlaced", made(".ts", T25, codec="mpeg2video", options=MPEG,
         flags=INTERLACED, **PAL)),
    Kind("mpeg2-bare", made(".m2v", T25, codec="mpeg2video", options=MPEG, **PAL), rate=25),
    Kind("mpeg1-ps", made(".mpg", T25, codec="mpeg1video", options=MPEG, **PAL), rate=25),
    Kind("wmv", made(".wmv", codec="wmv2", options={"b": "2M"}, tick=None)),
    Kind("mjpeg-avi", made(".avi", codec="mjpeg", pixels="yuvj420p", tick=None), rate=10),
    Kind("prores-10-bit", made(".mov", codec="prores_ks", pixels="yuv422p10le")),
    Kind("qtrle-alpha", made(".mov", codec="qtrle", pixels="argb")),
    Kind("gif", made(".gif", codec="gif", pixels="rgb8", tick=Fraction(1, 100))),
]  # fmt: skip


@pytest.fixture(scope="module")
def decoder():
    decoder = Decoder(60)
    yield decoder
    decoder.close()


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """An MP4 with B-frames and two key frames, to copy from."""
    return encode(tmp_path_factory.mktemp("plain") / "plain.mp4", T, options=H264)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_frames_and_times_are_those_of_the_whole_decode(kind, decoder, plain, tmp_path):
    path = kind.make(plain, tmp_path / "video")
    expected = whole(path, rate=kind.rate)
    numbers = [each.number for each in expected]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "of the reference"
    assert len(numbers) == kind.frames or not kind.frames
    info = decoder.probe(path)
    assert (info.width, info.height) == kind.size
    assert info.times == pytest.approx([each.time for each in expected], abs=2e-3)
    period = expected[-1].time / max(len(expected) - 1, 1) or 0.1
    assert 0 < info.duration - info.times[-1] < 3 * period
    plan = plan_video(info, FRAMES)
    every = tuple(range(0, info.frames, 7))
    for indices in (plan.indices_F, every, every[::-1]):  # far apart, near, and one after the other
        shown = decoder.decode(path, FramePlan(indices, indices, (WIDTH, HEIGHT), 1.0))
        for index, pixels in zip(indices, shown, strict=True):
            assert number_of(pixels) == expected[index].number
            np.testing.assert_array_equal(pixels, expected[index].pixels)


MATRICES = {
    "upright": (UPRIGHT, lambda p: p),
    "90": ((0, ONE, 0, -ONE, 0, 0, HEIGHT << 16, 0, 1 << 30), lambda p: np.rot90(p, -1)),
    "180": ((-ONE, 0, 0, 0, -ONE, 0, WIDTH << 16, HEIGHT << 16, 1 << 30), lambda p: p[::-1, ::-1]),
    "270": ((0, -ONE, 0, ONE, 0, 0, 0, WIDTH << 16, 1 << 30), lambda p: np.rot90(p)),
    "mirrored": ((-ONE, 0, 0, 0, ONE, 0, WIDTH << 16, 0, 1 << 30), lambda p: p[:, ::-1]),
    "upside down": ((ONE, 0, 0, 0, -ONE, 0, 0, HEIGHT << 16, 1 << 30), lambda p: p[::-1]),
    "transposed": ((0, ONE, 0, ONE, 0, 0, 0, 0, 1 << 30), lambda p: p.transpose(1, 0, 2)),
    "other diagonal": (
        (0, -ONE, 0, -ONE, 0, 0, HEIGHT << 16, WIDTH << 16, 1 << 30),
        lambda p: p[::-1, ::-1].transpose(1, 0, 2),
    ),
}


@pytest.mark.parametrize("name", MATRICES)
def test_display_matrices_turned_and_mirrored(name, decoder, plain, tmp_path):
    matrix, turned = MATRICES[name]
    path = write_rotated(tmp_path / "turned.mp4", plain, matrix)
    info = decoder.probe(path)
    stored = whole(path)[31].pixels
    expected = turned(stored)
    assert (info.height, info.width) == expected.shape[:2]
    size = (info.width, info.height)
    shown = decoder.decode(path, FramePlan((31,), (3.1,), size, 6.0))[0]
    np.testing.assert_array_equal(shown, expected)


def test_every_decoding_is_the_same_bit_for_bit(plain, tmp_path):
    avi = encode(tmp_path / "b.avi", T, codec="mpeg4", options=MPEG, tick=None)
    for path in (plain, avi):
        seen = set()
        for _ in range(3):
            decoder = Decoder(60)
            plan = plan_video(decoder.probe(path), FRAMES)
            seen |= {decoder.decode(path, plan).tobytes() for _ in range(4)}
            decoder.close()
        assert len(seen) == 1


def test_decord_is_there_for_those_who_ask(plain):
    decoder = Decoder(60, reader="decord")
    info = decoder.probe(plain)
    assert info.times == pytest.approx(T, abs=1e-3)
    shown = decoder.decode(plain, FramePlan((3, 40), (0.3, 4.0), (WIDTH, HEIGHT), 6.0))
    decoder.close()
    assert [number_of(each) for each in shown] == [3, 40]


def test_joined_transport_streams_whose_times_begin_again_are_refused(decoder, tmp_path):
    one = encode(tmp_path / "one.ts", steady(100), options=SHORT)
    path = tmp_path / "two.ts"
    path.write_bytes(one.read_bytes() * 2)
    with pytest.raises(MediaError, match="frame times go back"):
        decoder.probe(path)


def test_a_playlist_reads_no_other_file(decoder, plain, tmp_path):
    for name, text in [
        ("list.m3u8", f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{plain}\n#EXT-X-ENDLIST\n"),
        ("list.txt", f"ffconcat version 1.0\nfile {plain}\n"),
    ]:
        (tmp_path / name).write_text(text)
        with pytest.raises(MediaError, match="no readable video"):
            decoder.probe(tmp_path / name)


def test_sound_with_a_cover_is_no_video(decoder, tmp_path):
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as new:
        cover = new.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        frame = av.VideoFrame.from_ndarray(drawn(1), format="rgb24")
        new.mux(cover.encode(frame.reformat(format="yuvj420p")))
        new.mux(cover.encode())
    with pytest.raises(MediaError, match="no readable video"):
        decoder.probe(path)


def grey(value: float, mode: str) -> Image.Image:
    kind = {"F": np.float32, "I": np.int32, "I;16": np.uint16}[mode]
    values = np.zeros((40, 60))
    values[:, 30:] = value
    return Image.fromarray(values.astype(kind))


PICTURES = {
    "16 bits": (lambda: grey(32768, "I;16"), "png", 128),
    "16 bits, dark": (lambda: grey(257 * 3, "I;16"), "png", 3),
    "32 bits of 8": (lambda: grey(200, "I"), "tiff", 200),
    "32 bits of 16": (lambda: grey(65535, "I"), "tiff", 255),
    "floats to 1": (lambda: grey(0.5, "F"), "tiff", 128),
    "floats to 255": (lambda: grey(100.0, "F"), "tiff", 100),
    "CMYK": (lambda: Image.new("CMYK", (60, 40), (0, 0, 0, 127)), "jpg", 128),
    "palette": (lambda: Image.new("RGB", (60, 40), (102, 102, 102)).convert("P"), "png", 102),
    "clear": (lambda: Image.new("RGBA", (60, 40), (0, 0, 0, 0)), "png", 255),
    "half clear": (lambda: Image.new("RGBA", (60, 40), (0, 0, 0, 128)), "png", 127),
    "grey, clear": (lambda: Image.new("LA", (60, 40), (0, 0)), "png", 255),
    "one bit": (lambda: Image.new("1", (60, 40), 1), "png", 255),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_of_any_depth_in_eight_bits(name, decoder, tmp_path):
    make, ending, expected = PICTURES[name]
    path = tmp_path / f"picture.{ending}"
    make().save(path)
    assert decoder.probe_image(path) == (60, 40)
    pixels = decoder.decode_image(path, FramePlan((0,), (0.0,), (60, 40), 0.0))[0]
    assert pixels[20, 50].tolist() == pytest.approx([expected] * 3, abs=2)


@pytest.mark.parametrize("ending", ["gif", "webp", "png"])
def test_of_a_moving_picture_the_first_is_shown(ending, decoder, tmp_path):
    path = tmp_path / f"moving.{ending}"
    first, *rest = (Image.new("RGB", (60, 40), (value,) * 3) for value in (200, 20, 90))
    first.save(path, save_all=True, append_images=rest, duration=100)
    pixels = decoder.decode_image(path, FramePlan((0,), (0.0,), (60, 40), 0.0))[0]
    assert pixels[20, 30].tolist() == pytest.approx([200] * 3, abs=4)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_upright_as_their_exif_says(orientation, decoder, tmp_path):
    back = {1: lambda p: p, 2: lambda p: p[:, ::-1], 3: lambda p: p[::-1, ::-1],
            4: lambda p: p[::-1], 5: lambda p: p.transpose(1, 0, 2), 6: np.rot90,
            7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
            8: lambda p: np.rot90(p, -1)}  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(back[orientation](drawn(1234)))
    Image.fromarray(stored).save(tmp_path / "turned.png", exif=exif)
    assert decoder.probe_image(tmp_path / "turned.png") == (WIDTH, HEIGHT)
    plan = FramePlan((0,), (0.0,), (WIDTH, HEIGHT), 0.0)
    assert number_of(decoder.decode_image(tmp_path / "turned.png", plan)[0]) == 1234
