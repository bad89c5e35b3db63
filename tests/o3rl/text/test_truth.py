"""Truths of each task, and the reason by which each damaged record is counted."""

import pytest

from o3rl.text.truth import TruthError, parse_truth
from o3rl.types import Task, Truth

FRAMES = [{"idx": 1, "time": 12.5, "path": "b.jpg"}, {"idx": 0, "time": 5, "path": "a.jpg"}]
ITEMS = {"0": {"dog": [[0.1, 0.1, 0.3, 0.3]]}, "1": {"cat": [[0.5, 0.5, 1.005, 1]]}}
BOX = "<obj>dog</obj><box>[20,10,100,50]</box>"


def spatial(frames=FRAMES, items=ITEMS) -> Truth:
    return parse_truth(Task.TEMPORAL_SPATIAL, "a dog", key_frames=frames, key_items=items)


def test_each_task():
    assert parse_truth("General video QA MCQ", " B\n") == Truth(" B\n", letter="B")
    assert parse_truth("General video QA Free-form", "a dog") == Truth("a dog")
    assert parse_truth("temporal QA", "[2.0, 6]").interval == (2.0, 6.0)
    both = parse_truth("temporal QA (MCQ)", "C\n[2.0, 8.5]")
    assert (both.letter, both.interval) == ("C", (2.0, 8.5))
    # 20/200, 10/100, 100/200, 50/100
    assert parse_truth("visual QA", BOX, image_size=[200, 100]).box == (0.1, 0.1, 0.5, 0.5)


def test_key_frames_are_sorted_and_boxes_clipped():
    first, second = spatial().key_frames
    assert (first.time, first.path, first.objects) == (
        5.0,
        "a.jpg",
        (("dog", ((0.1, 0.1, 0.3, 0.3),)),),
    )
    assert (second.time, second.objects) == (12.5, (("cat", ((0.5, 0.5, 1.0, 1.0),)),))


@pytest.mark.parametrize(
    ("task", "answer", "reason"),
    [
        ("no task", "A", "unknown task"),
        (Task.MCQ, 5, "answer is no option letter"),
        (Task.MCQ, True, "answer is no text"),
        (Task.MCQ, "  ", "answer is empty"),
        (Task.MCQ, "yes", "answer is no option letter"),
        (Task.MCQ, "7", "answer is no option letter"),
        (Task.TEMPORAL, "between noon and six", "answer has no interval"),
        (Task.TEMPORAL, "[" * 100_000, "answer has no interval"),
        (Task.TEMPORAL, "[2]", "answer has no interval"),
        (Task.TEMPORAL, "[2, null]", "interval is no pair of numbers"),
        (Task.TEMPORAL, "[2, true]", "interval is no pair of numbers"),
        (Task.TEMPORAL, "[2, NaN]", "interval is no pair of numbers"),
        (Task.TEMPORAL, "[2, 1e999]", "interval is no pair of numbers"),
        (Task.TEMPORAL, f"[2, 1{'0' * 400}]", "interval is no pair of numbers"),
        (Task.TEMPORAL, "[6, 2]", "interval is negative or reversed"),
        (Task.TEMPORAL, "[-1, 2]", "interval is negative or reversed"),
        (Task.TEMPORAL_MCQ, "B", "answer has no interval"),
        (Task.TEMPORAL_MCQ, "[2, 6]\nB", "answer is no option letter"),
        (Task.VISUAL, "a dog", "answer has no box"),
        (Task.VISUAL, "<box>[1,2,3,4]", "answer has no box"),
        (Task.VISUAL, "<box>[1,2,3]</box>", "box is no list of four numbers"),
        (Task.VISUAL, "<box>1 2 3 4</box>", "box is no list of four numbers"),
        (Task.VISUAL, "<box>[9,2,3,4]</box>", "box has no area"),
        (Task.VISUAL, "<box>[1,2,300,4]</box>", "box lies outside the frame"),
    ],
)
def test_answers_that_are_refused(task, answer, reason):
    with pytest.raises(TruthError) as caught:
        parse_truth(task, answer, image_size=[200, 100])
    assert caught.value.reason == reason


@pytest.mark.parametrize("size", [None, [200], "ab"])
def test_visual_needs_the_image_size(size):
    with pytest.raises(TruthError, match="no image_size"):
        parse_truth(Task.VISUAL, BOX, image_size=size)
    with pytest.raises(TruthError, match="not positive"):
        parse_truth(Task.VISUAL, BOX, image_size=[0, 100])


@pytest.mark.parametrize(
    ("frames", "items", "reason"),
    [
        ([], ITEMS, "no key frames"),
        (None, ITEMS, "no key frames"),
        (FRAMES, None, "no key_items"),
        (FRAMES, {}, "no key_items"),
        (FRAMES, {"0": ITEMS["0"]}, "key_items lacks idx"),
        ([7], ITEMS, "key frame is no record"),
        ([{"idx": 0}], ITEMS, "key frame has no time"),
        ([{"idx": 0, "time": -1}], ITEMS, "key frame time is negative"),
        (FRAMES[1:], {"0": {}}, "key frame has no boxes"),
        (FRAMES[1:], {"0": {"dog": []}}, "key frame has no boxes"),
        (FRAMES[1:], {"0": 3}, "key_items entry is no record"),
        (FRAMES[1:], {"0": {"dog": 3}}, "boxes of an object are no list"),
        (FRAMES[1:], {"0": {"dog": [3]}}, "box is no list of four numbers"),
        (FRAMES[1:], {"0": {"dog": [[0, 0, 0, 1]]}}, "box has no area"),
        (FRAMES[1:], {"0": {"dog": [[0, 0, 1.02, 1]]}}, "box lies outside the frame"),
        (FRAMES[1:], {"0": {"dog": [[1.001, 0, 1.002, 1]]}}, "box has no area"),
    ],
)
def test_evidence_that_is_refused(frames, items, reason):
    with pytest.raises(TruthError) as caught:
        spatial(frames, items)
    assert caught.value.reason == reason
