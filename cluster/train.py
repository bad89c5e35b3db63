"""`o3rl train`: reinforcement learning of one run, from rows in Parquet to a Hugging Face folder.

Everything lies in `FOLDER/rl`: config.yaml, metrics.jsonl, model, best, checkpoints, pages,
ledger.parquet. Wired here: which service is which protocol of the loop.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from cluster.configs import load_named
from cluster.progress import Show
from o3rl.config import Run
from o3rl.flow import Row, ScoredGroup, Version

if TYPE_CHECKING:  # a wrong configuration is told before any of these is imported
    from cluster.frames import AsyncMedia
    from cluster.services import Learning, Sampling, Services
    from learners.group import LearnerGroup
    from o3rl.admission import Admission
    from o3rl.ledger import Ledger
    from o3rl.loop import Loop
    from o3rl.observers import Validation
    from o3rl.order import RowOrder
    from o3rl.tracking import Tracker
    from rewards.pool import ScorerPool


def run(options: argparse.Namespace) -> int:
    """Check the configuration, then train."""
    config = load_named(options.config, options.overrides)
    from cluster.session import ray_session

    with ray_session(config.cluster):
        trained = asyncio.run(train(config, resume=options.resume))
    sys.stdout.write(f"{trained.steps} steps; the model is in {trained.model}\n")
    return 0


@dataclass(frozen=True, slots=True)
class Trained:
    """What a finished stage tells; samples and tokens are of the completions trained on."""

    model: Path
    steps: int
    samples: int
    tokens: int
    seconds: float


async def train(config: Run, *, resume: bool = False) -> Trained:
    """Train `config` in a started Ray session; `resume` goes on from the last checkpoint.

    Raises ValueError for data or a model that cannot be used.
    """
    from cluster.progress import bar
    from cluster.services import services
    from cluster.tracked import tracked
    from o3rl.order import order_of
    from o3rl.store import read_rows

    began = perf_counter()
    folder = Path(config.folder) / "rl"
    rows = read_rows(config.data.train, limit=config.data.max_rows)
    order = order_of(rows, config.seed, task_weights=config.data.task_weights)
    planned = int(config.loop.epochs * order.per_epoch)
    steps = config.loop.steps or max(1, planned // config.loop.groups)
    checkpoint = _checkpoint(folder / "checkpoints") if resume else None
    tally = Tally()
    with tracked(config, folder, stage="rl") as tracker, bar("training", steps) as show:
        async with services(config, folder) as start:
            parts = await _start(
                config, start, rows, order=order, steps=steps, checkpoint=checkpoint
            )
            loop = _loop(config, parts, tracker=tracker, folder=folder)
            loop.observe(tally)
            loop.observe(Bar(show))
            if checkpoint is not None:
                loop.restore(json.loads((checkpoint / "loop.json").read_text())["loop"])
            await loop.run(steps)
            await parts.group.export(folder / "model")
            parts.ledger.write(folder / "ledger.parquet")
            tracker.artifact(folder / "ledger.parquet", "")
        if config.tracking.model:
            tracker.artifact(folder / "model", "model")
    seconds = perf_counter() - began
    return Trained(folder / "model", loop.step, tally.samples, tally.tokens, seconds)


@dataclass(frozen=True, slots=True)
class Parts:
    """What the loop of a run is wired from."""

    media: "AsyncMedia"
    sampler: "Sampling"
    scorers: "ScorerPool"
    learner: "Learning"
    group: "LearnerGroup"
    admission: "Admission"
    ledger: "Ledger"


async def _start(
    config: Run,
    start: "Services",
    rows: Sequence[Row],
    *,
    order: "RowOrder",
    steps: int,
    checkpoint: Path | None,
) -> Parts:
    from cluster.services import Learning, Sampling
    from learners.schedule import Optimisation
    from o3rl.admission import Admission
    from o3rl.ledger import Ledger
    from o3rl.together import together

    media, store = start.media(), start.store()
    pool = start.rollouts(media.media, store)
    optimisation = Optimisation.of_learning(config.learning, batches=steps)
    group = start.learner(media.media, store, optimisation=optimisation)
    await together([pool.start(), group.start()])
    ledger = Ledger()
    if checkpoint is not None:
        ledger = Ledger.read(checkpoint / "ledger.parquet")
        await group.restore(checkpoint / "learner")
    admission = Admission(
        list(rows),
        order,
        media,
        ledger,
        planned=steps * config.loop.groups,
    )
    if checkpoint is not None:
        admission.restore(json.loads((checkpoint / "loop.json").read_text())["admission"])
    scorers = start.scorers()
    return Parts(media, Sampling(pool), scorers, Learning(group), group, admission, ledger)


def _loop(config: Run, parts: Parts, *, tracker: "Tracker", folder: Path) -> "Loop":
    """The loop with those who watch it: validation before tracking, which logs what it adds."""
    from cluster.services import box_convention
    from learners.shares import permute_advantages
    from o3rl.loop import Loop
    from o3rl.observers import Checkpoints, Tracking

    def permuted(groups: list[ScoredGroup]) -> list[ScoredGroup]:
        return permute_advantages(groups, seed=f"{config.seed}/{loop.step}")

    loop = Loop(
        config.loop,
        parts.admission,
        parts.ledger,
        sampler=parts.sampler,
        scorers=parts.scorers,
        learner=parts.learner,
        shuffle=permuted if config.learning.permute_advantages else list,
    )
    if config.data.validation and config.loop.validate_every:
        loop.observe(_validation(config, parts, folder / "best"))
    loop.observe(
        Tracking(
            tracker,
            parts.media.frames,
            pages=folder / "pages",
            rollouts=config.tracking.rollouts,
            every=config.tracking.pages_every,
            weights=config.rewards.weights,
            convention=box_convention(config.model.path),
        )
    )
    loop.observe(
        Checkpoints(
            parts.learner,
            parts.ledger,
            lambda: {"loop": loop.state(), "admission": parts.admission.state()},
            folder=folder / "checkpoints",
            every=config.loop.checkpoint_every,
            keep=config.loop.keep_checkpoints,
        )
    )
    return loop


def _validation(config: Run, parts: Parts, best: Path) -> "Validation":
    from o3rl.evaluation import Evaluator, spread
    from o3rl.observers import Validation
    from o3rl.store import read_rows

    rows = read_rows(config.data.validation)
    return Validation(
        Evaluator(parts.media, parts.sampler, parts.scorers),
        spread(rows, config.data.validation_rows),
        parts.learner,
        every=config.loop.validate_every,
        best=best,
        seed=config.seed,
        weights=config.rewards.weights,
    )


def _checkpoint(folder: Path) -> Path:
    """The last whole checkpoint below `folder`; ValueError if there is none."""
    from o3rl.observers import checkpoints

    found = checkpoints(folder)
    if not found:
        raise ValueError(f"there is no checkpoint in {folder} to resume from")
    return found[-1]


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


class Bar:
    """Moves the progress bar."""

    def __init__(self, show: Show):
        self._show = show

    async def stepped(
        self, step: int, version: Version, groups: Sequence[ScoredGroup], metrics: dict[str, float]
    ) -> None:
        """One step."""
        del version, groups
        words = f"reward {metrics['reward/total']:.2f}"
        if "validation/total" in metrics:
            words += f", validation {metrics['validation/total']:.2f}"
        self._show(step, words)
