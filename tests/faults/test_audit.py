"""The audit of a struck run: silent on a good one, and each kind of damage is told."""

import asyncio
import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file

from o3rl.persistence.batch_log import Recording
from o3rl.persistence.ledger import SET_ASIDE, SKIPPED, TRAINED, Ledger, LedgerEntry
from o3rl.types import (
    FinishReason,
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
from tests.faults.audit import audit
from tests.faults.fake_engine import DIES, OVERFLOWS

MARKED = {"row-1": DIES, "row-2": OVERFLOWS}
STEPS = (1, 2, 3)
REFUSED = "refused by the learner: frames: media: no answer to 'k' within 20 s"


def good() -> list[LedgerEntry]:
    """Six rows: an epoch, and one of the next; two groups a step, one set aside."""
    entries = [
        LedgerEntry(n, f"row-{n % 6}", outcome=TRAINED, version=0, epoch=n // 6) for n in range(7)
    ]
    entries[1] = replace(entries[1], outcome=SET_ASIDE, version=-1, reason="replica 0 died")
    trained = [entry for entry in entries if entry.outcome == TRAINED]
    for place, entry in enumerate(trained):
        entries[entry.group] = replace(entry, version=1 + place // 2, incarnation=0)
    return entries


def batches_of(entries: list[LedgerEntry]) -> dict[int, dict[int, tuple[Version, ...]]]:
    """What those were trained on: the versions of their spans by group, by step."""
    return {
        step: {e.group: (Version(0, step - 1),) for e in entries if e.version == step}
        for step in STEPS
    }


def scored(group: int, versions: tuple[Version, ...]) -> ScoredGroup:
    """A group of one rollout, each version a token."""
    row = Row(f"row-{group}", Task.VISUAL, "", "?", "a.png", Truth("x"))
    prompt = Prompt(group, row, FramePlan((0,), (0.0,), (28, 28), 0.0), "key", 0.0)
    tokens = tuple(range(len(versions)))
    spans = tuple(zip(tokens, versions, strict=True))
    rollout = Rollout(group, 0, tokens, (0.0,) * len(tokens), spans, FinishReason.STOP, "x")
    return ScoredGroup(Group(prompt, (rollout,), (1,), "digest"), (Reward({}, 0.0),), (0.0,))


def found(
    folder, entries, *, steps=STEPS, tracked=STEPS, old=0.0, model=1.0, skips=(1,), batches=()
):
    """What the audit says of a run that left these."""
    lines = [
        {"step": s, "metrics": {"stale/max": old, "learner/skipped_steps": float(s in skips)}}
        for s in steps
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    Ledger(entries).write(folder / "ledger.parquet")
    (folder / "model").mkdir(exist_ok=True)
    if model is not None:
        tensors = {"good": np.zeros(2, np.float32), "last": np.array([model], np.float32)}
        save_file(tensors, folder / "model" / "model.safetensors")
    recording = Recording(folder / "batches")
    for step, groups in (batches or batches_of(entries)).items():
        batch = [scored(*each) for each in groups.items()]
        asyncio.run(recording.stepped(step, Version(0, step), batch, {}))
    return audit(
        folder,
        {f"row-{n}" for n in range(6)},
        batches=folder / "batches",
        steps=3,
        groups=2,
        staleness=1,
        marked=MARKED,
        tracked=list(tracked),
    )


def test_a_good_run_has_nothing_wrong(tmp_path):
    assert found(tmp_path, good()) == []


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"steps": (1, 2, 2, 3)}, "steps logged: [1, 2, 2, 3]"),
        ({"steps": (1, 3, 2)}, "steps logged: [1, 3, 2]"),
        ({"steps": (1, 2)}, "steps logged: [1, 2]"),
        ({"tracked": (1, 2, 2, 3)}, "steps more than once in MLflow: [2]"),
        ({"tracked": (1, 3)}, "steps in MLflow: [1, 3]"),
        ({"old": 2.0}, "steps on groups older than 1: {1: 2.0, 2: 2.0, 3: 2.0}"),
        ({"model": None}, "no model was written"),
        ({"model": float("nan")}, "model.safetensors is not finite in ['last']"),
        ({"model": float("inf")}, "model.safetensors is not finite in ['last']"),
        (
            {"skips": ()},
            "optimiser steps were skipped in [], and rows whose gradient overflows trained in [1]",
        ),
        (
            {"skips": (1, 3)},
            "optimiser steps were skipped in [1, 3], and rows whose gradient overflows trained in "
            "[1]",
        ),
    ],
)
def test_what_is_logged_and_written(tmp_path, keywords, said):
    assert found(tmp_path, good(), **keywords) == [said]


