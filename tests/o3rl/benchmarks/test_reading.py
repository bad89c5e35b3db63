"""Replies as a careful reader takes them."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from o3rl.benchmarks.reading import answer_part, boxes_by_second, read_interval, seconds_of

PIECES = [
    *("<think>", "</think>", "<answer>", "</answer>", "<t>", "</t>", "</t>s", "<box>[", "]</box>"),
    *("<obj>a</obj><box>[1,2,3,4]</box>at<t>5</t>s", "```json", "```", "{", "}", "[", "]", "("),
    *(")", ":", ",", ".", "-", "–", "to", "from", "and", "between", "start", "end", "1", "12"),
    *("12.5", "1:05", "0:00:06", "007", "1e3", '"12"', "'3'", "**", "_", "12s", "１２", "秒", "从"),
    *("到", '"bbox"', '"time"', "xmin", "NaN", "-3", "Infinity", "null", "A", "B.", "(C)", "D:"),
    *("\\boxed{D}", "answer is", "option", "not", "red", "9" * 22, "\n", "\r\n", " "),
]
texts = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("<think>A</think><answer> B </answer><answer>C</answer>", "B"),
        ("<think>A</think> B", "B"),
        ("<think>A</think><answer>B", "B"),
        ("A, I think", "A, I think"),
        ("<think>A</think><answer></answer>", ""),
        ("<think>A</think>", ""),
    ],
)
def test_the_tagged_answer_is_read_first(text, part):
    assert answer_part(text) == part


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("From <t>5.0</t>s to <t>12.0</t>s", (5, 12)),
        ("From <t> 5.0 </t>s to <t> 12.0 </t>s.", (5, 12)),
        ("<think>3 to 9</think><answer>1.5 to 11.8</answer>", (1.5, 11.8)),
        ("From 5s to 12s", (5, 12)),
        ("_5.0_ to _12.0_", (5, 12)),
        ("**5.0** to **12.0**", (5, 12)),
        ("5.7s - 12.9s", (5.7, 12.9)),
        ("4-11", (4, 11)),
        ("62.0 – 70.1 seconds", (62, 70.1)),
        ("从5.0秒到12.0秒", (5, 12)),
        ("１７ to ２３", (17, 23)),
        ("1:05 to 1:20", (65, 80)),
        ("1:05 to 11:05", (65, 665)),
        ("0:00:06 - 0:00:08", (6, 8)),
        ("0:29.5 to 0:38.5", (29.5, 38.5)),
        ("12.5 seconds to 17.8 seconds", (12.5, 17.8)),
        ("74.69 TO 84.93", (74.69, 84.93)),
        ("12.98  to  22.50", (12.98, 22.5)),
        ("from the 24th to the 30th second", (24, 30)),
        ("Between 16.5 and 22.0, first seen in frame 7.", (16.5, 22)),
        ('{"start": 13.4, "end": 18.7}', (13.4, 18.7)),
        ("Start: 6.9\nEnd: 18.3", (6.9, 18.3)),
        ("start 15.6, end 21.6, length 6.0", (15.6, 21.6)),
        ("It starts at 5 and ends at 9.5.", (5, 9.5)),
        ("[16.1, 19.8]", (16.1, 19.8)),
        ("This video is 200.0 seconds long. It happens from 84.0 to 86.0.", (84, 86)),
        ("Of scenes 2 and 3 the second is right: 22.96 to 35.31", (22.96, 35.31)),
        ("From 100.1 to 93.8", (100.1, 93.8)),  # reversed: read, IoU 0
        ("5 to 12, that is 5 to 12", (5, 12)),
        ("-3 to 5", None),
        ("79.22 to 140.47 to 144.47", None),
        ("1 to 3, or 7 to 12", None),
        ("t5 to t12", None),
        ("2 dogs bark for 7 seconds", None),
        ("At 2.0 seconds.", None),
        ("<think>13.6 to 19.1</think><answer></answer>", None),
        ("", None),
        (f"{'9' * 400} to {'9' * 400}", None),
    ],
)
def test_an_interval_is_read_or_left(text, read):
    assert read_interval(text) == read


BOX, OTHER = (1.0, 2.0, 30.0, 40.0), (5.0, 6.0, 7.0, 8.0)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ('{"12": [1, 2, 30, 40]}', {12: [BOX]}),
        ("{12: [1, 2, 30, 40]}", {12: [BOX]}),
        ('{"12.0": [1, 2, 30, 40]}', {12: [BOX]}),
        ('{"012": [1, 2, 30, 40]}', {12: [BOX]}),
        ('{" 12": [1, 2, 30, 40]}', {12: [BOX]}),
        ('{"12s": [1, 2, 30, 40]}', {12: [BOX]}),
        ('{"0:12": [1, 2, 30, 40]}', {12: [BOX]}),
        ('{"12": [[1, 2, 30, 40], ["a", "b", "c", "d"]]}', {12: [BOX]}),
        ('{"12": [[1, 2], [1, 2, 30, 40]]}', {12: [BOX]}),
        ('{"12": "[1, 2, 30, 40]"}', {12: [BOX]}),
        ('{"12": ["1", "2", "30", "40"]}', {12: [BOX]}),
        ('{"12": {"xmin": 1, "ymin": 2, "xmax": 30, "ymax": 40}}', {12: [BOX]}),
        ('[{"12": [1, 2, 30, 40]}, {"12": [5, 6, 7, 8]}]', {12: [OTHER]}),
        ('[["12", [1, 2, 30, 40]], [13, [5, 6, 7, 8]]]', {12: [BOX], 13: [OTHER]}),
        ('[{"bbox_2d": [1, 2, 30, 40], "time": 12}]', {12: [BOX]}),
        ('[{"bbox_2d": [1, 2, 30, 40], "label": "dog"}]', {}),
        ("{'12': [1, 2, 30, 40]}", {12: [BOX]}),
        ('{"12": (1, 2, 30, 40)}', {12: [BOX]}),
        ('{"12": [1, 2, 30, 40],}', {12: [BOX]}),
        ('{"12": [1, 2, 30, 40]}}', {12: [BOX]}),
        ('{"12": [1, 2, 30, 40], "13": [5, 6', {12: [BOX]}),
        ('[dog] {"12": [1, 2, 30, 40]}', {12: [BOX]}),
        ("```JSON\n{\"12\": [1, 2, 30, 40]}\n```", {12: [BOX]}),
        ("12s: 1, 2, 30, 40\n13s: 5, 6, 7, 8", {12: [BOX], 13: [OTHER]}),
        ("<obj>a</obj><box>[1,2,30,40]</box><box>[5,6,7,8]</box>at<t>12</t>s", {12: [BOX, OTHER]}),
        ('<think>{"1": [1,2,3,4]}</think><answer>{"12": [1, 2, 30, 40]}', {12: [BOX]}),
        ('<think>{"12": [1, 2, 30, 40]}</think><answer></answer>', {}),
        ("[1, 2, 30, 40]", {}),
        ('{"12": [1, 2, 30, 40, 0.9]}', {}),
        ('{"12": null, "13": []}', {}),
        ('{"12": [1, 2, 3, NaN]}', {}),
        ("[" * 5000, {}),
    ],
)  # fmt: skip
def test_boxes_are_read_by_second(text, read):
    assert boxes_by_second(text) == read


def test_seconds_are_numbers():
    same = [12, 12.0, "12", "12.0", "012", "12s", "12 s", "0:12", "00:00:12", "12 sec"]
    assert {seconds_of(text) for text in same} == {12.0}
    assert [seconds_of(text) for text in (True, None, "a12", "inf", float("nan"), [])] == [None] * 6


@given(texts)
def test_no_text_raises(text):
    read_interval(text)
    for second, boxes in boxes_by_second(text).items():
        assert second >= 0
        assert all(len(box) == 4 for box in boxes)


@pytest.mark.parametrize("piece", [*PIECES, "9", "1,", "1 to ", "[1,2,3,4],", '"1":[', "1:1 "])
def test_time_is_linear_in_the_text(piece):
    text = piece * (20_000 // max(1, len(piece)))
    began = time.process_time()
    read_interval(text)
    boxes_by_second(text)
    assert time.process_time() - began < 2
