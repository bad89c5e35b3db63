"""What a struck run must have left: as a run without faults would, whatever befell it.

It is read from the run's own files: metrics.jsonl, ledger.parquet, the model, the batches that
`--record` wrote; and from what MLflow holds of it.
"""

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence, Set
from pathlib import Path

from o3rl.persistence.batch_log import read_batch, recorded_steps
from o3rl.persistence.ledger import SET_ASIDE, SKIPPED, TRAINED, Ledger, LedgerEntry
from o3rl.types import ScoredGroup
from tests.faults.fake_engine import DIES, EMPTY, OVERFLOWS
from tests.faults.reward import NO_NUMBER

ENDS = {  # of rows that are marked: the outcome, and what its reason says
    DIES: (SET_ASIDE, "died"),
    EMPTY: (SET_ASIDE, "all completions are empty"),
    NO_NUMBER: (SET_ASIDE, "returned nan"),
    OVERFLOWS: (TRAINED, ""),
}
INFRASTRUCTURE = (  # parts of reasons that a strike may give any prompt
    "no healthy rollout replica",
    "no group within",
    "its answer was lost",
    "died",  # a replica, a scorer, a reader
    "left the pool",
    "the learner waited",
    "an answer to attempt",
    "were served",  # sampled by other versions
    "took longer than",  # a scorer
    "reading timed out",
    "media: no answer",
    "were lost twice",  # frames
)
REFUSED = "refused by the learner: "  # how such a reason begins
SPARED = 0.1  # share of prompts that a struck run may give up, beside the marked ones


def audit(
    folder: Path,
    rows: Set[str],
    *,
    batches: Path,
    steps: int,
    groups: int,
    staleness: int,
    marked: Mapping[str, str],
    tracked: Sequence[int],
) -> list[str]:
    """What is wrong with the finished run in `folder` on `rows` (ids); empty if nothing is.

    It was to train `steps` batches of `groups` prompts, which lie in `batches`; `marked` gives the
    mark of a row by its id; `tracked` are the steps of a metric in MLflow.
    """
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    logged = [json.loads(line) for line in lines]
    metrics = {line["step"]: line["metrics"] for line in logged}
    entries = Ledger.read(folder / "ledger.parquet").entries()
    each = range(1, steps + 1)
    return [
        *_of_steps([line["step"] for line in logged], tracked, each),
        *_of_metrics(metrics, entries, marked, staleness=staleness),
        *_of_batches(batches, entries, each, groups=groups, staleness=staleness),
        *_of_reasons(entries, marked),
        *_of_marked(entries, marked),
        *_of_epochs(entries, rows),
        *_of_model(folder / "model"),
    ]


def _of_steps(logged: Sequence[int], tracked: Sequence[int], each: range) -> list[str]:
    """Each step is logged once, in order; MLflow has it once."""
    wrong = []
    if list(logged) != list(each):
        wrong.append(f"steps logged: {list(logged)}")
    if sorted(set(tracked)) != list(each):
        wrong.append(f"steps in MLflow: {sorted(set(tracked))}")
    if twice := sorted(step for step, count in Counter(tracked).items() if count > 1):
        wrong.append(f"steps more than once in MLflow: {twice}")
    return wrong


def _of_metrics(
    metrics: Mapping[int, Mapping[str, float]],
    entries: Sequence[LedgerEntry],
    marked: Mapping[str, str],
    *,
    staleness: int,
) -> list[str]:
    """No step is on older groups than it may be; an optimiser step is skipped where a gradient
    overflows, and nowhere else.
    """
    wrong = []
    old = {step: found["stale/max"] for step, found in metrics.items()}
    if late := {step: age for step, age in old.items() if age > staleness}:
        wrong.append(f"steps on groups older than {staleness}: {late}")
    skipped = {step for step, found in metrics.items() if found["learner/skipped_steps"] > 0}
    overflow = {
        entry.version
        for entry in entries
        if entry.outcome == TRAINED and marked.get(entry.row) == OVERFLOWS
    }
    if skipped != overflow:
        wrong.append(
            f"optimiser steps were skipped in {sorted(skipped)}, and rows whose gradient "
            f"overflows trained in {sorted(overflow)}"
        )
    return wrong


def _of_batches(
    folder: Path, entries: Sequence[LedgerEntry], each: range, *, groups: int, staleness: int
) -> list[str]:
    """What was learned from is what the ledger says, and no older or newer than it may be."""
    try:
        last = recorded_steps(folder)
        batches = {step: read_batch(folder, step) for step in range(1, last + 1)}
    except (FileNotFoundError, ValueError) as error:
        return [str(error)]
    wrong = []
    if list(batches) != list(each):
        wrong.append(f"batches recorded: {list(batches)}")
    by_group = {entry.group: entry for entry in entries}
    refused = {
        number
        for number, entry in by_group.items()
        if entry.outcome == SET_ASIDE and entry.reason.startswith(REFUSED)
    }
    trained = Counter(entry.version for entry in entries if entry.outcome == TRAINED)
    turned_down: Counter[int] = Counter()
    for step, batch in batches.items():
        numbers = [scored.group.prompt.group for scored in batch]
        turned_down.update(refused.intersection(numbers))
        wrong += _of_batch(step, numbers, by_group, refused, groups=groups)
        incarnations = {e.incarnation for e in entries if e.version == step}
        wrong += _of_versions(step, batch, incarnations, staleness=staleness)
    for number in sorted(refused):
        if turned_down[number] != 1:
            wrong.append(f"group {number} was refused, and is in {turned_down[number]} batches")
    if unknown := sorted(set(trained) - set(each)):
        wrong.append(f"prompts trained by versions {unknown}; there are {each[0]} to {each[-1]}")
    return wrong


