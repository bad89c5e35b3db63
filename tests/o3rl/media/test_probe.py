"""Probing many files; what damaged files give is in test_damaged.py."""

import threading

import pytest
from PIL import Image

from o3rl.media.probe import Medium, Probe, probe_all
from tests.o3rl.media.kinds import copied, encode, steady


def test_videos_and_images(videos):
    Image.new("RGB", (64, 48)).save(videos / "probed.png")
    media = [Medium("good.mp4", False), Medium("probed.png", True), Medium("turned90.mp4", False),
             Medium("bad/cut.mp4", False), Medium("bad/sound.mp4", False)]  # fmt: skip
    found = {probe.medium: probe for probe in probe_all(videos, media, readers=2, seconds=30)}
    assert found.keys() == set(media)
    good, image, turned, cut, sound = (found[medium] for medium in media)
    assert (good.reason, good.frames, good.width, good.height) == ("", 40, 128, 96)
    assert good.duration == pytest.approx(4.0, abs=1e-3)
    assert image == Probe(media[1], "", 1, 64, 48, 0.0)
    assert (turned.width, turned.height) == (96, 128)
    assert cut.reason  # its header promises frames that are gone: only decoding tells
    assert sound.reason == "no readable video"


def test_whoever_stops_early_leaves_no_thread(videos):
    before = threading.active_count()
    probes = probe_all(videos, [Medium("good.mp4", False)] * 50, readers=2, seconds=30)
    assert next(probes).reason == ""
    assert threading.active_count() == before + 2
    probes.close()
    assert threading.active_count() == before


def test_nothing_to_probe(videos):
    assert list(probe_all(videos, [])) == []


def test_impossible_probing(videos):
    with pytest.raises(ValueError, match="nowhere is no folder"):
        probe_all(videos / "nowhere", [])
    with pytest.raises(ValueError, match="readers is 0"):
        probe_all(videos, [], readers=0)


def test_what_is_doubtful_about_a_video_is_told(tmp_path):
    options = {"bf": "3", "g": "30", "crf": "18", "preset": "veryfast"}
    plain = encode(tmp_path / "plain.mp4", steady(60), options=options)
    copied(plain, tmp_path / "cut.mp4", start=2.5)
    av1 = {"preset": "10", "crf": "30"}
    encode(tmp_path / "av1.mp4", steady(20), codec="libsvtav1", options=av1)
    media = [Medium(name, False) for name in ("plain.mp4", "cut.mp4", "av1.mp4")]
    found = {p.medium.path: p for p in probe_all(tmp_path, media, readers=1, seconds=30)}
    assert all(not probe.reason for probe in found.values())
    assert found["plain.mp4"].doubts == ()
    assert found["av1.mp4"].doubts == (("decord cannot read it", "no readable video"),)
    [(reason, _)] = found["cut.mp4"].doubts
    assert reason in ("decord would tell other times", "decord would show other frames")
