"""`o3rl bench loop --real`: rollouts and learning of the tiny model, apart and at the same time.

The engine is pinned to one core and the learner's rank to the other; controller, scorer, media and
Ray go where there is room. The loop runs with versions one apart: a step ought to take as long as
the longer half. The halves are measured in turn with it, on one started system: the same loop,
whose learner takes no time; and the learner alone, on batches that came of it. Both have their part
of handing the weights over. An engine that runs much of a batch at once samples two batches
together, and the learner waits for the end of both (docs/async.md).
"""

import asyncio
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from time import perf_counter

from cluster.bench.loop_on_fakes import WARM_STEPS, Overlap, make_loop
from cluster.services.session import ray_session
from cluster.services.wiring import services
from learners.rank.settings import Optimisation
from o3rl import config
from o3rl.config.shipped import load_named, model_path, of_model
from o3rl.data.parquet import read_rows
from o3rl.data.stgr import import_file
from o3rl.loop.roles import Learner as LoopLearner
from o3rl.synth.dataset import Size, write_dataset
from o3rl.synth.questions import Teacher
from o3rl.types import ScoredGroup, Version

SAMPLES = 8
TURNS = 2
LAST_STEPS = 2  # in which less and less is sampled meanwhile
SEED = 0


def real(*, groups: int, at_once: int, steps: int) -> Overlap:
    """Measure it on data of its own, in a Ray of its own. Needs two cores.

    A batch has `groups` of `SAMPLES`, the engine runs `at_once` of them.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise ValueError(f"this process may run on {len(cores)} core; --real needs two")
    with tempfile.TemporaryDirectory(prefix="o3rl-") as folder:
        run = _prepared(Path(folder), groups=groups, at_once=at_once)
        with ray_session(run.cluster):
            return asyncio.run(_measured(run, Path(folder), steps=steps, cores=cores))


def _prepared(folder: Path, *, groups: int, at_once: int) -> config.RunConfig:
    """Rows of a few videos, and the demo's configuration at a rate that changes next to nothing."""
    for _ in write_dataset(folder / "data", Size(16, 12, 1, 1), seed=SEED, teacher=Teacher()):
        pass
    import_file(folder / "data" / "STGR-RL.json", folder / "rows", media=folder / "data" / "media")
    run = load_named(
        "tiny_demo",
        [
            f"folder={folder}",
            f"data.train={folder}/rows",
            f"data.media={folder}/data/media",
            f"loop.groups={groups}",
            f"sampling.group_size={SAMPLES}",
            f"rollouts.max_sequences={at_once}",
            "loop.max_staleness=1",
            "learning.rate=1e-9",
            "cluster.cpus_per_rank=1",
        ],
    )
    return of_model(run, model_path(run.sft.start))


async def _measured(
    run: config.RunConfig, folder: Path, *, steps: int, cores: Sequence[int]
) -> Overlap:
    steps += WARM_STEPS + LAST_STEPS
    async with services(run, folder / "run") as start:
        media, store = start.media(), start.store()
        pool = start.rollouts(media.media, store)
        optimisation = Optimisation.of_learning(run.learning, batches=steps)
        learner = start.learner(media.media, store, optimisation=optimisation)
        scorers = start.scorers()
        await asyncio.gather(pool.fleet.start(), learner.start(), scorers.start())
        for replica in pool.fleet.replicas:
            assert replica.location is not None
            bind(replica.location.pid, cores[0])
        for pid in await learner.pids():
            bind(pid, cores[1])
        weights = start.transfer(pool, learner)
        rows = read_rows(folder / "rows")

        async def timed(learns: LoopLearner, incarnation: int) -> list[float]:
            """Seconds of each step."""
            loop, watched = make_loop(
                run.loop,
                rows,
                media,
                steps=steps,
                sampler=pool,
                scorers=scorers,
                learner=learns,
                weights=weights,
            )
            loop.restore({"step": 0, "incarnation": incarnation, "n": 0, "set_aside": 0})
            await loop.run(steps)
            return watched.seconds[WARM_STEPS:-LAST_STEPS]

        rollout, learn, step = list[float](), list[float](), list[float]()
        for turn in range(TURNS):
            idle = Idle()
            rollout += await timed(idle, 3 * turn)
            alone = list[float]()
            for n, batch in enumerate(idle.batches[:-LAST_STEPS]):
                began = perf_counter()
                await learner.update(batch)
                await learner.publish(Version(3 * turn + 2, n))
                alone.append(perf_counter() - began)
            learn += alone[WARM_STEPS:]
            step += await timed(learner, 3 * turn + 2)
    return Overlap(1, fmean(rollout), fmean(learn), fmean(step))


class Idle:
    """A learner that takes batches, and no time."""

    failures = ()

    def __init__(self) -> None:
        self.batches: list[Sequence[ScoredGroup]] = []

    async def update(self, groups: Sequence[ScoredGroup]) -> dict[str, float]:
        """Keep them."""
        self.batches.append(groups)
        return {}


def bind(pid: int, core: int) -> None:
    """A process, its threads and all below it, to one core; what it starts inherits that."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {core})
        for child in (task / "children").read_text().split():
            bind(int(child), core)
