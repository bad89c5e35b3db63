"""What the bench measures: that its texts are what it says, and its arithmetic."""

import itertools
import json
from pathlib import Path

import pytest

from cluster.bench.completions import FRAME, LONG, cases
from cluster.bench.rewards import StepShare, rates, step_share
from o3rl.config import Profile, RewardsConfig, RunConfig, as_yaml
from o3rl.types import PARTS, Task
from rewards.scorer import Scorer

EVIDENCE = {
    Task.MCQ: {"ans_acc", "format"},
    Task.FREE_FORM: {"format"},  # one word has no bigrams, so never 1
    Task.TEMPORAL_SPATIAL: {"thk_spatial", "thk_temporal_point", "format"},
    Task.TEMPORAL: {"ans_tiou", "thk_temporal_segment", "format"},
    Task.TEMPORAL_MCQ: {"ans_acc", "ans_tiou", "thk_temporal_segment", "format"},
    Task.VISUAL: {"ans_viou", "thk_spatial", "format"},
}


@pytest.mark.parametrize("task", Task)
def test_right_wrong_and_long_completions_are_that(task):
    scorer = Scorer(RewardsConfig())
    right, wrong, long = cases(task, count=3)
    earned = [
        scorer.score(task, case.text, truth=case.row.truth, progress=1.0, frame_size=FRAME)
        for case in (right, wrong, long)
    ]
    assert {name for name in PARTS if earned[0].parts[name] > 0.8} >= EVIDENCE[task]
    assert earned[1].total < earned[0].total - 0.5 or task in (Task.MCQ, Task.FREE_FORM)
    assert len(long.text) > 0.8 * LONG  # boxes in pixels are shorter than in the row
    assert len(right.text) < 1000
    assert cases(task, count=3) == [right, wrong, long]


def test_a_rate_is_texts_by_seconds():
    """A clock of 1 s a look: a round is done after the first look, and the budget of 0.1 s spent
    at the second, 2 s from the start."""
    clock = itertools.count().__next__
    found = rates(0.1, different=6, clock=lambda: float(clock()))
    assert set(found) == set(Profile)
    assert set(found["paper"]) == set(Task)
    assert {rate for by_task in found.values() for rate in by_task.values()} == {6 / 2}


def logged(folder: Path, *steps: dict) -> Path:
    (folder / "rl").mkdir()
    (folder / "rl" / "config.yaml").write_text(as_yaml(RunConfig()))
    lines = [{"step": n, "time": 0.0, "metrics": each} for n, each in enumerate(steps, start=1)]
    (folder / "rl" / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    return folder


RATES = {"paper": {"a": 1000.0, "b": 250.0}}  # 1 ms and 4 ms: 2.5 ms a completion


def test_the_share_of_a_step(tmp_path):
    """64 groups of 8: 512 completions · 2.5 ms = 1.28 s of a step of 15 s."""
    steps = [
        {"seconds/step": 10.0, "scoring/seconds": 0.5, "scoring/tail_seconds": 0.1},
        {"seconds/step": 20.0, "scoring/seconds": 1.0, "scoring/tail_seconds": 0.2},
        {"loss": 1.0},
    ]
    got = step_share(logged(tmp_path, *steps), RATES)
    assert (got.steps, got.step_seconds, got.completions) == (2, 15.0, 512)
    assert got.computed == pytest.approx(1.28 / 15)
    assert (got.worked, got.waited) == pytest.approx((1.5 / 30, 0.3 / 30))


def test_a_run_that_logged_no_scoring(tmp_path):
    got = step_share(logged(tmp_path, {"seconds/step": 12.8}), RATES)
    assert got == StepShare(1, 12.8, 512, pytest.approx(0.1), None, None)


def test_a_run_without_steps_is_refused(tmp_path):
    with pytest.raises(ValueError, match="made no step"):
        step_share(logged(tmp_path), RATES)
    with pytest.raises(FileNotFoundError):
        step_share(tmp_path / "none", RATES)
