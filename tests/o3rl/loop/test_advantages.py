"""Group advantages against values worked out by hand."""

from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from o3rl.config import Advantages, LoopConfig, Truncated
from o3rl.loop.advantages import group_advantages, length_penalty, scored
from o3rl.types import FinishReason, Group, ScoredGroup
from tests.o3rl.made import prompt, reward, rollout


def test_two_rollouts():
    # mean 2, unbiased std √2: ±1 / (1.41421356 + 1e-4)
    assert group_advantages([1.0, 3.0]) == pytest.approx((-0.70705678, 0.70705678), abs=1e-8)


def test_one_right_of_four():
    # mean 0.25, unbiased variance (3·0.0625 + 0.5625)/3 = 0.25: −0.25/0.5001 and 0.75/0.5001
    assert group_advantages([0, 0, 1, 0]) == pytest.approx(
        (-0.49990002, -0.49990002, 1.49970006, -0.49990002), abs=1e-8
    )


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (Advantages.mean_only, (-0.25, -0.25, 0.75, -0.25)),
        (Advantages.leave_one_out, (-1 / 3, -1 / 3, 1.0, -1 / 3)),  # the others' mean: 1/3, or 0
    ],
)
def test_other_forms(form, expected):
    assert group_advantages([0, 0, 1, 0], form) == pytest.approx(expected)
    assert group_advantages([2, 2], form) == (0.0, 0.0)


def test_no_spread_teaches_nothing():
    assert group_advantages([0.1, 0.1, 0.1]) == (0.0, 0.0, 0.0)


def test_the_length_penalty_is_a_line_over_the_last_tokens():
    penalties = [length_penalty(tokens, longest=100, soft=20) for tokens in (1, 80, 85, 90, 100)]
    assert penalties == [0, 0, -0.25, -0.5, -1]


@pytest.mark.parametrize(
    ("truncated", "expected"),
    [
        (Truncated.scored, (-1, -1, 2)),  # mean 2
        (Truncated.masked, (-1, -1, 0)),
        (Truncated.penalised, (-0.5, -1, 1.5)),  # 1 − 0, 1 − ½, 4 − 1; mean 1.5
    ],
)
def test_what_a_truncated_completion_is_worth(truncated, expected):
    rollouts = tuple(
        rollout(0, i, tokens=2 + i, finish=FinishReason.LENGTH if i == 2 else FinishReason.STOP)
        for i in range(3)
    )
    settings = LoopConfig(advantages=Advantages.mean_only, truncated=truncated, soft_tokens=2)
    rewards = (reward(1.0), reward(1.0), reward(4.0))
    group = scored(Group(prompt(), rollouts, (1, 2), "digest"), rewards, settings, longest=4)
    assert isinstance(group, ScoredGroup)
    assert group.advantages_G == pytest.approx(expected)
    assert group.rewards_G == rewards


@pytest.mark.parametrize("totals", [[], [1.0]])
def test_fewer_than_two_are_refused(totals):
    with pytest.raises(ValueError, match=f"a group of {len(totals)} rollouts"):
        group_advantages(totals)


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=16))
def test_they_sum_to_zero_and_keep_the_order(totals):
    advantages = group_advantages(totals)
    assert fmean(advantages) == pytest.approx(0, abs=1e-9)
    for left, right in zip(range(len(totals)), range(1, len(totals)), strict=False):
        if totals[left] < totals[right]:
            assert advantages[left] <= advantages[right]
