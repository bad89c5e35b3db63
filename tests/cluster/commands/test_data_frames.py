"""`o3rl data frames`: what the model will see of a file, as a user calls it."""

import json

import numpy as np
import pytest
from PIL import Image

from cluster.commands import cli
from tests.o3rl.media.kinds import copied, encode, number_of, steady

H264 = {"bf": "3", "g": "30", "crf": "18", "preset": "veryfast"}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Six seconds at 10 fps, and what stream copy cut of it from 2.5 s on."""
    folder = tmp_path_factory.mktemp("clip")
    whole = encode(folder / "whole.mp4", steady(60), options=H264)
    return copied(whole, folder / "cut.mp4", start=2.5)


def test_a_video_as_json_and_files(clip, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(["data", "frames", str(clip), "--out", str(out), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["duration"] == pytest.approx(3.5)
    # 6 of 35 (2 · 3.5 s = 7, even): round(i·34/5)
    indices = [0, 7, 14, 20, 27, 34]
    assert [frame["time"] for frame in shown["frames"]] == pytest.approx([i / 10 for i in indices])
    numbers = [number_of(np.asarray(Image.open(frame["file"]))) for frame in shown["frames"]]
    assert numbers == [25 + i for i in indices]
    assert Image.open(out / "sheet.png").width == 4 * Image.open(shown["frames"][0]["file"]).width


def test_an_image_in_a_table(tmp_path, capsys):
    Image.new("RGB", (640, 480)).save(tmp_path / "still.png")
    assert cli.main(["data", "frames", str(tmp_path / "still.png")]) == 0
    assert "1 frames of 504 × 364, 234 tokens" in capsys.readouterr().out


def test_its_configuration_decides(clip, tmp_path, capsys):
    config = tmp_path / "few.yaml"
    config.write_text("frames: {max_frames: 4}\n")
    assert cli.main(["data", "frames", str(clip), "--config", str(config), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [frame["file"] for frame in shown["frames"]] == [None] * 4


def test_what_cannot_be_read_is_told_in_a_line(tmp_path, capsys):
    (tmp_path / "text.mp4").write_text("nothing\n" * 99)
    for name, reason in (("text.mp4", "no readable video"), ("none.mp4", "missing")):
        assert cli.main(["data", "frames", str(tmp_path / name)]) == 1
        assert reason in capsys.readouterr().err
