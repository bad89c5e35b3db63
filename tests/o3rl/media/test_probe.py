"""Probing many files; what damaged files give is in test_damaged.py."""

import threading

import pytest
from PIL import Image

from o3rl.media.probe import Medium, Probe, probe_all


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
