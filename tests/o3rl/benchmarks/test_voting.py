"""Votes: the published arithmetic, and ours."""

import time
from fractions import Fraction

import pytest
from golden_values import differences, golden
from hypothesis import given
from test_reading import PIECES, texts

from o3rl.benchmarks.runner import Scoring
from o3rl.benchmarks.voting import (
    Clip,
    Evidence,
    Vote,
    crop_of,
    elect,
    evidence_of,
    first_read,
    released_crop,
    released_elect,
    released_evidence,
    relevance,
    score,
)

CASES = golden("voting")["cases"]
CLIP = Clip(count=16, height=40, width=60, fps=2.0)
OUT = ("evidence", "crops", "images_judged", "letters", "weights", "tally", "final", "correct")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["note"])
def test_the_published_vote(case):
    [row] = score([case], Scoring("official")).rows  # never raises, as the published code may
    if "raises" not in case:
        assert differences({name: case[name] for name in OUT}, row) == []


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["note"])
def test_our_vote_is_among_what_was_said_or_nothing(case):
    [row] = score([case], Scoring()).rows
    assert row["final"] is None or row["final"] in row["letters"]


def test_our_vote_by_hand():
    fifths = [Fraction(x, 5) for x in (3, 1, 1, 1)]
    # 0.6 against 0.2 + 0.2 + 0.2: exactly equal, so the three votes win, and the tie is told
    vote = elect(["A", "D", "D", "D"], fifths)
    assert (vote.winner, vote.tied, vote.tally["D"]) == ("D", True, Fraction(3, 5))
    assert elect(["D", "C"], fifths[1:3]).winner == "C"  # equal in all: the alphabet
    assert elect([None, None], fifths[:2]) == Vote(None, {})
    assert first_read([None, "C", "B"]).winner == "C"
    # Floating sums: 0.2 + 0.2 + 0.2 is more than 0.6
    released = released_elect(["A", "D", "D", "D"], [0.6, 0.2, 0.2, 0.2], "ABCD")
    assert (released.winner, released.tied) == ("D", False)
    assert released_elect(["NA"], [0], "ABCD").winner == "A"


def claims(*seconds):
    cited = "".join(f"<obj>a</obj><box>[1,1,9,9]</box>at<t>{t}</t>s" for t in seconds)
    return f"<think>{cited}</think><answer>B</answer>"


def test_our_confidence_is_the_mean_over_the_evidence():
    case = CASES[0] | {"vote": "confidence_voting", "judge_replies": ["2", "1", "no"]}
    case["responses"] = [claims(1, 2), claims(3), claims(99), "<answer>C</answer>"]
    [row] = score([case], Scoring()).rows
    # (1 + 0.6) / 2, unreadable, outside of the clip, no thought
    assert row["weights"] == [0.8, 0.2, 0.2, 0.2]
    assert row["final"] == "B"
    first = score([case | {"vote": "first"}], Scoring()).rows[0]
    assert first["final"] == "B"
    none = score([case | {"responses": ["?", ""]}], Scoring()).rows[0]
    assert (none["final"], none["correct"], none["read"]) == (None, False, False)


@pytest.mark.parametrize(
    ("reply", "weight"), [("2", 1), ("1", 0.6), ("0", 0.2), ("2.", 0.2), (" 2", 0.2), ("", 0.2)]
)
def test_relevance_is_one_digit_alone(reply, weight):
    assert relevance(reply) == pytest.approx(weight)


@pytest.mark.parametrize(
    ("box", "seconds", "ours", "released"),
    [
        ((1, 1, 9, 9), 0.25, (0, 1, 1, 9, 9), (0, 1, 1, 9, 9)),  # halves to even
        ((1, 1, 9, 9), 0.75, (2, 1, 1, 9, 9), (2, 1, 1, 9, 9)),
        ((1, 1, 9, 9), -1.0, None, (14, 1, 1, 9, 9)),
        ((1, 1, 9, 9), -9.0, None, None),
        ((1, 1, 9, 9), 8.0, None, None),
        ((1, 1, 9, 9), float("nan"), None, None),
        ((1, 1, 9, float("inf")), 1.0, None, None),
        ((-20, -20, 500, 500), 1.0, (2, 0, 0, 60, 40), (2, 0, 0, 60, 40)),
        ((-50, -50, -10, -10), 1.0, None, (2, 0, 0, 50, 30)),
        ((10.2, 5.1, 10.9, 9.0), 1.0, None, None),
    ],
)
def test_crops(box, seconds, ours, released):
    evidence = Evidence("a", box, seconds)
    assert crop_of(evidence, CLIP) == ours
    assert released_crop(evidence, CLIP) == released


def test_a_claim_may_have_several_boxes_by_our_rules():
    text = "<obj>a</obj><box>[1,2,3,4]</box><box>[5,6,7,8]</box>at<t>2.005</t>s"
    assert [each.box for each in evidence_of(text)] == [(1, 2, 3, 4), (5, 6, 7, 8)]
    assert released_evidence(text) == []


@given(texts)
def test_no_text_raises(text):
    for each in (*evidence_of(text), *released_evidence(text)):
        crop_of(each, CLIP)
        released_crop(each, CLIP)
    case = CASES[7] | {"responses": [text, f"<think>{text}</think><answer>A</answer>"]}
    score([case], Scoring())
    score([case], Scoring("official"))


@pytest.mark.parametrize("piece", PIECES)
def test_time_is_linear(piece):
    began = time.process_time()
    text = piece * (20_000 // len(piece))
    evidence_of(text)
    released_evidence(text)
    assert time.process_time() - began < 2


def test_a_case_that_lacks_something_is_told():
    with pytest.raises(ValueError, match="reply 0 has no 'responses'"):
        score([{key: value for key, value in CASES[0].items() if key != "responses"}], Scoring())
    with pytest.raises(ValueError, match="reply 0 has a value of another kind"):
        score([CASES[0] | {"responses": [None]}], Scoring())
