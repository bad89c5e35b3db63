"""What a struck run must have left: as a run without faults would, whatever befell it."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from actors.marks import DIES, EMPTY, OVERFLOWS
from cluster.chaos_reward import NO_NUMBER
from o3rl.ledger import SET_ASIDE, SKIPPED, TRAINED

ENDS = {  # of rows that are marked: the outcome, and what its reason says
    DIES: (SET_ASIDE, "died"),
    EMPTY: (SET_ASIDE, "all completions are empty"),
    NO_NUMBER: (SET_ASIDE, "returned nan"),
    OVERFLOWS: (TRAINED, ""),
}


def audit(
    folder: Path,
    rows: Set[str],
    *,
    steps: int,
    groups: int,
    staleness: int,
    marked: Mapping[str, str],
    tracked: Sequence[int],
) -> list[str]:
    """What is wrong with the finished run in `folder` on `rows` (ids); empty if nothing is.

    It was to train `steps` batches of `groups` prompts; `marked` gives the mark of a row by its id;
    `tracked` are the steps of a metric in MLflow.
    """
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    logged = [json.loads(line) for line in lines]
    metrics = {line["step"]: line["metrics"] for line in logged if "stale/max" in line["metrics"]}
    entries = pq.read_table(folder / "ledger.parquet").to_pylist()
    each = list(range(1, steps + 1))
    wrong = []
    if sorted(line["step"] for line in logged) != each:
        wrong.append(f"steps logged: {[line['step'] for line in logged]}")
    if sorted(tracked) != each:
        wrong.append(f"steps in MLflow: {sorted(tracked)}")
    trained = Counter(entry["version"] for entry in entries if entry["outcome"] == TRAINED)
    if trained != Counter(dict.fromkeys(each, groups)):
        wrong.append(f"prompts trained by version: {sorted(trained.items())}")
    old = {step: found["stale/max"] for step, found in metrics.items()}
    if late := {step: age for step, age in old.items() if age > staleness}:
        wrong.append(f"steps on groups older than {staleness}: {late}")
    if unsettled := [e for e in entries if e["outcome"] not in (TRAINED, SET_ASIDE, SKIPPED)]:
        wrong.append(f"prompts neither trained nor listed with a reason: {unsettled}")
    wrong += [f"listed without a reason: {e}" for e in entries if _unexplained(e)]
    numbers = [entry["group"] for entry in entries]
    if numbers != list(range(len(entries))):
        wrong.append(f"group numbers: {numbers}")
    wrong += _of_marked(entries, marked)
    wrong += _of_epochs(entries, rows)
    if any(mark == OVERFLOWS for mark in marked.values()):
        skipped = sum(found.get("learner/skipped_steps", 0) for found in metrics.values())
        if not skipped:
            wrong.append("no optimiser step was skipped, though a gradient was not finite")
    if not list((folder / "model").glob("*.safetensors")):
        wrong.append("no model was written")
    return wrong


def _unexplained(entry: Mapping[str, Any]) -> bool:
    return entry["outcome"] in (SET_ASIDE, SKIPPED) and not entry["reason"]


def _of_marked(entries: Sequence[Mapping[str, Any]], marked: Mapping[str, str]) -> list[str]:
    """A prompt that fails each time is set aside, and says why."""
    wrong = []
    for entry in entries:
        mark = marked.get(entry["row"])
        if mark is None or entry["outcome"] not in (TRAINED, SET_ASIDE, SKIPPED):
            continue
        outcome, reason = ENDS[mark]
        if entry["outcome"] != outcome or reason not in entry["reason"]:
            wrong.append(f"{mark}: {entry}, not {outcome} for {reason!r}")
    seen = {entry["row"] for entry in entries}
    return wrong + [f"{mark} was never met" for row, mark in marked.items() if row not in seen]


def _of_epochs(entries: Sequence[Mapping[str, Any]], rows: Set[str]) -> list[str]:
    """In each epoch a row is used once; in one that another one follows, every row is."""
    last = max(entry["epoch"] for entry in entries)
    wrong = []
    for epoch in range(last + 1):
        used = Counter(entry["row"] for entry in entries if entry["epoch"] == epoch)
        if twice := [row for row, count in used.items() if count > 1]:
            wrong.append(f"epoch {epoch} used {twice} more than once")
        if epoch < last and (missing := sorted(rows - set(used))):
            wrong.append(f"epoch {epoch} did not use {missing}")
    return wrong
