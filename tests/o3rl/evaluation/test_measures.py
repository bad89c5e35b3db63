"""Means and intervals of an evaluation, by hand; nothing is NaN, and JSON can hold all of it."""

import json
from dataclasses import replace

import pytest

from o3rl.evaluation.measures import Scored, is_right, normalised, summary
from o3rl.types import Claim, KeyFrame, Reward, Row, Task, Truth

PARTS = (
    "ans_acc",
    "ans_tiou",
    "ans_viou",
    "thk_temporal_point",
    "thk_temporal_segment",
    "thk_spatial",
    "format",
)
BOX = (0.1, 0.1, 0.3, 0.3)
TRUTHS = {
    Task.MCQ: Truth("A", letter="A"),
    Task.FREE_FORM: Truth("a red square"),
    Task.TEMPORAL_SPATIAL: Truth(
        "The red square.", key_frames=(KeyFrame(5.0, (("red square", (BOX,)),)),)
    ),
    Task.TEMPORAL: Truth("[0, 10]", interval=(0.0, 10.0)),
    Task.TEMPORAL_MCQ: Truth("A\n[0, 10]", letter="A", interval=(0.0, 10.0)),
    Task.VISUAL: Truth("<box>[1,1,3,3]</box>", box=BOX),
}
HIT = Claim("red square", 5.0, (BOX,), key_time=5.0, distance=0.0, gated=False, iou=0.8)
FAR = Claim("red square", 15.0, (BOX,), key_time=5.0, distance=10.0, gated=True, iou=0.4)


def row(task: Task) -> Row:
    return Row("r", task, "synth", "What?", "a.mp4", TRUTHS[task])


def scored(task: Task, text: str = "", claims=(), metrics=None, **parts: float) -> Scored:
    all_parts = dict.fromkeys(PARTS, 0.0) | parts
    reward = Reward(all_parts, sum(all_parts.values()), tuple(claims), dict(metrics or {}))
    return Scored(row(task), text, reward)


def test_by_hand():
    first = scored(
        Task.TEMPORAL_SPATIAL,
        "<answer>red square</answer>",
        (HIT, FAR),
        {"recall": 1.0, "recall_key_frames": 0.5, "point_sigma1": 0.5},
        ans_acc=1.0,
        thk_spatial=0.4,
        format=1.0,
    )
    nothing = {"recall": 0.0, "recall_key_frames": 0.0, "point_sigma1": 0.9}
    second = scored(Task.TEMPORAL_SPATIAL, "", (), nothing)
    third = scored(Task.TEMPORAL, ans_tiou=0.6, thk_temporal_segment=0.5, format=0.5)
    fourth = scored(Task.TEMPORAL, ans_tiou=0.2, format=1.0)
    out = summary([[first, second], [third, fourth], []], seed=0)
    assert (out["rows"], out["rows_failed"], out["responses"]) == (2, 1, 4)
    # totals 2.4, 0, 1.6, 1.2
    assert out["total"] == pytest.approx(1.3)
    # without format 1.4, 0, 1.1, 0.2
    assert out["total_without_format"] == pytest.approx(0.675)
    assert out["format"] == pytest.approx(0.625)
    assert out["temporal_iou"] == pytest.approx(0.4)
    assert out["accuracy"] == pytest.approx(0.5)  # first and third
    assert out["recall"] == pytest.approx(0.5)  # temporal rows cite no boxes
    assert out["recall_key_frames"] == pytest.approx(0.25)
    assert out["box_iou"] == pytest.approx(0.6)  # (0.8 + 0.4) / 2, before the gate
    assert out["parts"]["thk_spatial"] == pytest.approx(0.1)
    assert sum(out["parts"].values()) == pytest.approx(out["total"])
    assert out["claims"] == {
        "share": 0.5,
        "time_proximity": 0.5,  # not 0.7: the second response makes no claim
        "gated_box_iou": 0.4,
        "gate_pass": 0.5,
    }
    assert out["by_task"] == {
        str(Task.TEMPORAL_SPATIAL): {
            "rows": 1,
            "total": pytest.approx(1.2),
            "total_without_format": pytest.approx(0.7),
            "accuracy": 0.5,
        },
        str(Task.TEMPORAL): {
            "rows": 1,
            "total": pytest.approx(1.4),
            "total_without_format": pytest.approx(0.65),
            "accuracy": 0.5,
        },
    }


