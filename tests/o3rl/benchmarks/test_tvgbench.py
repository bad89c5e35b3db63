"""TVGBench: the published reader, loader and scorer, and ours."""

import json
import re

import pytest
from golden_values import differences, golden
from hypothesis import given
from test_reading import texts

from o3rl.benchmarks.runner import Scoring
from o3rl.benchmarks.tvgbench import (
    BENCHMARK,
    calls,
    figures,
    official_interval,
    read_rows,
    record,
    score,
    span_of,
)

GOLDEN = golden("tvg_scores")


def test_the_published_figures_and_rows():
    found = score(GOLDEN["rows"], Scoring("official"))
    assert differences(GOLDEN["aggregates"], found.figures["aggregates"]) == []
    assert differences(GOLDEN["aggregates"]["texts_missing_skipped"], found.figures) == []
    names = ("qid", "target", "parsed", "iou", "hit")
    wanted = [{name: row[name] for name in names} for row in GOLDEN["rows"]]
    assert differences(wanted, found.rows) == []


def test_our_figures_keep_what_is_missing_and_read_as_a_reader_does():
    found = score(GOLDEN["rows"], Scoring())
    assert differences(GOLDEN["aggregates"], found.figures["aggregates"]) == []
    assert differences(GOLDEN["aggregates"]["given_missing_kept"], found.figures) == []
    for row, ours in zip(GOLDEN["rows"], found.rows, strict=True):
        assert ours["parsed"] == row["given"], row["note"]
        assert ours["iou"] == pytest.approx(0 if row["video_missing"] else row["iou_given"])
    assert sum(group["rows"] for group in found.figures["by_qsemtype"].values()) == 24


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("1.5 to 2.5", (1.5, 2.5)),
        ("1 to 2, then 3 and 4", (3, 4)),
        ("From 12.5s to 17.8s", None),
        ("From <t>12.5</t>s to <t>17.8</t>s", None),
        ("12.5 - 17.8", None),
        ("12.5 seconds to 17.8", None),
        ("1  to  2", None),
        ("1 TO 2", None),
        ("1:05 to 1:20", (5, 1)),
        ("-9 to 18", (9, 18)),
        ("1 to 2 to 3", (1, 2)),
        ("7. to 19.", (7, 19)),
    ],
)
def test_the_published_reader(text, read):
    assert official_interval(text) == read


@given(texts)
def test_the_published_reader_is_read_literally(text):
    found = re.findall(r"(\d+\.?\d*) (to|and) (\d+\.?\d*)", text)
    assert official_interval(text) == (
        (float(found[-1][0]), float(found[-1][2])) if found else None
    )


def test_hits_are_strictly_above():
    # IoU 0.3 exactly is no hit at 0.3; avg is the mean of the four, mIoU 50 among them
    assert figures([0.3, 0.7]) == {"mIoU": 50.0, "R1@0.3": 50.0, "R1@0.5": 50.0, "R1@0.7": 0.0,
                                   "avg": 37.5, "rows": 2}  # fmt: skip
    assert figures([])["mIoU"] == 0


def test_rows_clips_and_questions(tmp_path):
    row = GOLDEN["rows"][1]["row"]
    file = tmp_path / "tvgbench.json"
    file.write_text(json.dumps([row]))
    assert read_rows(file) == [row]
    assert span_of(row) == (240.2, 379.15)
    assert span_of(GOLDEN["rows"][0]["row"]) is None
    assert "12.54 to 17.83" in calls(row, False)[0].text
    assert "From 12.5s to 17.8s" in calls(row, True)[0].text
    stored = record(row, {}, "video missing")
    assert (stored["video_missing"], score([stored], Scoring()).figures["rows"]) == (True, 1)
    assert score([stored], Scoring("official")).figures["rows"] == 0
    file.write_text(json.dumps([row | {"answer": "5 to 7"}]))
    with pytest.raises(ValueError, match="row 0"):
        read_rows(file)
    with pytest.raises(ValueError, match="output_text is no text"):
        score([{"row": row, "output_text": 5}], Scoring())
    assert BENCHMARK.size == 800
