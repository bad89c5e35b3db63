"""`o3rl bench loop --real`: rollouts and learning of the tiny model, apart and at the same time.

One engine and one learner rank, each bound to a core of its own. A batch is sampled several times
while the learner rests, learned from several times while the engine rests, and then the loop runs
with versions one apart: a step ought to take as long as the longer of the two.
"""

import asyncio
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter

from cluster.configs import load_named, model_path, of_model
from cluster.data import write_synthetic
from cluster.services import Learning, Sampling, services
from cluster.session import ray_session
from learners.schedule import Optimisation
from o3rl import config
from o3rl.admission import Admission
from o3rl.flow import Failure, Group, ScoredGroup, Version
from o3rl.ledger import Ledger
from o3rl.loop import Loop
from o3rl.loop_speed import WARM_STEPS, Overlap, Steps
from o3rl.order import order_of
from o3rl.stgr import import_file
from o3rl.store import read_rows
from o3rl.stream import scored
from o3rl.synth.dataset import Size, write_dataset
from o3rl.synth.questions import Teacher
from rewards.pool import ScorerPool

REPEATS = 3
SEED = 0


def real(*, groups: int, steps: int) -> Overlap:
    """Measure it on data of its own, in a Ray of its own. Needs two cores."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise ValueError(f"this process may run on {len(cores)} core; --real needs two")
    with tempfile.TemporaryDirectory(prefix="o3rl-") as folder:
        run = _prepared(Path(folder), groups=groups)
        with ray_session(run.cluster):
            return asyncio.run(_measured(run, Path(folder), steps=steps, cores=cores[:2]))


def _prepared(folder: Path, *, groups: int) -> config.Run:
    """Rows of a few videos, and the demo's configuration at a rate that changes next to nothing."""
    write_synthetic(
        folder / "data", Size(8, 6, 1, 1), seed=SEED, teacher=Teacher(), write=write_dataset
    )
    import_file(folder / "data" / "STGR-RL.json", folder / "rows", media=folder / "data" / "media")
    run = load_named(
        "tiny_demo",
        [
            f"folder={folder}",
            f"data.train={folder}/rows",
            f"data.media={folder}/data/media",
            f"loop.groups={groups}",
            "loop.max_staleness=1",
            "learning.rate=1e-9",
            "cluster.cpus_per_rank=1",
        ],
    )
    return of_model(run, model_path(run.sft.start))


async def _measured(run: config.Run, folder: Path, *, steps: int, cores: Sequence[int]) -> Overlap:
    async with services(run, folder / "run") as start:
        media, store = start.media(), start.store()
        pool = start.rollouts(media.media, store)
        optimisation = Optimisation.of_learning(run.learning, batches=steps)
        group = start.learner(media.media, store, optimisation=optimisation)
        await asyncio.gather(pool.start(), group.start())
        for place in pool.places:
            assert place is not None
            bind(place.pid, cores[0])
        for pid in await group.pids():
            bind(pid, cores[1])
        sampler, learner, scorers = Sampling(pool), Learning(group), start.scorers()
        await learner.publish(Version(0, 0))
        await sampler.load(Version(0, 0))
        rows, groups = read_rows(folder / "rows"), run.loop.groups

        def admission(prompts: int, ledger: Ledger) -> Admission:
            order = order_of(rows, SEED, task_weights={})
            return Admission(rows, order, media, ledger, planned=prompts, ahead=groups)

        source = admission(groups, Ledger())
        prompts = [await source.next() for _ in range(groups)]
        rollout_seconds, learn_seconds, sampled = [], [], []
        for repeat in range(REPEATS + 1):
            began = perf_counter()
            again = [replace(prompt, attempt=repeat) for prompt in prompts]
            sampled = await asyncio.gather(*(sampler.sample(prompt) for prompt in again))
            rollout_seconds.append(perf_counter() - began)
        batch = [await _scored(scorers, group) for group in sampled]
        for _ in range(REPEATS + 1):
            began = perf_counter()
            await learner.update(batch)
            learn_seconds.append(perf_counter() - began)

        ledger = Ledger()
        loop = Loop(
            run.loop,
            admission(steps * groups, ledger),
            ledger,
            sampler=sampler,
            scorers=scorers,
            learner=learner,
        )
        loop.restore({"step": 0, "incarnation": 0, "n": 0, "set_aside": 0})  # 0.0 is published
        watched = Steps()
        loop.observe(watched)
        await loop.run(steps)
    apart = median(rollout_seconds[1:]), median(learn_seconds[1:])
    return Overlap(1, *apart, median(watched.seconds[WARM_STEPS:]))


async def _scored(scorers: ScorerPool, group: Group | Failure) -> ScoredGroup:
    if isinstance(group, Failure):
        raise RuntimeError(f"the engine did not sample: {group.reason}")
    found = scored(group, await scorers.score(group), 2)
    if isinstance(found, Failure):
        raise RuntimeError(f"the scorers did not score: {found.reason}")
    return found


def bind(pid: int, core: int) -> None:
    """A process, its threads and all below it, to one core; what it starts inherits that."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {core})
        for child in (task / "children").read_text().split():
            bind(int(child), core)