def test_what_nobody_could_tell_is_null_and_json_is_strict():
    out = summary([[scored(Task.MCQ, ans_acc=1.0, format=1.0)]], seed=0)
    assert out["temporal_iou"] is None
    assert out["box_iou"] is None
    assert out["recall"] is None
    assert out["claims"] == dict.fromkeys(("share", "time_proximity", "gated_box_iou", "gate_pass"))
    assert json.loads(json.dumps(out, allow_nan=False)) == out


def test_the_weight_of_format_is_taken_off_as_it_was_put_on():
    reward = Reward(dict.fromkeys(PARTS, 0.0) | {"format": 1.0, "ans_acc": 1.0}, 1.5)
    one = Scored(row(Task.MCQ), "", reward)
    assert summary([[one]], seed=0, weights={"format": 0.5})["total_without_format"] == 1.0


def test_no_response_at_all_is_an_error():
    with pytest.raises(ValueError, match="none of 2 rows has a response"):
        summary([[], []], seed=0)


def test_intervals_over_rows():
    """100 rows, half 0 and half 1: the mean's standard error is 0.05, the interval ± 1.96 of it.

    Four equal responses a row say no more than one, so the interval stays the same.
    """
    rows = [[scored(Task.MCQ, ans_acc=float(i % 2), format=1.0)] * 4 for i in range(100)]
    out = summary(rows, seed=0)
    low, high = out["intervals"]["total_without_format"]
    assert low == pytest.approx(0.402, abs=0.015)
    assert high == pytest.approx(0.598, abs=0.015)
    assert out["intervals"]["format"] == [1.0, 1.0]
    assert summary(rows, seed=0) == out
    assert summary(rows, seed=1)["intervals"] != out["intervals"]


def test_intervals_where_few_rows_have_a_say():
    rows = [[scored(Task.MCQ, format=1.0)] for _ in range(50)]
    rows.append([scored(Task.TEMPORAL, ans_tiou=0.3, format=1.0)])
    out = summary(rows, seed=0)
    assert out["intervals"]["temporal_iou"] == pytest.approx([0.3, 0.3])
    json.dumps(out, allow_nan=False)


@pytest.mark.parametrize(
    ("task", "parts", "text", "right"),
    [
        (Task.MCQ, {"ans_acc": 1.0}, "", True),
        (Task.MCQ, {"ans_acc": 0.0}, "", False),
        (Task.TEMPORAL, {"ans_tiou": 0.5}, "", True),
        (Task.TEMPORAL, {"ans_tiou": 0.49}, "", False),
        (Task.TEMPORAL_MCQ, {"ans_tiou": 0.9, "ans_acc": 1.0}, "", True),
        (Task.TEMPORAL_MCQ, {"ans_tiou": 0.9, "ans_acc": 0.0}, "", False),
        (Task.TEMPORAL_MCQ, {"ans_tiou": 0.1, "ans_acc": 1.0}, "", False),
        (Task.VISUAL, {"ans_viou": 0.5}, "", True),
        (Task.VISUAL, {"ans_viou": 0.4}, "", False),
        (Task.FREE_FORM, {"ans_acc": 0.9}, "<answer> Red  square! </answer>", True),
        (Task.FREE_FORM, {"ans_acc": 0.9}, "<answer>blue square</answer>", False),
        (Task.FREE_FORM, {"ans_acc": 0.9}, "Red square", False),
        (Task.TEMPORAL_SPATIAL, {}, "<answer>a red square</answer>", True),
    ],
)
def test_right_answers(task, parts, text, right):
    assert is_right(scored(task, text, **parts)) is right


def test_normalised_words_of_any_script():
    assert normalised("The  RED-square.") == "red square"
    assert normalised("红色方块。") == normalised(" 红色方块")
    assert normalised("STRASSE") == normalised("straße")
    assert normalised("") == ""


def test_claims_of_other_tasks_do_not_count():
    one = scored(Task.MCQ, "", (HIT,), ans_acc=1.0, format=1.0)
    assert summary([[one]], seed=0)["box_iou"] is None
    visual = replace(scored(Task.VISUAL, "", (HIT,), ans_viou=0.7), text="")
    out = summary([[visual]], seed=0)
    assert out["box_iou"] == pytest.approx(0.8)
    assert out["claims"]["share"] is None
