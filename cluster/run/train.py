"""Reinforcement learning of one run, from rows in Parquet to a Hugging Face folder.

Everything lies in `FOLDER/rl`: config.yaml, metrics.jsonl, model, best, checkpoints, pages,
attempts, ledger.parquet. Wired here: which service is which protocol of the loop. It runs in the
controller (cluster/run/controller.py), which `o3rl train` watches (cluster/run/supervisor.py).
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from cluster.run.run_control import Control, Phase, Running
from o3rl.config import Placement, RunConfig, Transfer
from o3rl.observers import Fence, Tally
from o3rl.persistence.checkpoints import LEDGER, Checkpoint, Checkpoints, state_of
from o3rl.types import Row, ScoredGroup

if TYPE_CHECKING:  # a wrong configuration is told before any of these is imported
    from actors.pool.rollout_pool import RolloutPool
    from cluster.services.media import AsyncMedia
    from cluster.services.wiring import Services
    from learners.group.learner_group import LearnerGroup
    from o3rl.data.row_order import RowOrder
    from o3rl.loop.loop import Loop
    from o3rl.loop.prompt_source import PromptSource
    from o3rl.loop.roles import Observer, WeightTransfer
    from o3rl.observers import Checkpointing, Validation
    from o3rl.persistence.ledger import Ledger
    from o3rl.tracking.tracker import Tracker
    from rewards.pool import ScorerPool


log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Trained:
    """What a finished stage tells; samples and tokens are of the completions trained on."""

    model: Path
    steps: int
    samples: int
    tokens: int
    seconds: float
    stopped: bool = False  # on request, before its last step


async def train(
    config: RunConfig,
    control: Control,
    *,
    checkpoint: Checkpoint | None = None,
    fence: Callable[[], None] = lambda: None,
    record: Path | None = None,
) -> Trained:
    """Train `config` in a started Ray session, anew or from a checkpoint of its folder.

    `control` steers it. `fence` is called before a step is logged, a checkpoint gets its name, and
    the ledger is written; it ends the process if the folder is another's by now. Batches are
    written to `record`. Raises ValueError for data or a model that cannot be used.
    """
    from cluster.run.stage_tracker import tracked
    from cluster.services.wiring import services
    from o3rl.concurrency import in_thread
    from o3rl.data.parquet import read_rows
    from o3rl.persistence.batch_log import Recording
    from rewards.custom import load_custom

    began = perf_counter()
    load_custom(config.rewards.custom)
    folder = Path(config.folder) / "rl"
    rows, order, steps = scheduled(config)
    control.steps = steps
    validated = read_rows(config.data.validation) if _validates(config) else []
    state = state_of(folder, checkpoint)
    after = checkpoint.step if checkpoint else 0 if state else None
    data = {"data.train": config.data.train}
    if validated:
        data["data.validation"] = config.data.validation
    # Aside: the supervisor asks all the while, and MLflow may be slow to take what is left.
    async with in_thread(tracked(config, folder, stage="rl", data=data, after=after)) as tracker:
        async with services(config, folder) as start:
            parts = await _start(
                config, start, rows, order=order, steps=steps, checkpoint=checkpoint, fence=fence
            )
            tally = Tally()
            loop = _loop(config, parts, validated, tally=tally, tracker=tracker, folder=folder)
            checkpoints = _checkpointing(
                config, parts, loop, tally=tally, tracker=tracker, fence=fence, folder=folder
            )
            if record is not None:
                loop.observe(Recording(record, after=after))
            loop.observe(checkpoints)
            loop.observe(control)
            for part, name in ((loop, "loop"), (parts.admission, "admission"), (tally, "tally")):
                if name in state:
                    part.restore(part.state() | state[name])
            control.started(
                Running(loop, parts.pool.fleet, checkpoints.save, lambda: tracker.run_id)
            )
            try:
                await loop.run(steps)
            except BaseException:
                fence()
                try:
                    parts.ledger.write(folder / LEDGER)
                except OSError as error:  # what ended the loop is to be told
                    log.error("the ledger could not be written: %s", error)
                raise
            fence()
            parts.ledger.write(folder / LEDGER)
            control.enter(Phase.WRITING)
            stopped = loop.step < steps
            if stopped:
                model = (await checkpoints.save(loop.step)).path / "model"
            else:
                model = folder / "model"
                await parts.learner.export(model)
            tracker.artifact(folder / LEDGER, "")
        if config.tracking.model and not stopped:
            tracker.artifact(model, "model")
    seconds = perf_counter() - began
    return Trained(model, loop.step, tally.samples, tally.tokens, seconds, stopped)


def scheduled(config: RunConfig) -> tuple[Sequence[Row], "RowOrder", int]:
    """(rows, their order, how many steps they are trained in). Raises ValueError without rows."""
    from o3rl.data.parquet import read_rows
    from o3rl.data.row_order import order_of, steps_of

    rows = read_rows(config.data.train, limit=config.data.max_rows)
    order = order_of(rows, config.seed, task_weights=config.data.task_weights)
    loop = config.loop
    steps = steps_of(order, epochs=loop.epochs, size=loop.groups, steps=loop.steps)
    return rows, order, steps


@dataclass(frozen=True, slots=True)
class Parts:
    """What the loop of a run is wired from."""

    media: "AsyncMedia"
    pool: "RolloutPool"
    scorers: "ScorerPool"
    learner: "LearnerGroup"
    weights: "WeightTransfer"
    admission: "PromptSource"
    ledger: "Ledger"
    first: Sequence["Observer"]  # told of a step before tracking is


async def _start(
    config: RunConfig,
    start: "Services",
    rows: Sequence[Row],
    *,
    order: "RowOrder",
    steps: int,
    checkpoint: Checkpoint | None,
    fence: Callable[[], None],
) -> Parts:
    from learners.rank.settings import Optimisation
    from o3rl.concurrency import gather_first_error
    from o3rl.loop.prompt_source import PromptSource, longer_than
    from o3rl.persistence.ledger import Ledger
    from o3rl.text.prompts import longest_prompt

    media = start.media()
    stored = config.rollouts.transfer is Transfer.object_store
    store = start.store() if stored else None
    pool = start.rollouts(media.media, store)
    optimisation = Optimisation.of_learning(config.learning, batches=steps)
    learner = start.learner(
        media.media,
        store,
        optimisation=optimisation,
        temperature=config.sampling.temperature,
        pool=pool,
    )
    scorers = start.scorers()
    by_turns = config.rollouts.placement is Placement.colocated
    if by_turns:  # vLLM measures the GPU's free memory as it starts: nobody else may take of it
        await pool.fleet.start()
        await gather_first_error([learner.start(), scorers.start()])
    else:
        # The learner asks for room first: of the replicas a part may join later.
        await gather_first_error([learner.start(), scorers.start(), pool.fleet.start()])
    ledger = Ledger()
    if checkpoint is not None:
        ledger = Ledger.read(checkpoint.ledger)
        await learner.restore(checkpoint.learner)
    admission = PromptSource(
        rows,
        order,
        media,
        ledger,
        planned=steps * config.loop.groups,
        ahead=config.loop.groups,
        attempts=config.loop.max_attempts,
        unfit=longer_than(
            longest_prompt(config.sampling, config.rollouts), side=config.frames.factor
        ),
    )
    first = (Fence(fence), start.membership(pool))
    weights = start.transfer(pool, learner)
    return Parts(media, pool, scorers, learner, weights, admission, ledger, first)


def _loop(
    config: RunConfig,
    parts: Parts,
    validated: Sequence[Row],
    *,
    tally: "Tally",
    tracker: "Tracker",
    folder: Path,
) -> "Loop":
    """The loop with those who watch it: validation before tracking, which logs what it adds."""
    from cluster.services.wiring import box_convention
    from learners.rank.batching import permute_advantages
    from o3rl.loop.loop import Loop
    from o3rl.observers import Tracking

    def permuted(groups: list[ScoredGroup]) -> list[ScoredGroup]:
        return permute_advantages(groups, seed=f"{config.seed}/{loop.step}")

    loop = Loop(
        config.loop,
        parts.admission,
        parts.ledger,
        sampler=parts.pool,
        scorers=parts.scorers,
        learner=parts.learner,
        weights=parts.weights,
        longest=config.sampling.max_tokens,
        shuffle=permuted if config.learning.permute_advantages else list,
    )
    for observer in (*parts.first, tally):
        loop.observe(observer)
    if validated:
        loop.observe(_validation(config, parts, validated, folder / "best"))
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
    return loop


def _checkpointing(
    config: RunConfig,
    parts: Parts,
    loop: "Loop",
    *,
    tally: "Tally",
    tracker: "Tracker",
    fence: Callable[[], None],
    folder: Path,
) -> "Checkpointing":
    from o3rl.observers import Checkpointing

    settings = config.loop
    kept = Checkpoints(
        folder,
        parts.learner,
        every=settings.checkpoint_every,
        keep=settings.keep_checkpoints,
        tracker=tracker,
        fence=fence,
    )
    stateful = {"loop": loop, "admission": parts.admission, "tally": tally}
    return Checkpointing(
        kept, parts.ledger, lambda: {name: part.state() for name, part in stateful.items()}
    )


def _validates(config: RunConfig) -> bool:
    return bool(config.data.validation and config.loop.validate_every)


def _validation(config: RunConfig, parts: Parts, rows: Sequence[Row], best: Path) -> "Validation":
    from o3rl.evaluation.evaluator import Evaluator, spread
    from o3rl.observers import Validation

    return Validation(
        Evaluator(parts.media, parts.pool, parts.scorers),
        spread(rows, config.data.validation_rows),
        parts.learner,
        every=config.loop.validate_every,
        best=best,
        seed=config.seed,
        weights=config.rewards.weights,
    )
