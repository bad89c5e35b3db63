"""The metrics of a batch, by hand."""

from dataclasses import replace

import pytest

from o3rl.loop.step_metrics import IdleTime, ScoringTime, batch_metrics, timed
from o3rl.types import (
    Claim,
    Failure,
    FailureKind,
    FinishReason,
    Group,
    Prompt,
    Reward,
    ScoredGroup,
    Version,
)
from tests.o3rl.made import PLAN, group_of, prompt, reward, rollout


@pytest.fixture
def batch() -> list[ScoredGroup]:
    """Two groups by version 0.3: one of two rollouts with spread, one of three without."""
    first = Prompt(0, prompt(0).row, PLAN, "a", 0.2, attempt=1)
    lengths = (2, 4)
    rollouts = tuple(
        rollout(
            0,
            i,
            tokens=n,
            version=Version(0, 3),
            finish=FinishReason.LENGTH if n == 4 else FinishReason.STOP,
        )
        for i, n in enumerate(lengths)
    )
    claims = (Claim("dog", 1.0, (), iou=0.5), Claim("cat", 2.0, (), iou=0.0))
    rewards = (Reward({"ans_acc": 1.0, "format": 0.5}, 1.5, claims, {"recall": 0.5}), reward(0.5))
    spread = ScoredGroup(
        Group(first, rollouts, (1,), "d", (Failure(0, 2, "died", FailureKind.SERVICE),)),
        rewards,
        (1.0, -1.0),
    )
    second = replace(prompt(1), progress=0.4)
    flat = ScoredGroup(
        group_of(second, samples=3, version=Version(0, 3)), (reward(1.0),) * 3, (0.0,) * 3
    )
    return [spread, flat]


def test_every_number(batch):
    metrics = batch_metrics(batch, Version(0, 4))
    assert metrics == pytest.approx(
        {
            "reward/total": (1.5 + 0.5 + 3.0) / 5,
            "reward/ans_acc": (1.0 + 0.5 + 3.0) / 5,
            "reward/format": 0.5,  # of the one that has it
            "evidence/recall": 0.5,
            "evidence/claim_iou": 0.25,
            "length/mean": (2 + 4 + 9) / 5,
            "length/max": 4,
            "length/truncated": 0.2,
            "tokens/sampled": 15,
            "groups/zero_spread": 0.5,
            "groups/failures": 1,
            "groups/attempts": 1.5,
            "progress": 0.3,
            "stale/mean": 0,
            "stale/max": 0,
        }
    )


def test_age_is_counted_from_the_version_that_started(batch):
    metrics = batch_metrics(batch, Version(0, 6))
    assert (metrics["stale/mean"], metrics["stale/max"]) == (2, 2)


def test_without_claims_there_is_no_mean_of_them(batch):
    assert "evidence/claim_iou" not in batch_metrics(batch[1:], Version(0, 4))


def test_scoring_time_is_of_one_batch():
    """Scorers have worked 5 s before; in this batch 2 s; its last group came at 30 and the batch
    ended at 31. The next one was ready before the learner was: nobody waited for a score."""
    spent, now = iter((5.0, 7.0, 7.5)), iter((10.0, 20.0, 30.0, 31.0, 40.0))
    scoring = ScoringTime(lambda: next(spent), clock=lambda: next(now))
    scoring.sampled()
    scoring.sampled()
    assert scoring.metrics(21.0) == {"scoring/seconds": 2.0, "scoring/tail_seconds": 1.0}
    assert scoring.metrics(0.0) == {"scoring/seconds": 0.5, "scoring/tail_seconds": 0.0}


def test_timed_adds_its_seconds():
    metrics: dict[str, float] = {}
    with timed("seconds/x", metrics):
        pass
    assert 0 <= metrics["seconds/x"] < 1


def test_idle_is_the_time_in_which_nothing_runs():
    now = [0.0]
    idle = IdleTime(clock=lambda: now[0])
    for at, running in ((2, 1), (3, 2), (5, 0), (6, 1), (9, 0)):
        now[0] = float(at)
        idle.note(running)
    now[0] = 10.0
    assert idle.take(0) == 2 + 1 + 1
    now[0] = 10.5
    assert idle.take(0) == 0.5
