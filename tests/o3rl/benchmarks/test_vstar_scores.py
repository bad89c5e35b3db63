"""V-STaR's readers and measures: the published ones exactly, ours by its rules."""

import json
import math
import re
import time

import pytest
from golden_values import differences, golden
from hypothesis import given
from hypothesis import strategies as st
from test_reading import PIECES, texts

from o3rl.benchmarks.runner import Scoring
from o3rl.benchmarks.vstar_scores import (
    PARSERS,
    arithmetic_mean,
    logarithmic_geometric_mean,
    official_when,
    official_where,
    released_when,
    released_where,
    score,
    spatial,
    temporal,
)

GOLDEN = golden("vstar_scores")
TABLE = golden("vstar_table")
TRUTH = {"timestamp": 12, "xmin": 10, "ymin": 10, "xmax": 20, "ymax": 20}


@pytest.mark.parametrize("by", ["official", "open_o3"])
def test_rows_and_aggregates_are_the_published_ones(by):
    found = score(GOLDEN["rows"], Scoring(by))
    assert differences(GOLDEN["aggregates"][by], found.figures) == []
    for row, measured in zip(GOLDEN["rows"], found.rows, strict=True):
        assert differences(row.get(by, {}), measured, row["note"]) == []


def test_every_row_counts_by_our_rules():
    found = score(GOLDEN["rows"], Scoring()).figures
    assert differences(GOLDEN["aggregates"]["all_rows"], found["all_rows"]) == []
    # A careful reader reads no less than the published parser.
    for chain in ("chain1", "chain2"):
        for name in ("m_tIoU", "m_vIoU"):
            assert found["overall"][chain][name] >= found["all_rows"][chain][name]


@pytest.mark.parametrize("by", ["official", "open_o3"])
@pytest.mark.parametrize("edge", GOLDEN["edges"], ids=lambda edge: edge["name"])
def test_edges(edge, by):
    found = score(edge["rows"], Scoring(by))  # never raises, as the published script may
    assert differences(edge[by].get("aggregates", {}), found.figures["overall"]) == []
    for row, measured in zip(edge["rows"], found.rows, strict=True):
        assert differences(row.get(by, {}), measured) == []


def test_seconds_of_a_file_are_compared_as_numbers_by_us_alone():
    [edge] = [edge for edge in GOLDEN["edges"] if edge["name"] == "timestamps as floats"]
    assert score(edge["rows"], Scoring("official")).rows[0]["spatial_mIoU"] == 0
    assert score(edge["rows"], Scoring()).rows[0]["spatial_mIoU"] == 1


@pytest.mark.parametrize("row", TABLE["rows"], ids=lambda row: row[0])
def test_the_published_table_follows_from_the_formulas(row):
    _, accuracy, when_1, when_2, where_1, where_2, mean, logarithmic = row
    chains = [(when_1, where_1), (when_2, where_2)]
    for formula, published in (
        (arithmetic_mean, mean),
        (logarithmic_geometric_mean, logarithmic),
    ):
        found = [formula(accuracy / 100, when / 100, where / 100) for when, where in chains]
        assert abs(50 * sum(found) - published) <= 0.07


def test_means_by_hand():
    assert arithmetic_mean(0.5, 0.2, 0.8) == pytest.approx(0.5)
    # −(ln 0.5 + ln 0.8 + ln 0.2) / 3 = −ln(0.08) / 3
    assert logarithmic_geometric_mean(0.5, 0.2, 0.8) == pytest.approx(-math.log(0.08) / 3)
    assert logarithmic_geometric_mean(1.0, 0.2, 0.8) == math.inf
    assert logarithmic_geometric_mean(0, 0, 0) == 0


