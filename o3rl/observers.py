"""Who is told of each training step: validation, tracking with evidence pages, checkpoints.

Their order matters: validation adds its metrics before tracking logs them, and a checkpoint is
taken last. Each acts every so many steps, by its own setting.
"""

import asyncio
import json
import logging
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from o3rl.evaluation.evaluator import GREEDY, Answered, Evaluator
from o3rl.evaluation.evidence import Entry, Response
from o3rl.evaluation.measures import summary
from o3rl.evaluation.pages import write_page
from o3rl.files import replace_folder, write_text
from o3rl.loop.step_metrics import evidence_metrics
from o3rl.media.decoder import MediaError
from o3rl.persistence.checkpoints import Checkpoint, Checkpoints, CheckpointStore
from o3rl.persistence.ledger import Ledger
from o3rl.text.boxes import BoxConvention
from o3rl.tracking.rollout_table import rollout_table_rows
from o3rl.tracking.tracker import Tracker
from o3rl.types import Row, ScoredGroup, Version

logger = logging.getLogger(__name__)

Frames = Callable[[str], Awaitable[np.ndarray]]  # by media key

VALIDATED = (
    "total",
    "total_without_format",
    "accuracy",
    "temporal_iou",
    "box_iou",
    "recall",
    "claims/time_proximity",
    "claims/gated_box_iou",
)


class Validation:
    """Greedy answers to the same rows every `every` steps; the best model is exported to `best`."""

    def __init__(
        self,
        evaluator: Evaluator,
        rows: Sequence[Row],
        learner: CheckpointStore,
        *,
        every: int,
        best: Path,
        seed: int,
        weights: Mapping[str, float],
    ):
        self._evaluator = evaluator
        self._rows = rows
        self._learner = learner
        self._every = every
        self._best = best
        self._seed = seed
        self._weights = weights

    async def stepped(
        self, step: int, version: Version, groups: Sequence[ScoredGroup], metrics: dict[str, float]
    ) -> None:
        """Adds `validation/…` where a validation is due."""
        del groups
        if step % self._every:
            return
        answered = await self._evaluator.run(self._rows, GREEDY)
        metrics["validation/failed"] = sum(answer.group is None for answer in answered)
        if metrics["validation/failed"] == len(answered):
            logger.warning("validation of step %d: none of its rows was answered", step)
            return
        found = summary([a.scored for a in answered], seed=self._seed, weights=self._weights)
        found |= {f"claims/{name}": value for name, value in found["claims"].items()}
        metrics |= {f"validation/{n}": found[n] for n in VALIDATED if found[n] is not None}
        total = metrics.get("validation/total")
        if total is not None and total > self._best_total():
            await self._keep(step, version, total)

    async def _keep(self, step: int, version: Version, total: float) -> None:
        """A full disk costs the new best model, not the old one, nor the run."""
        aside = self._best.with_suffix(".writing")
        found = {"step": step, "version": str(version), "total": total}
        try:
            await asyncio.to_thread(shutil.rmtree, aside, ignore_errors=True)
            await self._learner.export(aside)
            write_text(aside / "validation.json", json.dumps(found))
            await asyncio.to_thread(replace_folder, self._best, aside)
        except OSError as error:
            logger.error("the best model is not in %s: %s", self._best, error)
            await asyncio.to_thread(shutil.rmtree, aside, ignore_errors=True)

    def _best_total(self) -> float:
        path = self._best / "validation.json"
        return json.loads(path.read_text())["total"] if path.is_file() else float("-inf")


class Tracking:
    """Logs the metrics of each step; now and then a table of rollouts and an evidence page."""

    def __init__(
        self,
        tracker: Tracker,
        frames: Frames,
        *,
        pages: Path,
        rollouts: int,
        every: int,
        weights: Mapping[str, float],
        convention: BoxConvention,
    ):
        self._tracker = tracker
        self._frames = frames
        self._pages = pages
        self._rollouts = rollouts
        self._every = every
        self._weights = weights
        self._convention = convention

    async def stepped(
        self, step: int, version: Version, groups: Sequence[ScoredGroup], metrics: dict[str, float]
    ) -> None:
        """Log `metrics`, and what the groups show beside them."""
        self._tracker.log(metrics | evidence_metrics(groups, weights=self._weights), step=step)
        if not self._rollouts or (step % self._every and step != 1):
            return
        try:
            await self._show(step, version, groups)
        except OSError as error:  # what is shown is no reason to end a run
            logger.error("step %d is not shown: %s", step, error)

    async def _show(self, step: int, version: Version, groups: Sequence[ScoredGroup]) -> None:
        self._tracker.table(rollout_table_rows(groups, step=step, limit=self._rollouts), "rollouts")
        shown = [group for group in groups if group.rewards_G][: self._rollouts]
        entries = [entry for group in shown if (entry := await self._entry(group))]
        if not entries:
            return
        path = self._pages / f"step-{step:05d}.html"
        title = f"Rollouts of step {step}, by version {version.incarnation}.{version.n - 1}"
        how = {"convention": self._convention, "weights": self._weights}
        await asyncio.to_thread(write_page, path, title, entries, **how)
        self._tracker.artifact(path, "pages")

    async def _entry(self, scored: ScoredGroup) -> Entry | None:
        """The best rollout of a group; None if its frames cannot be had any more."""
        place = max(range(len(scored.rewards_G)), key=lambda i: scored.rewards_G[i].total)
        prompt, rollout = scored.group.prompt, scored.group.rollouts_G[place]
        try:
            frames = await self._frames(prompt.media_key)
        except (MediaError, TimeoutError) as error:
            logger.warning("row %s is not on the page: %s", prompt.row.id, error)
            return None
        return Entry(
            prompt.row,
            prompt.plan,
            frames,
            rollout.text,
            scored.rewards_G[place],
            f"the best of {len(scored.rewards_G)}; advantage {scored.advantages_G[place]:+.2f}",
        )


