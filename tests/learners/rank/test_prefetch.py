"""One item ahead, never two; results and errors in their places."""

import threading

import pytest

from learners.rank.inputs import prefetched

SECONDS = 10.0


def test_the_next_item_is_worked_on_while_this_one_is_used():
    begun = [threading.Event() for _ in range(4)]

    def work(number: int) -> int:
        begun[number].set()
        return number**2

    found = prefetched(work, range(4))
    for number in range(3):
        assert next(found) == number**2
        assert begun[number + 1].wait(SECONDS)
        assert not any(event.is_set() for event in begun[number + 2 :])
    assert list(found) == [9]


def test_nothing_gives_nothing():
    assert list(prefetched(str, [])) == []


def test_an_error_comes_in_its_place():
    found = prefetched(lambda number: 1 // number, [1, 0])
    assert next(found) == 1
    with pytest.raises(ZeroDivisionError):
        next(found)
