"""What an annotator may say, and when thought and evidence agree."""

import pytest

from o3rl.annotation.annotation import (
    AnnotationError,
    citation,
    disagreements,
    json_in,
    read_annotation,
)

TIMES = (0.0, 2.517, 5.034)
DOG = "<obj>dog</obj><box>[100,200,300,400]</box>at<t>2.5</t>s"
CAT = "<obj>cat</obj><box>[500,500,700,700]</box>at<t>5.0</t>s"


def said(thought: str = f"A {DOG} and a {CAT}.", **changes) -> dict:
    frames = [
        {"time": 5.0, "objects": [{"name": "cat", "box": [500, 500, 700, 700]}]},
        {"time": 2.5, "objects": [{"name": "dog", "box": [100, 200, 300, 400]}]},
    ]
    whole = {"question": "Who?", "answer": "a dog", "key_frames": frames, "thought": thought}
    return whole | changes


def read(record: object, unit: str = "thousandths"):
    return read_annotation(record, times=TIMES, size=(400, 200), unit=unit)


def one(name: str = "dog", box: object = (1, 2, 3, 4), time: float = 2.5) -> list[dict]:
    return [{"time": time, "objects": [{"name": name, "box": box}]}]


def test_boxes_become_shares_and_times_those_of_frames():
    found = read(said())
    assert [(time, thing.name, thing.box) for time, thing in found.evidence()] == [
        (2.517, "dog", [0.1, 0.2, 0.3, 0.4]),
        (5.034, "cat", [0.5, 0.5, 0.7, 0.7]),
    ]
    assert found.thought.startswith("A <obj>dog</obj><box>[0.1,0.2,0.3,0.4]</box>at<t>2.5</t>s")
    assert disagreements(found) == []
    time, thing = next(found.evidence())
    assert citation(time, thing) in found.thought


@pytest.mark.parametrize(
    ("unit", "box"), [("shares", [0.25, 0.5, 0.5, 1.0]), ("pixels", [100, 100, 200, 200])]
)
def test_other_units(unit, box):
    found = read(said("x", key_frames=one(box=box)), unit)
    assert next(found.evidence())[1].box == [0.25, 0.5, 0.5, 1.0]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"extra": 1}, "not of the schema"),
        ({"answer": ""}, "not of the schema"),
        ({"key_frames": []}, "not of the schema"),
        ({"key_frames": one() * 6}, "not of the schema"),
        ({"key_frames": [{"time": 2.5, "objects": one()[0]["objects"] * 4}]}, "not of the schema"),
        ({"key_frames": one(box=[1, 2, 3])}, "not of the schema"),
        ({"key_frames": one(time=3.0)}, "a key frame that was not shown"),
        ({"key_frames": one() * 2}, "a key frame twice"),
        ({"key_frames": one(name="<obj>")}, "an object without a plain name"),
        ({"key_frames": one(name=" ")}, "an object without a plain name"),
        ({"key_frames": one(box=[3, 2, 1, 4])}, "a box without area, or outside the frame"),
        ({"key_frames": one(box=[0, 0, 9, 1011])}, "a box without area, or outside the frame"),
        ({"question": "<think>?"}, "tags where none belong"),
        ({"thought": "<answer>a</answer>"}, "tags where none belong"),
    ],
)
def test_what_is_refused(changes, reason):
    with pytest.raises(AnnotationError) as caught:
        read(said() | changes)
    assert caught.value.reason == reason


@pytest.mark.parametrize("wrong", [None, [], "text"])
def test_what_is_no_object_is_refused(wrong):
    with pytest.raises(AnnotationError, match="the object"):
        read(wrong)


@pytest.mark.parametrize(
    ("thought", "problem"),
    [
        (f"A {DOG}.", "does not cite <obj>cat"),
        (f"A {DOG}, a {CAT}, a {DOG}.", "cited twice"),
        (f"A {DOG.replace('dog', 'fox')}, a {CAT}.", "cites 'fox'"),
        (f"A {DOG.replace('[100', '[120')}, a {CAT}.", "cites 'dog'"),  # 0.02 off
        (f"A {DOG.replace('2.5', '5.0')}, a {CAT}.", "cites 'dog' at 5.0"),
        (f"A {DOG}, a {CAT}, at <t>4.0</t>s.", "4.0 s, which is no key frame's"),
        (f"A {DOG}, a {CAT} <obj>x</obj>.", "a name without box"),
        (f"A {DOG}, a {CAT} <box>[1,1,2,2]</box>.", "a box without name"),
        (f"A {DOG}, a {CAT} <t>soon</t>s.", "no number of seconds"),
        (f"A {DOG}, a {CAT} <obj>.", "opened and not closed"),
        ("It is a dog.", "does not cite <obj>dog"),
    ],
)
def test_disagreements_are_named(thought, problem):
    assert problem in "; ".join(disagreements(read(said(thought))))


def test_small_differences_are_none():
    thought = f"A {DOG.replace('[100', '[108').replace('dog', 'Dog')}, a {CAT}, at <t>5.0</t>s."
    assert disagreements(read(said(thought))) == []


def test_json_is_found_in_its_fence():
    assert json_in('Sure!\n```json\n{"a": {"b": 1}}\n```') == {"a": {"b": 1}}
    for text in ("", "no", "{", "}{", "[1]", "{'a': 1}", "{" * 9999 + "}" * 9999):
        assert json_in(text) is None
