"""`o3rl train --replay DIR`: the learner alone, on batches that a run recorded with `--record`.

    DIR ─► batch ─► learner.update ─► metrics        no rollouts, no scorers, no weights sent out

For a learner that is to be understood or changed: the same batches, settings and ranks give the
same weights as the recorded run. Everything lies in `FOLDER/replay`.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

from cluster.progress import bar
from cluster.run.stage_tracker import tracked
from cluster.run.train import Trained, scheduled
from cluster.services.media import AsyncMedia
from cluster.services.wiring import services
from learners.rank.settings import Optimisation
from o3rl.config import RunConfig
from o3rl.loop.prompt_source import prepared
from o3rl.loop.step_metrics import batch_metrics, timed
from o3rl.persistence.batch_log import read_batch, recorded_steps
from o3rl.types import ScoredGroup, Version


async def replay(config: RunConfig, recorded: Path) -> Trained:
    """Train `config` in a started Ray session on the batches in `recorded`.

    The schedule is the recorded run's, by `config`. Raises what reading the batches raises.
    """
    began = perf_counter()
    folder = Path(config.folder) / "replay"
    batches = recorded_steps(recorded)
    _, _, steps = scheduled(config)
    optimisation = Optimisation.of_learning(config.learning, batches=steps)
    samples = tokens = 0
    with (
        tracked(config, folder, stage="replay", data={"data.train": config.data.train}) as tracker,
        bar("replaying", batches) as show,
    ):
        async with services(config, folder) as start:
            media = start.media()
            temperature = config.sampling.temperature
            learner = start.learner(
                media.media, None, optimisation=optimisation, temperature=temperature
            )
            await learner.start()
            for step in range(1, batches + 1):
                groups = read_batch(recorded, step)
                metrics: dict[str, float] = {}
                with timed("seconds/step", metrics):
                    await _decode(media, groups, attempts=config.loop.max_attempts)
                    metrics |= await learner.update(groups)
                metrics |= batch_metrics(groups, Version(0, step))
                tracker.log(metrics, step=step)
                samples += sum(len(group.rewards_G) for group in groups)
                tokens += int(metrics["tokens/sampled"])
                show(step, f"loss {metrics['loss']:.4f}" if "loss" in metrics else "refused")
            model = folder / "model"
            await learner.export(model)
    return Trained(model, batches, samples, tokens, perf_counter() - began)


async def _decode(media: AsyncMedia, groups: Sequence[ScoredGroup], *, attempts: int) -> None:
    """Have the frames of a batch ready; the learner refuses groups whose frames cannot be had."""
    rows = (group.group.prompt.row for group in groups)
    await asyncio.gather(*(prepared(media, row, training=True, attempts=attempts) for row in rows))
