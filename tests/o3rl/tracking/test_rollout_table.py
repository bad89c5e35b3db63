"""Metrics of a batch, by hand."""

import json
import math

import pytest

from o3rl.loop.step_metrics import evidence_metrics
from o3rl.tracking.rollout_table import rollout_table_rows
from o3rl.types import (
    Claim,
    Failure,
    FailureKind,
    FramePlan,
    Group,
    Prompt,
    Reward,
    Rollout,
    Row,
    ScoredGroup,
    Task,
    Truth,
    Version,
)

BOX = (0.1, 0.1, 0.3, 0.3)


def scored(number: int, task: Task, rewards, lengths, finishes) -> ScoredGroup:
    row = Row(f"r{number}", task, "synth", "What?", "a.mp4", Truth("A", letter="A"))
    prompt = Prompt(number, row, FramePlan((0,), (0.0,), (28, 28), 1.0), "key", 0.5)
    rollouts = tuple(
        Rollout(number, i, (1,) * n, (-0.1,) * n, ((0, Version(0, 0)),), finish, "")
        for i, (n, finish) in enumerate(zip(lengths, finishes, strict=True))
    )
    group = Group(
        prompt, rollouts, (1, 2), "digest", (Failure(number, 9, "lost", FailureKind.SERVICE),)
    )
    return ScoredGroup(group, tuple(rewards), (0.0,) * len(rollouts))


def reward(spatial: float, form: float, claims=(), **metrics: float) -> Reward:
    parts = {"thk_spatial": spatial, "format": form}
    return Reward(parts, spatial + form, tuple(claims), metrics)


def test_by_hand():
    near = Claim("a", 1.0, (BOX,), gated=False)
    far = Claim("a", 9.0, (BOX,), gated=True)
    first = scored(
        0,
        Task.TEMPORAL_SPATIAL,
        [
            reward(0.5, 1.0, (near, far), point_sigma1=0.8, recall=1.0),
            reward(0.0, 0.5, (), point_sigma1=0.2, recall=0.0),
        ],
        (10, 30),
        ("stop", "length"),
    )
    second = scored(1, Task.MCQ, [reward(0.0, 1.0)] * 2, (5, 5), ("stop", "stop"))
    assert evidence_metrics([first, second]) == pytest.approx(
        {
            "reward/total_without_format": 0.125,  # 0.5 of one in four
            "evidence/time_proximity": 0.8,  # the rollout without a claim does not count
            "evidence/gated_box_iou": 0.5,
        }
    )
    weighed = evidence_metrics([second], weights={"format": 0.5})
    assert weighed == {"reward/total_without_format": 0.5}
    assert evidence_metrics([]) == {}


def test_the_table_holds_the_claims():
    near = Claim("rotes Auto", 1.5, (BOX, BOX), key_time=1.0, distance=0.5, iou=0.25)
    odd = Claim("a", math.inf, ((math.nan, 0.0, 1e308, 1.0),), 1.0, math.inf, gated=True)
    group = scored(0, Task.TEMPORAL_SPATIAL, [reward(0.5, 1.0, (near, odd))], (5,), ("stop",))
    [row] = rollout_table_rows([group], step=1, limit=5)
    assert json.loads(row["claims"]) == [
        {
            "object": "rotes Auto",
            "time": 1.5,
            "boxes": [list(BOX), list(BOX)],
            "key_time": 1.0,
            "distance": 0.5,
            "passed": True,
            "iou": 0.25,
        },
        {
            "object": "a",
            "time": None,
            "boxes": [[None, 0.0, 1e308, 1.0]],
            "key_time": 1.0,
            "distance": None,
            "passed": False,
            "iou": 0.0,
        },
    ]


def test_table_rows_take_one_of_each_group_first():
    groups = [
        scored(number, Task.MCQ, [reward(0.0, 1.0), reward(0.5, 0.5)], (5, 5), ("stop", "length"))
        for number in range(2)
    ]
    rows = rollout_table_rows(groups, step=7, limit=3)
    assert [(row["group"], row["sample"]) for row in rows] == [(0, 0), (1, 0), (0, 1)]
    assert rows[2] == {
        "step": 7,
        "version": "0.0",
        "group": 0,
        "sample": 1,
        "task": "General video QA MCQ",
        "question": "What?",
        "truth": "A",
        "text": "",
        "thk_spatial": 0.5,
        "format": 0.5,
        "total": 1.0,
        "advantage": 0.0,
        "finish": "length",
        "claims": "[]",
    }
    assert rollout_table_rows([], step=1, limit=5) == []
