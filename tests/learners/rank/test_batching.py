"""Cutting batches, and the learning rate."""

from random import Random

import pytest

from learners.rank.batching import mini_batches, passes, permute_advantages, shares
from learners.rank.settings import Optimisation
from o3rl.config import Schedule


@pytest.mark.parametrize(
    ("items", "count", "expected"),
    [
        ([1, 2, 3, 4], 2, [[1, 2], [3, 4]]),
        ([1, 2, 3], 2, [[1], [2, 3]]),
        ([1], 4, [[1]]),
        ([], 4, []),
    ],
)
def test_mini_batches_keep_order_and_are_never_empty(items, count, expected):
    assert mini_batches(items, count) == expected


def test_shares_are_balanced_by_cost_and_keep_order():
    # 9 to rank 0, 5 and 4 to rank 1; the 1 goes where less is: both have 9, so to rank 0.
    assert shares([4, 9, 5, 1], 2, cost=float) == [[9, 1], [4, 5]]


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_no_rank_has_more_than_its_part_and_one_item(ranks):
    random = Random(ranks)
    for _ in range(50):
        costs = [random.paretovariate(0.7) for _ in range(random.randint(1, 40))]
        loads = [sum(share) for share in shares(costs, ranks, cost=float)]
        assert sum(loads) == pytest.approx(sum(costs))
        assert max(loads) - min(loads) <= max(costs)


def test_fewer_items_than_ranks_leave_ranks_without():
    assert shares([3], 3, cost=float) == [[3], [], []]


def test_passes_are_filled_up_to_the_limit():
    # Sorted 10, 6, 5, 5: 10 and 6 make 16, the fives share the next.
    assert passes([5, 10, 6, 5], limit=16) == [[1, 2], [0, 3]]


def test_a_row_over_the_limit_has_a_pass_of_its_own():
    assert passes([30, 2], limit=16) == [[0], [1]]


def test_permuted_advantages_are_the_same_ones_elsewhere(groups):
    before = [a for scored in groups for a in scored.advantages_G]
    permuted = permute_advantages(groups, seed="3")
    after = [a for scored in permuted for a in scored.advantages_G]
    assert sorted(after) == sorted(before)
    assert after != before
    assert permute_advantages(groups, seed="3") == permuted
    assert [scored.group for scored in permuted] == [scored.group for scored in groups]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule.constant, [1.0, 2.0, 3.0, 3.0, 3.0, 3.0, 3.0]),
        # Four batches after two of warm-up: 1, 3/4, 1/2, 1/4 of the rate, then 0.
        (Schedule.linear, [1.0, 2.0, 3.0, 2.25, 1.5, 0.75, 0.0]),
        # (1 + cos(π·i/4))/2 = 1, 0.853553, 0.5, 0.146447, 0.
        (Schedule.cosine, [1.0, 2.0, 3.0, 2.560660, 1.5, 0.439340, 0.0]),
    ],
)
def test_rate_counts_batches(schedule, expected):
    optimisation = Optimisation(3.0, schedule, 2, 0.0, 1.0, batches=6)
    assert [optimisation.rate_at(i) for i in range(7)] == pytest.approx(expected, abs=1e-6)


def test_a_schedule_needs_batches():
    with pytest.raises(ValueError, match="batches is 0"):
        Optimisation(1.0, Schedule.cosine, 0, 0.0, 1.0, batches=0)
