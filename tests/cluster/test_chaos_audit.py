"""The audit of a struck run: silent on a good one, and each kind of damage is told."""

import json
from dataclasses import replace

import pytest

from actors.marks import DIES, OVERFLOWS
from cluster.chaos_audit import audit
from o3rl.ledger import SET_ASIDE, TRAINED, Entry, Ledger

MARKED = {"row-1": DIES, "row-2": OVERFLOWS}
STEPS = (1, 2, 3)


def good() -> list[Entry]:
    """Six rows: an epoch, and one of the next; two groups a step, one set aside."""
    entries = [Entry(n, f"row-{n % 6}", outcome=TRAINED, version=0, epoch=n // 6) for n in range(7)]
    entries[1] = replace(entries[1], outcome=SET_ASIDE, version=-1, reason="replica 0 died")
    trained = [entry for entry in entries if entry.outcome == TRAINED]
    for place, entry in enumerate(trained):
        entries[entry.group] = replace(entry, version=1 + place // 2)
    return entries


def found(folder, entries: list[Entry], *, steps=STEPS, tracked=STEPS, old=0.0, model=True):
    """What the audit says of a run that left these."""
    lines = [
        {"step": step, "metrics": {"stale/max": old, "learner/skipped_steps": 1.0}}
        for step in steps
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    Ledger(entries).write(folder / "ledger.parquet")
    (folder / "model").mkdir(exist_ok=True)
    if model:
        (folder / "model" / "model.safetensors").write_bytes(b"")
    rows = {f"row-{n}" for n in range(6)}
    return audit(folder, rows, steps=3, groups=2, staleness=1, marked=MARKED, tracked=list(tracked))


def test_a_good_run_has_nothing_wrong(tmp_path):
    assert found(tmp_path, good()) == []


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"steps": (1, 2, 2, 3)}, "steps logged: [1, 2, 2, 3]"),
        ({"tracked": (1, 2, 2, 3)}, "steps in MLflow: [1, 2, 2, 3]"),
        ({"tracked": (1, 3)}, "steps in MLflow: [1, 3]"),
        ({"steps": (1, 2)}, "steps logged: [1, 2]"),
        ({"old": 2.0}, "steps on groups older than 1: {1: 2.0, 2: 2.0, 3: 2.0}"),
        ({"model": False}, "no model was written"),
    ],
)
def test_what_is_logged_and_written(tmp_path, keywords, said):
    assert found(tmp_path, good(), **keywords) == [said]


@pytest.mark.parametrize(
    ("group", "changes", "said"),
    [
        (3, {"version": 1}, "prompts trained by version: [(1, 3), (2, 1), (3, 2)]"),
        (1, {"reason": ""}, "listed without a reason: "),
        (1, {"reason": "no room"}, f"{DIES}: "),
        (1, {"row": "row-9"}, f"{DIES} was never met"),
        (5, {"row": "row-1"}, f"{DIES}: "),
        (3, {"row": "row-0"}, "epoch 0 used ['row-0'] more than once"),
        (3, {"row": "row-9"}, "epoch 0 did not use ['row-3']"),
    ],
)
def test_what_became_of_prompts(tmp_path, group, changes, said):
    entries = good()
    entries[group] = replace(entries[group], **changes)
    assert [each for each in found(tmp_path, entries) if each.startswith(said)]


def test_a_prompt_that_was_lost(tmp_path):
    left = [entry for entry in good() if entry.group != 3]
    assert "group numbers: [0, 1, 2, 4, 5, 6]" in found(tmp_path, left)
    entries = good()
    entries[3] = Entry(3, "row-3")
    assert any(each.startswith("prompts neither trained") for each in found(tmp_path, entries))