class Checkpointing:
    """Has a checkpoint taken after each step that is due for one; `state` gives the loop's part."""

    def __init__(
        self, checkpoints: Checkpoints, ledger: Ledger, state: Callable[[], Mapping[str, Any]]
    ):
        self._checkpoints = checkpoints
        self._ledger = ledger
        self._state = state

    async def stepped(
        self, step: int, version: Version, groups: Sequence[ScoredGroup], metrics: dict[str, float]
    ) -> None:
        """Save where a checkpoint is due."""
        del version, groups, metrics
        await self._checkpoints.save_due(step, self._state, ledger=self._ledger)

    async def save(self, step: int) -> Checkpoint:
        """Take the one after `step`, the last one that was trained. Raises Unsaved."""
        return await self._checkpoints.save(step, self._state(), ledger=self._ledger)


async def entries_of(
    answered: Mapping[str, Sequence[Answered]],
    frames: Frames,
    *,
    limit: int,
    unseen: Mapping[str, Sequence[Answered]] | None = None,
) -> list[Entry]:
    """Page entries of evaluated rows by model, the tasks in turn, one response a model and row.

    The last model's are the entries, those of the others stand beside; `unseen` are answers of who
    did not see the frames, by name. A row that the last model has not answered is left out.
    """
    *others, last = answered
    by_task: dict[str, list[Answered]] = {}
    for each in answered[last]:
        if each.group is not None:
            by_task.setdefault(each.row.task, []).append(each)
    chosen: list[Answered] = []
    while len(chosen) < limit and any(by_task.values()):
        chosen += [rows.pop(0) for rows in by_task.values() if rows]
    beside = _responses({name: answered[name] for name in others})
    blind = _responses(unseen or {})
    return [
        replace(
            await _answer_entry(each, last, frames),
            others=tuple(beside.get(each.row.id, ())),
            unseen=tuple(blind.get(each.row.id, ())),
        )
        for each in chosen[:limit]
    ]


def _responses(answered: Mapping[str, Sequence[Answered]]) -> dict[str, list[Response]]:
    """The first response of each model, by row."""
    found: dict[str, list[Response]] = {}
    for name, rows in answered.items():
        for each in rows:
            if each.group is not None:
                response = Response(name, each.group.rollouts_G[0].text, each.rewards[0])
                found.setdefault(each.row.id, []).append(response)
    return found


async def _answer_entry(answered: Answered, model: str, frames: Frames) -> Entry:
    assert answered.group is not None
    prompt = answered.group.prompt
    return Entry(
        answered.row,
        prompt.plan,
        await frames(prompt.media_key),
        answered.group.rollouts_G[0].text,
        answered.rewards[0],
        answered.row.source or "held out",
        model=model,
    )


class Fence:
    """Told first of a step, so that an attempt that was superseded ends before it logs it."""

    def __init__(self, check: Callable[[], None]):
        self._check = check

    async def stepped(
        self, step: int, version: Version, groups: Sequence[ScoredGroup], metrics: dict[str, float]
    ) -> None:
        """Look whether the folder is still ours."""
        del step, version, groups, metrics
        await asyncio.to_thread(self._check)


class Tally:
    """Counts what was trained on."""

    def __init__(self) -> None:
        self.samples = 0
        self.tokens = 0

    async def stepped(
        self, step: int, version: Version, groups: Sequence[ScoredGroup], metrics: dict[str, float]
    ) -> None:
        """Add a batch."""
        del step, version
        self.samples += sum(len(group.rewards_G) for group in groups)
        self.tokens += int(metrics["tokens/sampled"])

    def state(self) -> dict[str, int]:
        """Plain values from which `restore` goes on."""
        return {"samples": self.samples, "tokens": self.tokens}

    def restore(self, state: Mapping[str, int]) -> None:
        """Go on counting where `state` was taken."""
        self.samples, self.tokens = state["samples"], state["tokens"]
