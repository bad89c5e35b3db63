"""Whatever a model writes: nothing raises, every part stays in its bounds, time stays short."""

import math
import random
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spatial_row import CAT, DOG, NOWHERE, SECOND_DOG, TRUTH, claim, scored

from cluster.bench.completions import cases
from o3rl.config import Profile, RewardsConfig
from o3rl.text.boxes import interval_iou
from o3rl.types import PARTS, Reward, Task, Truth
from rewards.scorer import Scorer
from tests.rewards.hostile_texts import HOSTILE, hostile

TRUTHS = {
    Task.MCQ: Truth("A", letter="A"),
    Task.FREE_FORM: Truth("ein grüner Hund 狗"),
    Task.TEMPORAL_SPATIAL: TRUTH,
    Task.TEMPORAL: Truth("[0, 10]", interval=(0.0, 10.0)),
    Task.TEMPORAL_MCQ: Truth("A\n[0, 10]", letter="A", interval=(0.0, 10.0)),
    Task.VISUAL: Truth("<box>[20,10,100,50]</box>", box=(0.1, 0.1, 0.5, 0.5)),
}
SCORERS = [Scorer(RewardsConfig(profile=profile)) for profile in Profile]
EVERY = [(scorer, task) for scorer in SCORERS for task in Task]

PIECES = (
    "<think> </think> <answer> </answer> <obj> </obj> <box> </box> <box>[ ]</box> <t> </t> </t>s "
    "at at<t> 5 12.5 1e308 -1e308 NaN Infinity 2.3.4 0 99999999999999999999 ٣ , [ ] { null "
    '"1" dog 狗 \ud800 \x00 <obj>dog</obj><box>[10,10,30,30]</box>at<t>5</t>s '
    "<box>[10,10,30,30]</box> <t>5</t>s [1e308,-1e308,NaN,1] <box>[[[[ ]]]]</box> </t>s_to_<t>"
)
VOCABULARY = [piece.replace("_", " ") for piece in PIECES.split(" ")]
VOCABULARY += [" ", "\n", " to ", "Correct Option:", "A", "<t>1e308</t>s", "<t>nan</t>s"]
OPENINGS = ("<think>", "<answer>", "<obj>", "<box>[", "<t>", "[", "at<t>", "<obj>a</obj><box>[")
CLOSINGS = ("</think>", "</answer>", "</obj>", "]</box>", "</t>s", "]")


def check(scorer: Scorer, task: Task, text: str) -> Reward:
    got = scorer.score(task, text, truth=TRUTHS[task], progress=0.5, frame_size=(100, 100))
    assert tuple(got.parts) == PARTS
    assert all(0 <= value <= 1 for value in got.parts.values()), (task, got.parts, text[:500])
    assert all(map(math.isfinite, (got.total, *got.metrics.values()))), (task, text[:500])
    assert all(0 <= shown.iou <= 1 for shown in got.claims), (task, text[:500])
    return got


def check_everywhere(text: str) -> None:
    for scorer, task in EVERY:
        check(scorer, task, text)


def soup(source: random.Random) -> str:
    body = "".join(source.choices(VOCABULARY, k=source.randrange(25)))
    return body if source.random() < 0.2 else f"<think>{body}</think><answer>{body[::-1]}</answer>"


def nested(source: random.Random) -> str:
    depth = source.randrange(1, 12)
    opened = source.choices(OPENINGS, k=depth)
    closed = source.choices(CLOSINGS, k=source.randrange(depth + 1))
    return "<think>" + "".join([*opened, "5", *closed]) + "</think><answer></answer>"


def broken(source: random.Random, text: str) -> str:
    """A real completion in which a few characters are dropped, doubled or swapped for a piece."""
    for _ in range(source.randrange(1, 6)):
        start = source.randrange(len(text))
        end = start + source.choice((0, 1, 1, 5, 40))
        text = text[:start] + source.choice(("", text[start:end] * 2, *VOCABULARY)) + text[end:]
    return text


def fuzzed(count: int) -> Iterator[str]:
    source = random.Random(11)
    real = [case.text for task in Task for case in cases(task, count=6)]
    real = [text for text in real if len(text) < 1000]
    for number in range(count):
        kind = number % 8
        if number % 1000 == 999:
            yield source.choice(HOSTILE_PIECES) * 2000
        elif kind < 4:
            yield soup(source)
        else:
            yield nested(source) if kind < 6 else broken(source, source.choice(real))


HOSTILE_PIECES = [*HOSTILE.values(), *VOCABULARY]


def test_a_hundred_thousand_fuzzed_completions():
    """Each by one profile and task in turn; among real ones a share must still earn something."""
    earned = dict.fromkeys(PARTS, 0)
    turns = random.Random(12).choices(EVERY, k=100_000)
    for (scorer, task), text in zip(turns, fuzzed(100_000), strict=True):
        for name, value in check(scorer, task, text).parts.items():
            earned[name] += value > 0
    assert min(earned.values()) > 50, f"the texts hardly earn what is bounded: {earned}"


@settings(max_examples=40, deadline=None)
@given(st.text(), st.lists(st.sampled_from(VOCABULARY)).map("".join))
def test_any_unicode(before, inside):
    check_everywhere(f"{before}<think>{inside}{before}</think><answer>{inside}</answer>")


@pytest.mark.parametrize("piece", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_megabyte_is_scored_within_the_pools_limit(piece):
    text = hostile(piece, 1_000_000)
    for scorer, task in EVERY:
        start = time.process_time()
        check(scorer, task, text)
        assert time.process_time() - start < 5.0


CLAIMS = st.lists(
    st.builds(
        claim,
        st.sampled_from(["dog", "the cat", "horse", ""]),
        st.sampled_from([5.0, 4.2, 8.0, 8.1, 12.5, "nan", "x"]),
        st.sampled_from([DOG, CAT, SECOND_DOG, NOWHERE, "[15,15,35,35]", "[1]", "x"]),
    ),
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(CLAIMS, st.randoms(use_true_random=False))
def test_the_order_of_claims_does_not_matter(claims, source):
    mixed = source.sample(claims, len(claims))
    for profile in (Profile.released, Profile.paper):
        one, other = (scored("".join(each), profile=profile) for each in (claims, mixed))
        assert one.parts == pytest.approx(other.parts, abs=1e-12)
        assert one.metrics == pytest.approx(other.metrics, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(CLAIMS.filter(bool), st.data())
def test_strict_never_pays_for_a_claim_said_again(claims, data):
    again = data.draw(st.sampled_from(claims))
    once = scored("".join(claims), profile=Profile.strict)
    twice = scored("".join([*claims, again]), profile=Profile.strict)
    assert twice.total <= once.total + 1e-12


EDGES = st.floats(0, 100, allow_nan=False)


@given(EDGES, EDGES, EDGES, EDGES)
def test_interval_iou_is_symmetric_and_1_only_on_itself(a, b, c, d):
    first, second = (min(a, b), max(a, b)), (min(c, d), max(c, d))
    value = interval_iou(first, second)
    assert value == interval_iou(second, first)
    assert 0 <= value <= 1
    assert interval_iou(first, first) == float(first[0] < first[1])
