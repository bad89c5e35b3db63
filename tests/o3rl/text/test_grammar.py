"""The scanners against the published expressions on short texts; their time on long ones."""

import random
import re
import time

import pytest

from o3rl.text import grammar
from tests.rewards.hostile_texts import HOSTILE

CLAIM = re.compile(r"<obj>(.*?)</obj>((?:<box>\[.*?\]</box>)+)at<t>(.*?)</t>s", re.DOTALL)
BOX = re.compile(r"<box>(\[.*?\])</box>")
NAMED = {
    grammar.one_word_named_box: re.compile(r"<obj>(\w+)</obj><box>(\[.*?\])</box>"),
    grammar.named_box: re.compile(r"<obj>([^<]+)</obj><box>(\[.*?\])</box>"),
}
WORDS = (
    "<think> </think> <answer> </answer> <obj> </obj> <box> </box> <box>[ ]</box> [ ] <t> </t> "
    "</t>s s at at<t> ]</box>at<t> </obj><box>[ 1 2.5 . 2.3.4 १२ ² , a red_car 狗 < > </ -1 "
    "</t>s_to_<t> <t>6.</t>s_to_<t> <box>[1,2,3,4]</box> <t>5</t>s _to_"
)
PIECES = [*(word.replace("_", " ") for word in WORDS.split()), " ", "\n", "\u2003", "red_car"]
RESPONSE = (
    "<think>|<obj>|dog|</obj>|<box>[|1,2,3,4|]</box>|<box>[|5|]</box>|at<t>|7.5|</t>s| "
    "|<obj>|a|</obj>|<box>[|0|]</box>|at<t>|8|</t>s|</think>|<answer>|From |<t>|2|</t>s| to "
    "|<t>|6.|</t>s|</answer>"
)


def random_text(source: random.Random) -> str:
    return "".join(source.choices(PIECES, k=source.randrange(1, 40)))


def likely_text(source: random.Random) -> str:
    """A well-formed response, from which a few pieces are dropped, doubled or swapped in."""
    parts = RESPONSE.split("|")
    for _ in range(source.randrange(5)):
        parts[source.randrange(len(parts))] = source.choice(["", *PIECES])
    return "".join(parts)


def published(text: str) -> dict:
    answer = re.search(r"<answer>\s*(.*?)\s*</answer>", text, re.DOTALL)
    thought = re.search(r"<think>(.*?)</think>", text, re.DOTALL)
    interval = re.search(r"<t>(\d+\.?\d*)</t>s to <t>(\d+\.?\d*)</t>s", text)
    return {
        "answer": answer and answer[1].strip(),
        "thought": thought and thought[1],
        "interval": interval and interval.groups(),
        "times": re.findall(r"<t>([\d.]+)</t>s", text),
        "claims": CLAIM.findall(text),
        "boxes": BOX.findall(text),
        "lists": re.findall(r"\[.*?\]", text),
        "in tags": [
            numbers
            for between in re.findall(r"<box>(.*?)</box>", text, re.DOTALL)
            for numbers in re.findall(r"\[[^\[\]]*\]", between)
        ],
        "named": [expression.search(text) is not None for expression in NAMED.values()],
    }


def scanned(text: str) -> dict:
    return {
        "answer": grammar.answer_of(text),
        "thought": grammar.thought_of(text),
        "interval": grammar.interval_of(text),
        "times": grammar.time_mentions(text),
        "claims": [(claim.name, claim.boxes, claim.time) for claim in grammar.raw_claims(text)],
        "boxes": [box.numbers for box in grammar.raw_boxes(text)],
        "lists": grammar.lists_as_published(text),
        "in tags": grammar.lists_in_tags(text),
        "named": [finder(text) for finder in NAMED],
    }


@pytest.mark.parametrize("make", [random_text, likely_text])
def test_equal_to_the_published_expressions(make):
    source = random.Random(7)
    seen = {"claims": 0, "boxes": 0, "interval": 0, "times": 0, "answer": 0}
    for _ in range(30_000):
        text = make(source)
        got = scanned(text)
        assert got == published(text), repr(text)
        for name in seen:
            seen[name] += bool(got[name])
    assert min(seen.values()) > 5, f"the texts hardly hold what is compared: {seen}"


def test_claim_swallows_what_the_published_expression_swallows():
    text = "<obj>a</obj> and <obj>dog</obj><box>[1]</box> then <box>[2]</box>at<t>5</t>s"
    [claim] = grammar.raw_claims(text)
    assert claim == grammar.RawClaim(
        "a</obj> and <obj>dog", "<box>[1]</box> then <box>[2]</box>", "5"
    )


def test_names_of_boxes():
    text = "<obj>red car</obj><box>[1]</box><box>[2]</box> <obj>x</obj> <box>[3]</box>"
    text += "</obj><box>[4]</box>"
    assert [box.name for box in grammar.raw_boxes(text)] == ["red car", "", "", ""]


def test_unpaired():
    assert not grammar.unpaired("<t>1</t>", grammar.PAIRED_IN_THOUGHT)
    assert grammar.unpaired("<t>1</t><obj>", grammar.PAIRED_IN_THOUGHT)
    assert not grammar.unpaired("<obj>", grammar.PAIRED_IN_TEXT)


@pytest.mark.parametrize("piece", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("head", ["", "<think>", "<obj>", "<t>", "<answer>"])
def test_a_megabyte_of_tags_is_quick(piece, head):
    text = head + piece * (1_000_000 // len(piece))
    start = time.process_time()
    scanned(text)
    assert time.process_time() - start < 2.0
