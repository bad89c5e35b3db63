"""The ledger: one entry a prompt, whatever becomes of it, and the same after a write and a read."""

import pytest

from o3rl.persistence.ledger import ADMITTED, SET_ASIDE, SKIPPED, TRAINED, Ledger, LedgerEntry
from o3rl.types import Version
from tests.o3rl.made import prompt


@pytest.fixture
def ledger() -> Ledger:
    """Group 0 trained, 1 trained on its second attempt, 2 set aside, 3 skipped, 4 running."""
    ledger = Ledger()
    for group in (0, 1, 2, 4):
        ledger.admit(prompt(group))
    ledger.skip(3, "row-3", "missing")
    ledger.retry(prompt(1, attempt=1), "engine died")
    ledger.set_aside(prompt(2, attempt=2), "too long")
    ledger.train([prompt(1, attempt=1), prompt(0)], Version(0, 5))
    return ledger


def test_what_became_of_each(ledger):
    assert ledger.entries() == (
        LedgerEntry(0, "row-0", 1, TRAINED, 0, 5),
        LedgerEntry(1, "row-1", 2, TRAINED, 0, 5, "engine died"),
        LedgerEntry(2, "row-2", 1, SET_ASIDE, reason="too long"),
        LedgerEntry(3, "row-3", 0, SKIPPED, reason="missing"),
        LedgerEntry(4, "row-4", 1, ADMITTED),
    )
    assert ledger.counts() == {TRAINED: 2, SET_ASIDE: 1, SKIPPED: 1, ADMITTED: 1}


def test_it_is_read_back(ledger, tmp_path):
    ledger.write(tmp_path / "deep" / "ledger.parquet")
    assert Ledger.read(tmp_path / "deep" / "ledger.parquet").entries() == ledger.entries()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["ledger.parquet"]


def test_an_empty_one_is_read_back(tmp_path):
    Ledger().write(tmp_path / "ledger.parquet")
    assert Ledger.read(tmp_path / "ledger.parquet").entries() == ()


def test_a_group_is_admitted_once(ledger):
    with pytest.raises(AssertionError, match="group 0 is admitted twice"):
        ledger.admit(prompt(0))
    with pytest.raises(AssertionError, match="group 0 is admitted already"):
        ledger.skip(0, "row-0", "missing")


@pytest.mark.parametrize("group", [0, 2, 3])
def test_only_a_running_prompt_is_trained(ledger, group):
    with pytest.raises(AssertionError):
        ledger.train([prompt(group)], Version(0, 6))


def test_the_attempts_of_a_prompt_set_aside_are_counted():
    ledger = Ledger()
    ledger.admit(prompt(0))
    ledger.retry(prompt(0, attempt=1), "died")
    ledger.set_aside(prompt(0, attempt=1), "died again")
    assert ledger.entries() == (LedgerEntry(0, "row-0", 2, SET_ASIDE, reason="died again"),)
