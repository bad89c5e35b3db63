"""`o3rl data check` and `stats` as a user calls them, on real files, before and after import."""

import html
import json
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from cluster.commands import cli

TEMPORAL = {
    "task": "temporal QA",
    "source": "timerft",
    "question": "When does <b>it</b> jump?",
    "answer": "[0.5, 1.5]",
    "video_path": "good.mp4",
}
SPATIAL = TEMPORAL | {
    "task": "temporal-spatial free-form QA",
    "source": "STR_plm_rdcap",
    "question": "What is red?",
    "answer": "The corner.",
    "key_frames": [{"idx": 3, "time": 1.03, "path": "corner.png"}],
    "key_items": {"3": {"red corner": [[0.0, 0.0, 0.33, 0.33]]}},
    "reasoning_process": "<think>A <obj>red corner</obj><box>[0,0,0.33,0.4]</box>at<t>1.0</t>s."
    "</think><answer>The corner.</answer>",
}
VISUAL = TEMPORAL | {
    "task": "visual QA",
    "source": "gqa",
    "answer": "<obj>sky</obj><box>[0,0,32,24]</box>",
    "image_path": "sky.png",
    "image_size": [65, 48],
}


def write_video(path: Path) -> Path:
    """Two seconds at 10 fps, 128 × 96."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for number in range(20):
            pixels = np.full((96, 128, 3), 10 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """rows.jsonl and its media: 6 rows that pass, of which one has no file and one a broken one."""
    root = tmp_path_factory.mktemp("data")
    for folder in ("timerft", "gqa", "stgr/plm/videos", "stgr/plm/kfs"):
        (root / "media" / folder).mkdir(parents=True)
    good = write_video(root / "media" / "timerft" / "good.mp4")
    shutil.copy(good, root / "media" / "stgr/plm/videos" / "good.mp4")
    (root / "media" / "timerft" / "broken.mp4").write_bytes(good.read_bytes()[:900])
    Image.new("RGB", (64, 48), (90, 160, 250)).save(root / "media" / "gqa" / "sky.png")
    records = [
        TEMPORAL | {"id": "jump"},
        TEMPORAL | {"id": "jump again"},
        TEMPORAL | {"id": "late", "question": "And then?", "answer": "[1, 9]"},
        TEMPORAL | {"id": "broken", "video_path": "broken.mp4"},
        TEMPORAL | {"id": "nowhere [/]", "video_path": "nowhere.mp4"},
        SPATIAL | {"id": "corner"},
        VISUAL | {"id": "sky"},
        VISUAL | {"id": "sky"},
        TEMPORAL | {"id": "from [/red]", "answer": "soon [/red]"},
    ]
    (root / "rows.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n{cut\n")
    (root / "ids.txt").write_text("good\nother\n")
    (root / "bench.json").write_text(json.dumps([{"vid": "v_nowhere.mp4"}, {"video_id": 3}]))
    return root


def checked(data: Path, source: Path, out: Path) -> dict:
    arguments = ["data", "check", str(source), "--media", str(data / "media"), "--out", str(out)]
    named = [f"--benchmark=A={data / 'ids.txt'}", f"--benchmark=B={data / 'bench.json'}"]
    assert cli.main([*arguments, *named, "--readers", "2", "--pictures", "4"]) == 0
    return json.loads((out / "check.json").read_text())


@pytest.fixture(scope="module")
def found(data) -> dict:
    return checked(data, data / "rows.jsonl", data / "check")


def test_rows_are_counted(found):
    assert (found["read"], found["rows"]) == (10, 7)
    assert found["by_task"] == {
        "temporal-spatial free-form QA": 1,
        "temporal QA": 5,
        "visual QA": 1,
    }
    assert found["by_source"] == {"timerft": 5, "STR_plm_rdcap": 1, "gqa": 1}
    assert {reason: each["count"] for reason, each in found["rejected"].items()} == {
        "id was there before": 1,
        "answer has no interval": 1,
        "record is no JSON": 1,
    }


def test_media_are_probed(found):
    media = found["media"]
    # timerft/good, broken, nowhere; plm/good; sky; the key frame's image, which nobody has
    assert (media["files"], media["readable"], media["rows_without"]) == (6, 3, 2)
    bad = {reason: (each["files"], each["rows"]) for reason, each in media["bad"].items()}
    assert bad.pop("missing") == (1, 1)
    assert bad.pop("key frame's image: missing") == (1, 1)
    assert list(bad.values()) == [(1, 1)], bad
    assert {reason: each["count"] for reason, each in media["doubts"].items()} == {
        "interval ends behind the end of the video": 1,
        "image_size is not that of the image": 1,
    }


def test_duplicates_and_benchmarks(found):
    assert {name: each["count"] for name, each in found["duplicates"].items()} == {
        "same media and question": 1,
        "same id": 1,
    }
    assert found["duplicates"]["same media and question"]["example"].startswith("jump again asks")
    overlap = {name: (each["ids"], each["videos"], each["rows"])
               for name, each in found["benchmarks"].items()}  # fmt: skip
    assert overlap == {"A": (2, 2, 4), "B": (2, 1, 1)}


def test_the_page_shows_rows_with_their_boxes(found, data):
    page = (data / "check" / "check.html").read_text()
    assert found["rows"] == 7
    for words in (TEMPORAL["question"], SPATIAL["question"], "id was there before", "red corner"):
        assert html.escape(words, quote=False) in page
    assert "<b>it</b>" not in page
    assert page.count('<article class="card"') == 4
    assert page.count("data:image/jpeg") >= 4
    assert 'class="outline truth-box"' in page
    assert "default-src 'none'" in html.unescape(page)
    assert "http://" not in page


def test_imported_rows_are_checked_alike(found, data, capsys):
    rows = str(data / "rows")
    assert cli.main(["data", "import", str(data / "rows.jsonl"), "--out", rows]) == 0
    assert "soon [/red]" in capsys.readouterr().out  # no markup of rich's
    again = checked(data, data / "rows", data / "check-rows")
    for name in ("read", "rows", "by_task", "rejected", "media", "duplicates", "benchmarks"):
        assert again[name] == found[name], name


def test_stats(data, capsys):
    out = data / "stats.json"
    source = str(data / "rows.jsonl")
    media = str(data / "media")
    assert cli.main(["data", "stats", source, "--media", media, "--out", str(out)]) == 0
    assert "objects a key frame" in capsys.readouterr().out
    stats = json.loads(out.read_text())
    spread = stats["temporal QA"]["interval seconds"]
    # 1, 1, 8, 1, 1
    assert (spread["count"], spread["mean"], spread["median"], spread["most"]) == (5, 2.4, 1, 8)
    assert stats["temporal QA"]["video seconds"]["median"] == pytest.approx(2, abs=0.02)
    assert stats["visual QA"]["box area"]["mean"] == pytest.approx(32 * 24 / (65 * 48), abs=1e-4)
    assert stats["all tasks"]["question words"]["count"] == 7
    assert stats["rows"]["visual QA"] == 1


def test_a_row_that_no_one_can_use_is_exit_code_1(data, tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps(TEMPORAL | {"id": "a", "video_path": "no.mp4"}))
    source, media = str(tmp_path / "a.jsonl"), str(data / "media")
    assert cli.main(["data", "check", source]) == 0
    assert cli.main(["data", "check", source, "--media", media]) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.json"], "no file or data set nowhere.json"),
        (["rows.jsonl", "--media", "nowhere"], "media root nowhere is no folder"),
        (["rows.jsonl", "--benchmark", "ids.txt"], "must read NAME=FILE"),
        (["rows.jsonl", "--benchmark", "A=nowhere"], "no benchmark file nowhere"),
        (["rows.jsonl", "--benchmark", "A=rows.jsonl"], "names no video"),
        (["rows.jsonl", "--sources", "ids.txt"], "map of sources"),
        (["rows.jsonl", "--media", "media", "--readers", "0"], "readers is 0"),
        (["rows.jsonl", "--media", "media", "--seconds", "0"], "--seconds is 0.0"),
    ],
)
def test_what_is_wrong_is_told(data, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(data)
    assert cli.main(["data", "check", *arguments]) == 1
    assert said in capsys.readouterr().err
