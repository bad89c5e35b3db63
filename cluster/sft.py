"""`o3rl sft`: the cold start, on rows with reasoning. Everything lies in `FOLDER/sft`.

The next batch's frames are decoded while this one trains. A row whose media cannot be read is
skipped and counted; the next row takes its place.
"""

import argparse
import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from cluster.configs import load_named, start_of_sft
from cluster.train import Trained
from o3rl.config import Run
from o3rl.flow import Failure, Prompt, Row
from o3rl.order import RowOrder, order_of, steps_of

logger = logging.getLogger(__name__)


def run(options: argparse.Namespace) -> int:
    """Check the configuration, then train."""
    config = start_of_sft(load_named(options.config, options.overrides))
    from cluster.session import ray_session

    with ray_session(config.cluster):
        trained = asyncio.run(sft(config))
    sys.stdout.write(f"{trained.steps} steps; the model is in {trained.model}\n")
    return 0


async def sft(config: Run) -> Trained:
    """Train `config` in a started Ray session; returns what it trained.

    Raises ValueError where rows have no reasoning, media cannot be read at all, or the model cannot
    be used.
    """
    from cluster.progress import bar
    from cluster.services import services
    from cluster.tracked import tracked
    from learners.schedule import Optimisation
    from o3rl.store import read_rows

    began = perf_counter()
    folder = Path(config.folder) / "sft"
    rows = read_rows(config.sft.rows, limit=config.data.max_rows)
    _require_reasoning(rows, config.sft.rows)
    order = order_of(rows, config.seed, task_weights=config.sft.task_weights)
    settings = config.sft
    steps = steps_of(order, epochs=settings.epochs, size=settings.batch, steps=settings.steps)
    tokens = samples = 0
    data = {"sft.rows": config.sft.rows}
    with (
        tracked(config, folder, stage="sft", data=data) as tracker,
        bar("cold start", steps) as show,
    ):
        async with services(config, folder) as start:
            media = start.media()
            optimisation = Optimisation.of_sft(config.sft, batches=steps)
            group = start.learner(media.media, None, optimisation=optimisation)
            await group.start()
            feed = Feed(rows, media, order=order, batch=config.sft.batch)
            async for step, batch in ahead(feed, steps):
                metrics = await group.sft_step(batch)
                tokens += int(metrics["learner/tokens"])
                samples += len(batch) - len(group.failures)
                metrics["rows/skipped"] = feed.skipped
                tracker.log(_named(metrics), step=step)
                show(
                    step, f"loss {metrics['loss']:.3f}" if "loss" in metrics else "nothing learned"
                )
            await group.export(folder / "model")
        if config.tracking.model:
            tracker.artifact(folder / "model", "model")
    return Trained(folder / "model", steps, samples, tokens, perf_counter() - began)


class Feed:
    """Batches of prompts in a seeded order, epoch after epoch."""

    def __init__(self, rows: Sequence[Row], media: Any, *, order: RowOrder, batch: int):
        self.skipped = 0
        self._rows = rows
        self._order = order
        self._media = media
        self._batch = batch
        self._number = 0
        self._failed_in_a_row = 0

    async def next(self) -> list[Prompt]:
        """The next batch. Raises ValueError when every row's media fails."""
        batch: list[Prompt] = []
        while len(batch) < self._batch:
            indices = self._order.take(self._batch - len(batch))
            prepared = await asyncio.gather(
                *(self._media.prepare(self._rows[i], training=True) for i in indices)
            )
            for index, result in zip(indices, prepared, strict=True):
                row = self._rows[index]
                if isinstance(result, Failure):
                    self.skipped += 1
                    self._failed_in_a_row += 1
                    logger.warning("row %s is skipped: %s", row.id, result.reason)
                    continue
                self._failed_in_a_row = 0
                plan, key = result
                batch.append(Prompt(self._number, row, plan, key, progress=0.0))
                self._number += 1
            if self._failed_in_a_row >= 2 * len(self._rows):
                raise ValueError(
                    f"the media of all {len(self._rows)} rows cannot be read; is data.media the "
                    "folder that the rows' paths start from?"
                )
        return batch


async def ahead(feed: Feed, steps: int) -> AsyncIterator[tuple[int, list[Prompt]]]:
    """(step from 1, its batch); the next batch is prepared while this one is used."""
    coming = asyncio.create_task(feed.next())
    try:
        for step in range(1, steps + 1):
            batch = await coming
            if step < steps:
                coming = asyncio.create_task(feed.next())
            yield step, batch
    finally:
        coming.cancel()


def _named(metrics: dict[str, float]) -> dict[str, float]:
    """The loss under the name by which the curves know it."""
    return {"sft/loss" if name == "loss" else name: value for name, value in metrics.items()}


def _require_reasoning(rows: Sequence[Row], where: str) -> None:
    without = [row.id for row in rows if row.reasoning is None]
    if without:
        raise ValueError(
            f"{len(without)} of {len(rows)} rows of {where} have no reasoning_process, for "
            f"instance {without[0]!r}; sft.rows must be STGR-CoT"
        )