@pytest.mark.parametrize(
    ("text", "official", "released"),
    [
        ("From <t>5.0</t>s to <t>12.0</t>s", [5, 12], [5, 12]),
        ("From 5s to 12s", [], []),
        ("t5 to t12", [], []),
        ("从5.0秒到12.0秒", [], []),
        ("_5.0_ to _12.0_", [], []),
        ("5.7s - 12.9s", [5, 12], [5, 12]),
        ("-3 to 5", [3, 5], [3, 5]),
        ("1, 2 and 3", [], []),
        ("<think>7</think><answer>1 to 2</answer>", [], [1, 2]),
        ("1:05 to 1:20", [], [65, 80]),
        ("1:05 to 11:05", [], []),
        ("12 to 5", [12, 5], [12, 5]),
        ("１７ to ２３", [17, 23], [17, 23]),
        (f"{'9' * 5000}:1 to 2", [], []),
    ],
)
def test_the_published_readers_of_when(text, official, released):
    assert official_when(text) == official
    assert released_when(text) == released


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ('```json\n{"1": [1]}\n```\n```json\n{"2": [2]}\n```', {"1": [1]}),
        ('```JSON\n{"1": [1]}\n```', {"1": [1]}),  # no fence to it, but the widest {…}
        ('[note] {"1": [1]}', None),
        ("{'1': [1]}", {"1": [1]}),
        ('[{"1": [1]}, {"1": [2]}]', {"1": [2]}),
        ('[["1", [1]], [2, [3]]]', {"1": [1], "2": [3]}),
        ("[]", {}),
        ('{"1": [1, 2], "2": [3', [1, 2]),  # cut off: only the inner bracket closes
        ('[["1", [1]], ["2", [2]]', [["1", [1]], ["2", [2]]]),  # mended: a list stays one
        ("[1, 2, 3, 4]", [1, 2, 3, 4]),
        ("no boxes", None),
        ("]}{[", None),
        ("[" * 3000 + "]", None),
    ],
)
def test_the_published_reader_of_where(text, read):
    assert official_where(text) == read


@pytest.mark.parametrize(
    ("said", "viou"),
    [
        ([10, 10, 20, 20], 1),
        ([[0, 0, 1, 1], [10, 10, 20, 20]], 1),  # the best of several
        ([[10, 10, 20, 20], ["a", "b", "c", "d"]], 0),  # words in a box zero the second
        ([[10, 10, 20, 20], [1, 2]], 1),
        ([20, 20, 10, 10], 0),
        ([10, 10, 20, 15], 0.5),
        ("[10, 10, 20, 20]", 0),
        ({"xmin": 10}, 0),
        ([10, 10, 20, math.nan], 0),
        ([10, 10, 20, 10**400], 0),
        ([], 0),
        (None, 0),
        (5, 0),
    ],
)
def test_the_published_iou_of_a_second(said, viou):
    assert spatial([TRUTH], {"12": said}, by_number=False)[0] == viou
    assert spatial([TRUTH], {"12s": said, "12.0": said}, by_number=False)[0] == 0


def test_measures_by_hand():
    # IoU 0.5 and 0 (missing): mean 0.25; half of the boxes reach 0.1, 0.3 and 0.5
    later = TRUTH | {"timestamp": 13}
    fits = spatial([TRUTH, later], {12.0: [(10, 10, 20, 15)], 99.0: [(1, 1, 2, 2)]}, by_number=True)
    assert fits == (0.25, (0.5, 0.5, 0.5, 0.0, 0.0))
    assert spatial([], {}, by_number=True) == (0.0, (0.0,) * 5)
    assert temporal([10, 20], [10, 15]) == 0.5
    assert temporal([10, 20], [15, 10]) == temporal([10, 20], []) == temporal([3, 3], [3, 3]) == 0


def row(**changes):
    texts = {"answer_vqa": "a ball", "answer_temporal_pre": "1:05 to 1:20"}
    about = GOLDEN["rows"][0]["row"] | {"bboxes": [TRUTH], "timestamps": [65, 80], "domain": "Cats"}
    return {"row": about, "texts": texts, "judge_score": 2} | changes


@pytest.mark.parametrize(
    ("stored", "right"), [(0, 0), (1, 0), (2, 1), (3, 1), (4, 0), (-1, 0), (None, 0), (2.0, 1)]
)
def test_a_judge_score_is_right_from_2_to_3(stored, right):
    assert score([row(judge_score=stored)], Scoring()).figures["overall"]["accuracy"] == right


def test_the_published_accuracy_lets_4_and_10_pass():
    assert score([row(judge_score=10)], Scoring("official")).figures["overall"]["accuracy"] == 1


def test_a_row_without_answers_stays_in_every_denominator_of_ours():
    missing = row(texts={}, judge_score=None, reason="video missing")
    ours = score([row(), missing], Scoring()).figures
    assert ours["overall"]["accuracy"] == ours["overall"]["chain1"]["m_tIoU"] == 0.5
    assert ours["domain"]["Cats"]["accuracy"] == 0.5
    official = score([row(), missing], Scoring("official")).figures
    assert official["overall"]["accuracy"] == 0.5
    assert official["domain"]["Cats"]["accuracy"] == 1.0  # of a part: over what was answered
    assert official["overall"]["chain1"]["m_tIoU"] == 0.0  # m:ss is not read


