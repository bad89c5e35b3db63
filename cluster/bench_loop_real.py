"""`o3rl bench loop --real`: rollouts and learning of the tiny model, apart and at the same time.

One engine has a core of its own; one learner rank has the other, with the controller and all else
that is small. Some batches are sampled while the learner rests, and then they are learned from
while the engine rests, each half with its part of handing the weights over: so the engine's caches
are as empty as they are in the loop. Then the loop runs with versions one apart: a step ought to
take as long as the longer half. The engine runs half of a batch at once: with more it would sample
two batches together, and the learner wait for the end of both.
"""

import asyncio
import os
import tempfile
from pathlib import Path
from statistics import fmean
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

REPEATS = 5
SEED = 0


def real(*, groups: int, steps: int) -> Overlap:
    """Measure it on data of its own, in a Ray of its own. Needs two cores."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise ValueError(f"this process may run on {len(cores)} core; --real needs two")
    with tempfile.TemporaryDirectory(prefix="o3rl-") as folder:
        run = _prepared(Path(folder), groups=groups)
        bind(os.getpid(), cores[1])
        try:
            with ray_session(run.cluster):
                return asyncio.run(_measured(run, Path(folder), steps=steps, core=cores[0]))
        finally:
            os.sched_setaffinity(0, cores)


def _prepared(folder: Path, *, groups: int) -> config.Run:
    """Rows of a few videos, and the demo's configuration at a rate that changes next to nothing."""
    write_synthetic(
        folder / "data", Size(16, 12, 1, 1), seed=SEED, teacher=Teacher(), write=write_dataset
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
    run.rollouts.max_sequences = groups * run.sampling.group_size // 2
    return of_model(run, model_path(run.sft.start))


async def _measured(run: config.Run, folder: Path, *, steps: int, core: int) -> Overlap:
    async with services(run, folder / "run") as start:
        media, store = start.media(), start.store()
        pool = start.rollouts(media.media, store)
        optimisation = Optimisation.of_learning(run.learning, batches=steps)
        group = start.learner(media.media, store, optimisation=optimisation)
        await asyncio.gather(pool.start(), group.start())
        for place in pool.places:
            assert place is not None
            bind(place.pid, core)
        sampler, learner, scorers = Sampling(pool), Learning(group), start.scorers()
        rows, groups = read_rows(folder / "rows"), run.loop.groups

        def admission(batches: int, ledger: Ledger) -> Admission:
            order = order_of(rows, SEED, task_weights={})
            return Admission(rows, order, media, ledger, planned=batches * groups, ahead=groups)

        source = admission(REPEATS + 1, Ledger())
        rollout_seconds, learn_seconds, batches = [], [], []
        for n in range(REPEATS + 1):
            await learner.publish(Version(0, n))
            prompts = [await source.next() for _ in range(groups)]
            began = perf_counter()
            await sampler.load(Version(0, n))
            sampled = await asyncio.gather(*(sampler.sample(prompt) for prompt in prompts))
            rollout_seconds.append(perf_counter() - began)
            batches.append([await _scored(scorers, group) for group in sampled])
        await source.close()
        for n, batch in enumerate(batches, start=REPEATS + 1):
            began = perf_counter()
            await learner.update(batch)
            await learner.publish(Version(0, n))
            learn_seconds.append(perf_counter() - began)

        ledger = Ledger()
        loop = Loop(
            run.loop,
            admission(steps, ledger),
            ledger,
            sampler=sampler,
            scorers=scorers,
            learner=learner,
        )
        loop.restore({"step": 0, "incarnation": 0, "n": 0, "set_aside": 0})
        watched = Steps()
        loop.observe(watched)
        await loop.run(steps)
    apart = fmean(rollout_seconds[1:]), fmean(learn_seconds[1:])
    return Overlap(1, *apart, fmean(watched.seconds[WARM_STEPS:]))


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
