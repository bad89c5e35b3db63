"""Reasoning as records have it, to a thought that SFT can teach as it is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from o3rl.text.boxes import CONVENTIONS
from o3rl.text.prompts import target
from o3rl.text.reasoning import CUT, UNTAGGED, Reasoning, read_reasoning
from o3rl.text.truth import TruthError
from o3rl.types import Task
from tests.o3rl.made import PLAN, row

TAGS = ("<think>", "</think>", "<answer>", "</answer>")


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (None, Reasoning(None)),
        ("", Reasoning(None)),
        ("  ", Reasoning(None)),
        ("It is so. ", Reasoning("It is so. ")),
        ("<think> It is so.\n</think>", Reasoning("It is so.", (UNTAGGED,))),
        ("<think>So.</think>\n<answer>B</answer>", Reasoning("So.", (UNTAGGED,))),
        ("Well: <think>So.</think>", Reasoning("So.", (UNTAGGED,))),
        ("So.\n<answer>\nB</answer>", Reasoning("So.", (UNTAGGED,))),
        ("<think>So. <answer>B</answer></think>", Reasoning("So.", (UNTAGGED,))),
        ("<think></think><answer>B</answer>", Reasoning(None, (UNTAGGED,))),
        ('<box>["0.1", "0.2", 0.3, 4e-1]</box>', Reasoning("<box>[0.1,0.2,0.3,0.4]</box>")),
        ("<box>[0, 0, 1, 1]</box> [E,E]", Reasoning("<box>[0.0,0.0,1.0,1.0]</box> [E,E]")),
        ("<box>[-0.01,0,1,1.0]</box>", Reasoning("<box>[0.0,0.0,1.0,1.0]</box>", (CUT,))),
    ],
)
def test_what_is_kept(said, found):
    assert read_reasoning(said, None) == found


def test_pixels():
    # 201 of 200 px: cut; 33 / 100
    found = read_reasoning("<box>[20,33,201,100]</box>", (200, 100))
    assert found == Reasoning("<box>[0.1,0.33,1.0,1.0]</box>", (CUT,))


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (3, "reasoning is no text"),
        ("<think>a", "reasoning has an unpaired or repeated tag"),
        ("a</think><answer>b</answer>", "reasoning has an unpaired or repeated tag"),
        ("</think>a<think>", "reasoning has an unpaired or repeated tag"),
        ("<think>a</think><think>b</think>", "reasoning has an unpaired or repeated tag"),
        ("<think>a<answer>b</think>c</answer>", "reasoning has an unpaired or repeated tag"),
        ("<box>[0,0,1,1]", "reasoning has an unpaired box"),
        ("<box>[0,0,1]</box>", "reasoning box is no list of four numbers"),
        ("<box>[E, E, e, E]</box>", "reasoning box is no list of four numbers"),
        ("<box>[1,2,30,40]</box>", "reasoning box lies outside the frame"),
        ("<box>[0.5,0,0.5,1]</box>", "reasoning box has no area"),
    ],
)
def test_what_is_refused(said, reason):
    with pytest.raises(TruthError) as caught:
        read_reasoning(said, None)
    assert caught.value.reason == reason


PIECES = [*TAGS, "<box>", "</box>", "[0.1,0.1,0.3,0.3]", '["0.1","0",0.5,1e-1]', "[E,E,e,E]",
          "[0,0,1e-5,1]", "[", "]", "<obj>dog</obj>", "at<t>2</t>s", " so ", "\n"]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_whatever_passes_is_taught_with_each_tag_once(said):
    try:
        text = read_reasoning(said, None).text
    except TruthError:
        return
    if text is None:
        return
    for convention in CONVENTIONS.values():
        taught = target(row(task=Task.MCQ, reasoning=text), PLAN, convention=convention)
        assert [taught.count(tag) for tag in TAGS] == [1, 1, 1, 1]
