"""`o3rl sft`: the cold start, on rows with reasoning.

Everything lies in `FOLDER/sft`: config.yaml, metrics.jsonl, model, checkpoints, ledger.parquet. The
next batch's frames are decoded while this one trains.
"""

import argparse
import asyncio
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

from cluster.run.train import Trained
from o3rl.config import RunConfig
from o3rl.config.shipped import load_named, start_of_sft
from o3rl.data.parquet import Rows, read_tasks
from o3rl.persistence.checkpoints import (
    LEDGER,
    Checkpoint,
    Checkpoints,
    sound_of,
    start_from,
    state_of,
)
from o3rl.persistence.lease import take

log = logging.getLogger(__name__)


def run(options: argparse.Namespace) -> int:
    """Check the configuration, then train."""
    config = start_of_sft(load_named(options.config, options.overrides))
    start_from(Path(config.folder) / "sft", resume=options.resume)  # tells what is wrong, at once
    read_tasks(config.sft.rows, limit=1)
    from cluster.services.session import ray_session

    with ray_session(config.cluster):
        trained = asyncio.run(sft(config, resume=options.resume))
    sys.stdout.write(f"{trained.steps} steps; the model is in {trained.model}\n")
    return 0


async def sft(config: RunConfig, *, resume: bool = False) -> Trained:
    """Train `config` in a started Ray session, anew or from its last sound checkpoint.

    A row without reasoning is skipped like one whose media cannot be read. Raises ValueError where
    no row has any, no media can be read at all, the model cannot be used, or another SFT runs in
    the folder.
    """
    folder = Path(config.folder) / "sft"
    with await asyncio.to_thread(take, folder) as lease:
        checkpoint = await asyncio.to_thread(sound_of, folder) if resume else None
        return await _train(config, folder, checkpoint, fence=lease.fence)


async def _train(
    config: RunConfig, folder: Path, checkpoint: Checkpoint | None, *, fence: Callable[[], None]
) -> Trained:
    from cluster.progress import bar
    from cluster.run.stage_tracker import tracked
    from cluster.services.wiring import services
    from learners.rank.settings import Optimisation
    from o3rl.data.parquet import read_rows
    from o3rl.data.row_order import order_of, steps_of
    from o3rl.loop.prompt_source import PromptSource, cannot_teach
    from o3rl.loop.sft import ColdStart
    from o3rl.persistence.ledger import Ledger

    began = perf_counter()
    settings = config.sft
    rows = read_rows(settings.rows, limit=config.data.max_rows)
    _require_reasoning(rows, settings.rows)
    order = order_of(rows, config.seed, task_weights=settings.task_weights)
    steps = steps_of(order, epochs=settings.epochs, size=settings.batch, steps=settings.steps)
    state = state_of(folder, checkpoint)
    after = checkpoint.step if checkpoint else None
    data = {"sft.rows": settings.rows}
    with (
        tracked(config, folder, stage="sft", data=data, after=after) as tracker,
        bar("cold start", steps) as show,
    ):
        async with services(config, folder) as start:
            media = start.media()
            optimisation = Optimisation.of_sft(settings, batches=steps)
            group = start.learner(media.media, None, optimisation=optimisation)
            await group.start()
            ledger = Ledger.read(checkpoint.ledger) if checkpoint else Ledger()
            admission = PromptSource(
                rows,
                order,
                media,
                ledger,
                planned=steps * settings.batch,
                ahead=settings.batch,
                attempts=config.loop.max_attempts,
                unfit=cannot_teach,
            )
            every, keep = settings.checkpoint_every, settings.keep_checkpoints
            kept = Checkpoints(folder, group, every=every, keep=keep, tracker=tracker, fence=fence)
            cold = ColdStart(
                admission, ledger, group, kept, batch=settings.batch, tracker=tracker, show=show
            )
            if checkpoint:
                await group.restore(checkpoint.learner)
                cold.restore(state)
            try:
                await cold.run(steps)
            finally:
                ledger.write(folder / LEDGER)
            await group.export(folder / "model")
        if config.tracking.model:
            tracker.artifact(folder / "model", "model")
    seconds = perf_counter() - began
    return Trained(folder / "model", cold.step, cold.samples, cold.tokens, seconds)


def _require_reasoning(rows: Rows, where: str) -> None:
    without = rows.without_reasoning()
    if len(without) == len(rows):
        raise ValueError(
            f"none of {len(rows)} rows of {where} has a reasoning_process; "
            "sft.rows must be STGR-CoT"
        )
    if without:
        said = "%d of %d rows of %s have no reasoning_process and are skipped, for instance %r"
        log.warning(said, len(without), len(rows), where, rows[without[0]].id)
