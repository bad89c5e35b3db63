"""What scoring costs: completions a second by task and profile, seconds by length, share of a step.

CPU seconds of this process: the same number on a busy machine, and the wall's on an idle core.
"""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import process_time

from o3rl.config import Profile, RewardsConfig, load
from o3rl.text import grammar
from o3rl.tracking.metrics_log import read_series
from o3rl.types import Task
from rewards.scorer import Scorer
from tests.rewards.hostile_texts import FRAME, HOSTILE, Case, cases, hostile

SIZES = (1_000, 10_000, 100_000, 1_000_000)  # characters
COMPLETIONS = 96  # different ones of each task
TAIL, WORK, STEP = "scoring/tail_seconds", "scoring/seconds", "seconds/step"


@dataclass(frozen=True, slots=True)
class Growth:
    """CPU seconds to find everything in a hostile text, by its length; to score the longest."""

    parse: dict[int, float]
    score: float


@dataclass(frozen=True, slots=True)
class StepShare:
    """Scoring among the steps of a run, as shares of `step_seconds`, the mean step.

    `computed`: completions a step by the measured cost of one. `worked`: time of the scorer
    processes, calls included. `waited`: of the learner's wait, what came after the last group was
    sampled, which is all that scoring adds to a step. Both are None if the run did not log them.
    """

    steps: int
    step_seconds: float
    completions: int
    computed: float
    worked: float | None
    waited: float | None


Rates = dict[str, dict[str, float]]


def rates(
    seconds: float, *, different: int = COMPLETIONS, clock: Callable[[], float] = process_time
) -> Rates:
    """Completions a second on one core, by profile and task, in about `seconds` of measuring.

    `different` ones of each task.
    """
    texts = {task: cases(task, count=different) for task in Task}
    each = seconds / (len(Profile) * len(texts))
    return {
        profile.value: {
            task.value: _rate(Scorer(RewardsConfig(profile=profile)), found, each, clock)
            for task, found in texts.items()
        }
        for profile in Profile
    }


def growth(
    sizes: tuple[int, ...] = SIZES, *, clock: Callable[[], float] = process_time
) -> dict[str, Growth]:
    """For each hostile text the cost of parsing at each size, and of scoring at the largest."""
    return {name: _growth(piece, sizes, clock) for name, piece in HOSTILE.items()}


def find_all(text: str) -> None:
    """Every finder of the grammar on the whole of `text`."""
    grammar.answer_of(text)
    grammar.thought_of(text)
    grammar.interval_of(text)
    grammar.time_mentions(text)
    grammar.named_box(text)
    grammar.one_word_named_box(text)
    grammar.unpaired(text, (*grammar.PAIRED_IN_TEXT, *grammar.PAIRED_IN_THOUGHT))
    for _ in grammar.raw_claims(text):
        pass
    for _ in grammar.raw_boxes(text):
        pass


def metrics_of(run: Path) -> Path:
    """Where the run in the folder `run` logs its steps."""
    return run / "rl" / "metrics.jsonl"


def step_share(run: Path, measured: Rates) -> StepShare:
    """What scoring takes of the steps of the run in the folder `run`.

    Raises FileNotFoundError without `rl/metrics.jsonl` there, ValueError if it holds no step.
    """
    series = read_series(metrics_of(run))
    steps = dict(series.get(STEP, []))
    if not steps:
        raise ValueError(f"{metrics_of(run)} holds no {STEP}: the run made no step")
    config = load(run / "rl" / "config.yaml")
    completions = config.loop.groups * config.sampling.group_size
    by_task = measured[config.rewards.profile.value].values()
    cost = sum(1 / rate for rate in by_task) / len(by_task)
    mean = sum(steps.values()) / len(steps)

    def share(name: str) -> float | None:
        logged = {step: value for step, value in series.get(name, []) if step in steps}
        return sum(logged.values()) / sum(steps[step] for step in logged) if logged else None

    return StepShare(
        len(steps), mean, completions, completions * cost / mean, share(WORK), share(TAIL)
    )


def _growth(piece: str, sizes: tuple[int, ...], clock: Callable[[], float]) -> Growth:
    texts = {size: hostile(piece, size) for size in sizes}
    [spatial] = cases(Task.TEMPORAL_SPATIAL, count=1)
    longest = Case(spatial.row, texts[max(sizes)])
    scorers = [Scorer(RewardsConfig(profile=profile)) for profile in Profile]
    return Growth(
        {size: _best_of_three(partial(find_all, text), clock) for size, text in texts.items()},
        max(_cost(partial(_score, scorer, longest), clock) for scorer in scorers),
    )


def _rate(scorer: Scorer, texts: list[Case], seconds: float, clock: Callable[[], float]) -> float:
    """Once unmeasured, which fills the caches of a long run; then whole rounds."""
    for case in texts:
        _score(scorer, case)
    done, start = 0, clock()
    while (spent := clock() - start) < seconds or not done:
        for case in texts:
            _score(scorer, case)
        done += len(texts)
    return done / max(spent, 1e-9)


def _score(scorer: Scorer, case: Case) -> None:
    truth = case.row.truth
    scorer.score(case.row.task, case.text, truth=truth, progress=0.5, frame_size=FRAME)


def _best_of_three(work: Callable[[], None], clock: Callable[[], float]) -> float:
    """Short texts are over before caches are warm."""
    return min(_cost(work, clock) for _ in range(3))


def _cost(work: Callable[[], None], clock: Callable[[], float]) -> float:
    """Without the garbage collector, which would look through all that this process holds."""
    collects = gc.isenabled()
    gc.disable()
    try:
        start = clock()
        work()
        return clock() - start
    finally:
        if collects:
            gc.enable()
