"""Parsing and scoring grow as the text does, whatever it is made of."""

import gc
from collections.abc import Callable
from functools import partial
from time import process_time

import pytest

from cluster.bench.completions import CompletionCase, cases
from cluster.bench.rewards import score_once
from o3rl.config import Profile, RewardsConfig
from o3rl.text import grammar
from o3rl.types import Task
from rewards.scorer import Scorer
from tests.rewards.hostile_texts import HOSTILE, hostile

SMALL, LARGE = 3_000, 300_000  # characters
SCORERS = [Scorer(RewardsConfig(profile=profile)) for profile in Profile]
[ROW] = [case.row for case in cases(Task.TEMPORAL_SPATIAL, count=1)]


def find_all(text: str) -> None:
    """Every finder of the grammar on the whole of `text`."""
    grammar.answer_of(text)
    grammar.thought_of(text)
    grammar.interval_of(text)
    grammar.time_mentions(text)
    grammar.named_box(text)
    grammar.one_word_named_box(text)
    grammar.unpaired(text, (*grammar.PAIRED_IN_TEXT, *grammar.PAIRED_IN_THOUGHT))
    for _ in grammar.raw_claims(text):
        pass
    for _ in grammar.raw_boxes(text):
        pass


def seconds(work: Callable[[], None]) -> float:
    """Of processor time, the best of three; without the garbage collector, which would look
    through all that this process holds."""
    found = []
    collects = gc.isenabled()
    gc.disable()
    try:
        for _ in range(3):
            start = process_time()
            work()
            found.append(process_time() - start)
    finally:
        if collects:
            gc.enable()
    return min(found)


@pytest.mark.parametrize("piece", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hundred_times_the_text_takes_at_most_300_times_the_time(piece):
    """Squared it would be 10,000 times."""
    small, large = hostile(piece, SMALL), hostile(piece, LARGE)
    assert len(large) == pytest.approx(LARGE, abs=60)
    assert seconds(partial(find_all, large)) < 300 * seconds(partial(find_all, small))
    for scorer in SCORERS:
        of_small, of_large = (
            partial(score_once, scorer, CompletionCase(ROW, text)) for text in (small, large)
        )
        assert seconds(of_large) < 300 * seconds(of_small)