@pytest.mark.parametrize(
    ("frames", "group"), [(5999, "Short"), (6000, "Medium"), (17999, "Medium"), (18000, "Long")]
)
def test_borders_of_lengths_are_on_the_rounded_length(frames, group):
    stored = row()
    stored["row"] = stored["row"] | {"fps": 100, "frame_count": frames}
    assert list(score([stored], Scoring()).figures["duration"]) == [group]


def test_boxes_are_converted_from_what_the_model_saw():
    stored = row(input_size=[960, 540])
    stored["row"] = stored["row"] | {"width": 1920, "height": 1080}
    stored["texts"] = {"answer_spatial_pre": '{"12": [5, 5, 10, 10]}'}
    assert score([stored], Scoring("ours", "qwen2_5_vl")).rows[0]["spatial_mIoU"] == 1
    assert score([stored], Scoring()).rows[0]["spatial_mIoU"] == 0
    del stored["input_size"]
    with pytest.raises(ValueError, match="input_size"):
        score([stored], Scoring("ours", "qwen2_5_vl"))


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ({"row": {}}, "reply 0: vid, question"),
        ({"row": GOLDEN["rows"][0]["row"] | {"timestamps": ["1", 2]}}, "must be numbers"),
        ({"row": GOLDEN["rows"][0]["row"] | {"fps": 0}}, "fps is 0"),
        ({"texts": {"answer_vqa": 5}}, "text by text"),
    ],
)
def test_bad_rows_are_told(broken, words):
    with pytest.raises(ValueError, match=words):
        score([row() | broken], Scoring())


# The published expressions as they are written down, slow and obvious.


def slow_when(text):
    found = re.findall(r"\b\d+(?:\.\d+)?\b", text)
    return [float(found[0]), float(found[1])] if len(found) == 2 else []


def slow_released_when(text):
    tagged = re.search(r"<answer>(.*?)</answer>", text, re.DOTALL)
    text = tagged[1].strip() if tagged else text
    for clock in re.findall(r"(\d+:\d+)", text):
        minutes, seconds = map(int, clock.split(":"))
        text = text.replace(clock, f"<t>{60 * minutes + seconds}</t>s")
    return slow_when(text)


def slow_where(text):
    found = re.search(r"```json\s*\n(\[.*?\]|\{.*?\})\s*\n```", text, re.DOTALL)
    found = found or re.search(r"(\[[\s\S]*\]|\{[\s\S]*\})", text)
    if not found:
        return None
    written = found[1].strip().replace("'", '"')
    try:
        value = json.loads(written)
        if isinstance(value, list) and all(isinstance(each, dict) for each in value):
            merged = {}
            for each in value:
                merged.update(each)
            value = merged
        return {str(p[0]): p[1] for p in value} if isinstance(value, list) else dict(value)
    except Exception:
        for one, two in ("[]", "{}"):
            lacking = written.count(one) - written.count(two)
            written = one * -lacking + written + two * lacking
    try:
        return json.loads(written)
    except Exception:
        return None


json_texts = st.lists(
    st.sampled_from(
        ["```json", "```", "\n", " ", "\r", '{"12": [1, 2, 3, 4]', "{", "}", "[", "]", ",", ": ",
         '"3"', "'4'", "5", "[1,2,3,4]", '["1", [1]]', "null", "x", "<answer>", "</answer>"]
    ),
    max_size=14,
).map("".join)  # fmt: skip


def same(one, two):
    return json.dumps(one) == json.dumps(two)  # NaN is itself here


@given(texts)
def test_published_readers_of_when_are_read_literally(text):
    assert same(official_when(text), slow_when(text))
    assert same(released_when(text), slow_released_when(text))


@given(st.one_of(json_texts, texts))
def test_the_published_reader_of_where_is_read_literally(text):
    assert same(official_where(text), slow_where(text))


@pytest.mark.parametrize("piece", [*PIECES, "9", "```json\n[", "1:1 ", "[{"])
def test_published_readers_take_linear_time(piece):
    text = piece * (20_000 // max(1, len(piece)))
    began = time.process_time()
    for parser in PARSERS.values():
        parser.what(text), parser.when(text), parser.where(text)
    released_where(text)
    assert time.process_time() - began < 3
