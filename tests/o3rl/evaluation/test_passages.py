"""The text in pieces: every character, each claim in its own sentence; nonsense survives."""

import math

import pytest

from o3rl.evaluation.passages import passages
from o3rl.types import Claim
from tests.rewards.hostile_texts import HOSTILE

BOX = (0.25, 0.25, 0.5, 0.75)
TEXT = (
    "<think>It rains. I see <obj>red car</obj><box>[50,25,100,75]</box>at<t>5.0</t>s and again "
    "<t>9.0</t>s. Then <obj>dog</obj><box>[1,2]</box>at<t>6.0</t>s. A <obj>cat</obj>"
    "<box>[1,2,3,4]</box>at<t>7.0</t>s.</think><answer>red</answer>"
)
CLAIMS = (Claim("red car", 5.0, (BOX,)), Claim("cat", 7.0, (BOX,)))


def whole(found) -> list[str]:
    return ["".join(segment.text for segment in passage.segments) for passage in found]


def test_sentences_that_cite_stand_by_themselves():
    """The claim on the dog did not parse: it is text, and takes no other's number."""
    found = passages(TEXT, CLAIMS, is_image=False)
    assert "".join(whole(found)) == TEXT
    assert [passage.claims for passage in found] == [(), (0,), (), (1,), (), ()]
    assert whole(found)[1].startswith("I see <obj>red car")
    assert whole(found)[1].endswith("<t>9.0</t>s. ")
    assert whole(found)[3].startswith("A <obj>cat")
    assert whole(found)[-1] == "<answer>red</answer>"


def test_segments_have_kind_claim_and_time():
    pieces = [s for passage in passages(TEXT, CLAIMS, is_image=False) for s in passage.segments]
    kinds = {piece.text: (piece.kind, piece.claim, piece.seconds) for piece in pieces}
    assert kinds["red car"] == ("obj", 0, None)
    assert kinds["[50,25,100,75]"] == ("box", 0, None)
    assert kinds["5.0"] == ("time", 0, 5.0)
    assert kinds["9.0"] == ("time", -1, 9.0)
    assert kinds["dog"] == ("obj", -1, None)
    assert kinds["cat"] == ("obj", 1, None)
    assert kinds["red"] == ("plain", -1, None)


def test_boxes_of_an_image_are_its_claims():
    text = "<think><box>[1,2]</box> <obj>cat</obj><box>[1,2,3,4]</box> sits.</think>"
    found = passages(text, (Claim("cat", 0.0, (BOX,)),), is_image=True)
    assert [passage.claims for passage in found if passage.claims] == [(0,)]
    assert "".join(whole(found)) == text


@pytest.mark.parametrize("is_image", [True, False])
@pytest.mark.parametrize(
    "text",
    [
        *("", "<think>", "</think><answer></answer></obj>", "<think><t>1.2.3</t>s</think>"),
        "<think><obj>a. b</obj><box>[1,2,3,4]</box>at<t>nan</t>s</think>",
        "<think><obj>a</obj><box>[1,2,3,4]</box>at<t>inf</t>s" * 3 + "</think>",
        *HOSTILE,
    ],
)
def test_no_character_is_lost(text, is_image):
    claims = (Claim("a. b", math.nan, (BOX,)), Claim("a", math.inf, (BOX,)))
    text = text[:20_000]
    assert "".join(whole(passages(text, claims, is_image=is_image))) == text
