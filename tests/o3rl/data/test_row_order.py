import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from o3rl.data.row_order import RowOrder, order_of
from o3rl.types import Task
from tests.o3rl.made import row

TASKS = [Task.MCQ] * 6 + [Task.VISUAL] * 4


def test_an_epoch_uses_every_row_once():
    order = RowOrder(TASKS, 0)
    assert sorted(order.take(10)) == list(range(10))
    assert order.epoch == 1
    assert sorted(order.take(10)) == list(range(10))


def test_epochs_and_seeds_differ_and_repeat():
    first = RowOrder(TASKS, 0).take(20)
    assert first == RowOrder(TASKS, 0).take(20)
    assert first[:10] != first[10:]
    assert first != RowOrder(TASKS, 1).take(20)


def test_the_order_is_the_same_on_every_machine():
    assert RowOrder([Task.MCQ] * 5, 7).take(10) == [2, 0, 3, 4, 1, 4, 3, 1, 0, 2]


def test_weights_mix_tasks():
    order = RowOrder(TASKS, 0, weights={Task.MCQ: 0.5, Task.VISUAL: 2})
    # 3 of the 6 an epoch, and each of the 4 twice
    epochs = [Counter(order.rows_of(epoch)) for epoch in range(2)]
    for epoch in epochs:
        assert sum(count for row, count in epoch.items() if row < 6) == 3
        assert all(epoch[row] == 2 for row in range(6, 10))
    both = epochs[0] + epochs[1]
    assert all(both[row] == 1 for row in range(6))


def test_a_task_without_weight_is_left_out():
    order = RowOrder(TASKS, 0, weights={Task.MCQ: 0})
    assert sorted(order.take(4)) == [6, 7, 8, 9]
    assert order.epoch == 1


def test_epochs_without_a_row_are_passed_over():
    order = RowOrder([Task.MCQ] * 2, 0, weights={Task.MCQ: 0.1})  # one row in five epochs
    assert sorted(order.take(2)) == [0, 1]
    assert order.rows_of(0) == ()


@given(
    counts=st.dictionaries(st.sampled_from(Task), st.integers(1, 7), min_size=1),
    weight=st.sampled_from([0.1, 1 / 3, 0.5, 0.9, 1.0, 1.7, 3.0]),
    epochs=st.integers(1, 12),
    seed=st.integers(),
)
def test_rows_of_a_task_are_used_equally_often(counts, weight, epochs, seed):
    tasks = [task for task, count in counts.items() for _ in range(count)]
    order = RowOrder(tasks, seed, weights=dict.fromkeys(counts, weight))
    used = Counter(row for epoch in range(epochs) for row in order.rows_of(epoch))
    for task, count in counts.items():
        rows = [used[row] for row, of in enumerate(tasks) if of is task]
        assert max(rows) - min(rows) <= 1
        assert abs(sum(rows) - epochs * weight * count) < 1 + 1e-5


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.integers(0, 7))
def test_resuming_anywhere_gives_the_rest(takes, after):
    order = RowOrder(TASKS, 3, weights={Task.MCQ: 0.5})
    parts, state = [], order.state()
    for i, count in enumerate(takes):
        if i == after:
            state = json.loads(json.dumps(order.state()))
            parts = []
        parts += order.take(count)
    resumed = RowOrder(TASKS, 3, weights={Task.MCQ: 0.5})
    resumed.restore(state)
    assert resumed.take(len(parts)) == parts
    assert resumed.state() == order.state()


def test_weights_by_their_names_in_the_configuration():
    rows = [row(i, task=task) for i, task in enumerate(TASKS)]
    order = order_of(rows, 0, task_weights={"mcq": 0.5, "visual": 2})
    assert order.state() == RowOrder(TASKS, 0, weights={Task.MCQ: 0.5, Task.VISUAL: 2}).state()
    assert order.per_epoch == 3 + 8
    assert RowOrder(TASKS, 0).per_epoch == 10


def test_a_place_of_other_rows_is_refused():
    state = RowOrder(TASKS, 0).state()
    with pytest.raises(ValueError, match="another seed"):
        RowOrder(TASKS, 1).restore(state)
    with pytest.raises(ValueError, match="another rows or task weights"):
        RowOrder(TASKS[1:], 0).restore(state)
    with pytest.raises(ValueError, match="another rows or task weights"):
        RowOrder(TASKS, 0, weights={Task.MCQ: 0.5}).restore(state)
    with pytest.raises(ValueError, match="row 10 of 10"):
        RowOrder(TASKS, 0).restore(state | {"position": 10})


@pytest.mark.parametrize(
    ("tasks", "weights", "message"),
    [
        ([], None, "no rows"),
        (TASKS, {Task.MCQ: -1}, "'General video QA MCQ' is -1"),
        (TASKS, {Task.MCQ: float("nan")}, "is nan"),
        (TASKS, {Task.TEMPORAL: 1}, "no row is of that task"),
        (TASKS, {Task.MCQ: 0, Task.VISUAL: 0}, "holds 0 rows"),
    ],
)
def test_impossible_orders(tasks, weights, message):
    with pytest.raises(ValueError, match=message):
        RowOrder(tasks, 0, weights=weights)
