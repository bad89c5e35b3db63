import json

import pytest

from o3rl.data.contamination import contamination, names_of, read_benchmark


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("a/b/clip.mp4", {"clip"}),
        ("clip", {"clip"}),
        ("v_QOlSCBRmfWY.mp4", {"v_QOlSCBRmfWY", "QOlSCBRmfWY"}),
        ("x/dQw4w9WgXcQ_10.5_20.mp4", {"dQw4w9WgXcQ_10.5_20", "dQw4w9WgXcQ"}),
        ("v_dQw4w9WgXcQ-7.mkv", {"v_dQw4w9WgXcQ-7", "dQw4w9WgXcQ-7", "dQw4w9WgXcQ"}),
        ("video_3.mp4", {"video_3"}),  # no id before its number
        ("cut.10.5", {"cut.10.5"}),  # no ending
        ("train-video-00004.mp4", {"train-video-00004"}),  # eleven characters, and no YouTube id
    ],
)
def test_names(path, names):
    assert names_of(path) == names


def test_overlap():
    rows = {"a/one.mp4": 3, "b/two.mp4": 1, "v_QOlSCBRmfWY_3_9.mp4": 2}
    found = contamination(["one", "one", "QOlSCBRmfWY", "four"], rows)
    assert (found.ids, found.videos, found.rows) == (3, 2, 5)
    assert found.examples == ["a/one.mp4", "v_QOlSCBRmfWY_3_9.mp4"]


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("a\n 001 \n\nb.mp4\n", ["a", "001", "b.mp4"]),
        (json.dumps(["a", 7]), ["a", "7"]),
        ('{"vid": "a"}\n{"question": "?", "video_path": "x/b.mp4"}\n', ["a", "x/b.mp4"]),
    ],
)
def test_benchmark_files(tmp_path, text, ids):
    (tmp_path / "b").write_text(text)
    assert read_benchmark(tmp_path / "b") == ids


@pytest.mark.parametrize("text", ["", '[{"question": "?"}]', "[true]", '{"vid": ""}', "{cut"])
def test_a_benchmark_without_ids_is_refused(tmp_path, text):
    (tmp_path / "b").write_text(text)
    with pytest.raises(ValueError, match="benchmark file"):
        read_benchmark(tmp_path / "b")


@pytest.mark.parametrize(
    "path",
    [
        "clips/abc_00:00:39:000_00:01:24:700.mp4",
        "abc_00:00:39.mp4",
        "v_abc-00:00:39.5-00:01:24.5.mkv",
        "abc_10_00:00:39:000_00:01:24:700.mp4",
    ],
)
def test_clips_named_by_the_clock_are_their_video(path):
    ids = ["abc", "abc_10"]
    assert contamination(ids, {path: 3}).rows == 3
    assert contamination(["other", "00"], {path: 3}).rows == 0