def _of_batch(
    step: int,
    numbers: Sequence[int],
    by_group: Mapping[int, LedgerEntry],
    refused: Set[int],
    *,
    groups: int,
) -> list[str]:
    """The batch of a step holds what the ledger has trained by it, and what the learner refused."""
    wrong = []
    if len(numbers) != groups:
        wrong.append(f"the batch of step {step} holds {len(numbers)} groups, not {groups}")
    expected = sorted(e.group for e in by_group.values() if e.version == step)
    found = sorted(set(numbers) - refused)
    if found != expected or len(set(numbers)) != len(numbers):
        wrong.append(
            f"the batch of step {step} holds groups {sorted(numbers)}; the ledger has {expected} "
            f"trained, {sorted(refused & set(numbers))} refused"
        )
    return wrong


def _of_versions(
    step: int, batch: Sequence[ScoredGroup], incarnations: Collection[int], *, staleness: int
) -> list[str]:
    """The law of versions, for each token.

    The batch of step n is trained on the weights (i, n - 1) and makes (i, n), where i is the
    incarnation that the ledger enters. Each span of each rollout names weights (i, m) with
    n - 1 - staleness <= m <= n - 1; within a rollout tokens and versions both grow.
    """
    spans = [rollout.spans for scored in batch for rollout in scored.group.rollouts_G]
    named = {version for each in spans for _, version in each}
    incarnations = incarnations or {version.incarnation for version in named}
    wrong = []
    if len(incarnations) > 1:
        wrong.append(f"step {step} is of more than one incarnation: {sorted(incarnations)}")
    oldest, newest = step - 1 - staleness, step - 1
    strange = sorted(
        version
        for version in named
        if version.incarnation not in incarnations or not oldest <= version.n <= newest
    )
    if strange:
        names = ", ".join(map(str, strange))
        wrong.append(
            f"step {step} learned from tokens of versions {names}; incarnation "
            f"{sorted(incarnations)}, {oldest} to {newest} may be"
        )
    for each in spans:
        versions = [version for _, version in each]
        tokens = [token for token, _ in each]
        if versions != sorted(set(versions)) or tokens != sorted(set(tokens)):
            wrong.append(f"step {step}: spans out of order: {each}")
    return wrong


def _of_reasons(entries: Sequence[LedgerEntry], marked: Mapping[str, str]) -> list[str]:
    """Every prompt is trained or listed with a reason, and few are listed."""
    ends = (TRAINED, SET_ASIDE, SKIPPED)
    wrong = []
    if unsettled := [entry for entry in entries if entry.outcome not in ends]:
        wrong.append(f"prompts neither trained nor listed with a reason: {unsettled}")
    listed = [entry for entry in entries if entry.outcome in (SET_ASIDE, SKIPPED)]
    wrong += [f"listed without a reason: {entry}" for entry in listed if not entry.reason]
    numbers = [entry.group for entry in entries]
    if numbers != list(range(len(entries))):
        wrong.append(f"group numbers: {numbers}")
    given_up = {entry.row: entry.reason for entry in listed if entry.row not in marked}
    if len(given_up) > SPARED * len(entries):
        wrong.append(f"{len(given_up)} of {len(entries)} prompts were given up: {given_up}")
    wrong += [
        f"row {row} was given up, which no strike explains: {reason}"
        for row, reason in given_up.items()
        if not any(part in reason for part in (*INFRASTRUCTURE, REFUSED))
    ]
    return wrong


def _of_marked(entries: Sequence[LedgerEntry], marked: Mapping[str, str]) -> list[str]:
    """A prompt that fails each time is set aside, and says why: its own reason, or a strike's."""
    wrong = []
    for entry in entries:
        mark = marked.get(entry.row)
        if mark is None or entry.outcome not in (TRAINED, SET_ASIDE, SKIPPED):
            continue
        outcome, reason = ENDS[mark]
        own = entry.outcome == outcome and reason in entry.reason
        struck = entry.outcome != TRAINED and any(part in entry.reason for part in INFRASTRUCTURE)
        if not own and not struck:
            wrong.append(f"{mark}: {entry}, not {outcome} for {reason!r}")
    seen = {entry.row for entry in entries}
    return wrong + [f"{mark} was never met" for row, mark in marked.items() if row not in seen]


def _of_epochs(entries: Sequence[LedgerEntry], rows: Set[str]) -> list[str]:
    """In each epoch a row is used once; in one that another one follows, every row is."""
    last = max(entry.epoch for entry in entries)
    wrong = []
    for epoch in range(last + 1):
        used = Counter(entry.row for entry in entries if entry.epoch == epoch)
        if twice := [row for row, count in used.items() if count > 1]:
            wrong.append(f"epoch {epoch} used {twice} more than once")
        if epoch < last and (missing := sorted(rows - set(used))):
            wrong.append(f"epoch {epoch} did not use {missing}")
    return wrong


def _of_model(folder: Path) -> list[str]:
    """There is one, of finite numbers."""
    from safetensors import safe_open  # takes torch, as bfloat16 is no type of numpy's

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        return ["no model was written"]
    wrong = []
    for path in files:
        with safe_open(path, framework="pt") as tensors:
            broken = [
                name
                for name in tensors.keys()  # noqa: SIM118 — it is no mapping
                if not tensors.get_tensor(name).isfinite().all()
            ]
        if broken:
            wrong.append(f"{path.name} is not finite in {broken}")
    return wrong