@pytest.mark.parametrize(
    ("group", "changes", "said"),
    [
        (3, {"version": 1}, "the batch of step 1 holds 3 groups, not 2"),
        (3, {"version": 4}, "prompts trained by versions [4]; there are 1 to 3"),
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


def test_a_prompt_that_was_left(tmp_path):
    entries = good()
    entries[3] = LedgerEntry(3, "row-3")
    assert any(each.startswith("prompts neither trained") for each in found(tmp_path, entries))


@pytest.mark.parametrize(
    ("outcome", "reason", "fine"),
    [
        (SET_ASIDE, "rollout replica 1 on h, pid 5: no group within 8 s", True),
        (SET_ASIDE, "no healthy rollout replica: ", True),
        (SET_ASIDE, "the learner waited 60 s for it, and it would be too old", True),
        (SKIPPED, "media: reading timed out", True),
        (SKIPPED, "media: cannot be opened", False),
        (SET_ASIDE, "a tensor is odd", False),
    ],
)
def test_a_marked_prompt_may_end_of_a_strike_too(tmp_path, outcome, reason, fine):
    entries = good()
    entries[1] = replace(entries[1], outcome=outcome, reason=reason)
    assert (found(tmp_path, entries) == []) == fine


def test_a_few_prompts_may_be_given_up(tmp_path):
    further = [("row-1", "it died"), ("row-2", "no group within 8 s"), ("row-3", "it died")]
    entries = good() + [
        LedgerEntry(7 + place, row, 6, SET_ASIDE, reason=reason, epoch=1)
        for place, (row, reason) in enumerate(further)
    ]
    assert found(tmp_path, entries) == []  # 1 of 10: two are marked
    entries.append(LedgerEntry(10, "row-4", 0, SKIPPED, reason="media: reading timed out", epoch=1))
    again = tmp_path / "again"
    again.mkdir()
    [told] = found(again, entries)
    assert told.startswith("2 of 11 prompts were given up: {'row-3': 'it died', 'row-4': ")


def test_a_prompt_may_not_be_given_up_for_what_no_strike_does(tmp_path):
    further = [("row-1", "it died"), ("row-2", "it died"), ("row-3", "nobody knows why")]
    entries = good() + [
        LedgerEntry(7 + place, row, 6, SET_ASIDE, reason=reason, epoch=1)
        for place, (row, reason) in enumerate(further)
    ]
    [told] = found(tmp_path, entries)
    assert told == "row row-3 was given up, which no strike explains: nobody knows why"


def test_a_refused_group_is_in_its_batch_and_not_trained(tmp_path):
    entries, batches = good(), batches_of(good())
    refused = replace(entries[2], outcome=SET_ASIDE, version=-1, incarnation=-1, reason=REFUSED)
    entries[2] = refused
    assert found(tmp_path, entries, batches=batches, skips=()) == []
    again = tmp_path / "again"
    again.mkdir()
    del batches[1][2]
    told = found(again, entries, batches=batches, skips=())
    assert "the batch of step 1 holds 1 groups, not 2" in told
    assert "group 2 was refused, and is in 0 batches" in told


def test_one_that_is_set_aside_for_something_else_was_in_no_batch(tmp_path):
    entries, batches = good(), batches_of(good())
    other = replace(entries[2], outcome=SET_ASIDE, version=-1, reason="no group within 8 s")
    entries[2] = other
    said = "the batch of step 1 holds groups [0, 2]; the ledger has [0] trained, [] refused"
    assert found(tmp_path, entries, batches=batches, skips=()) == [said]


@pytest.mark.parametrize(
    ("step", "changes", "said"),
    [
        (2, {4: None}, "the batch of step 2 holds 1 groups, not 2"),
        (2, {4: None, 9: (0, 1)}, "the batch of step 2 holds groups [3, 9]; the ledger has [3, 4]"),
        (3, {5: (0, 0)}, "step 3 learned from tokens of versions 0.0; incarnation [0], 1 to 2 may"),
        (3, {5: (0, 3)}, "step 3 learned from tokens of versions 0.3; incarnation [0], 1 to 2 may"),
        (3, {5: (1, 2)}, "step 3 learned from tokens of versions 1.2; incarnation [0], 1 to 2 may"),
        (3, {3: (0, 1)}, "the batch of step 3 holds 3 groups, not 2"),
    ],
)
def test_batches_are_what_the_ledger_says_and_of_the_versions_that_may_be(
    tmp_path, step, changes, said
):
    batches = batches_of(good())
    for group, version in changes.items():
        batches[step].pop(group, None)
        if version is not None:
            batches[step][group] = (Version(*version),)
    assert any(each.startswith(said) for each in found(tmp_path, good(), batches=batches))


@pytest.mark.parametrize(
    ("spans", "said"),
    [
        ((1, 2), []),
        ((0, 2), ["step 3 learned from tokens of versions 0.0; incarnation [0], 1 to 2 may be"]),
        ((2, 1), ["step 3: spans out of order: ((0, Version(incarnation=0, n=2)), "]),
    ],
)
def test_every_span_of_a_rollout_counts(tmp_path, spans, said):
    batches = batches_of(good())
    batches[3][5] = tuple(Version(0, n) for n in spans)
    told = found(tmp_path, good(), batches=batches)
    assert len(told) == len(said)
    assert all(line.startswith(start) for line, start in zip(told, said, strict=True))


def test_a_step_is_of_one_incarnation(tmp_path):
    entries = good()
    entries[3] = replace(entries[3], incarnation=1)
    said = "step 2 is of more than one incarnation: [0, 1]"
    assert found(tmp_path, entries) == [said]


@pytest.mark.parametrize(
    ("step", "said"),
    [(3, "batches recorded: [1, 2]"), (2, "step-000002.json.gz is missing, and later ones are")],
)
def test_a_batch_that_was_not_recorded(tmp_path, step, said):
    batches = batches_of(good())
    del batches[step]
    assert any(said in each for each in found(tmp_path, good(), batches=batches))
