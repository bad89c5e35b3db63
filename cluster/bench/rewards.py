"""`o3rl bench rewards`: completions scored a second by task and profile, scoring's share of a step.

CPU seconds of this process: the same number on a busy machine, and the wall's on an idle core.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import process_time

from cluster.bench.completions import FRAME, CompletionCase, cases
from cluster.bench.report import Report, table
from o3rl.config import Profile, RewardsConfig, load
from o3rl.tracking.metrics_log import read_series
from o3rl.types import Task
from rewards.scorer import Scorer

COMPLETIONS = 96  # different ones of each task
TAIL, WORK, STEP = "scoring/tail_seconds", "scoring/seconds", "seconds/step"

Rates = dict[str, dict[str, float]]


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

    def __str__(self) -> str:
        def percent(value: float | None) -> str:
            return "not logged" if value is None else f"{value:.2%}"

        return (
            f"Of a step of {self.step_seconds:.2f} s (mean of {self.steps}), scoring "
            f"{self.completions} completions is {percent(self.computed)} of computing; scorer "
            f"processes were at work for {percent(self.worked)}, and the step waited for the last "
            f"of them for {percent(self.waited)}."
        )


def run(options: argparse.Namespace) -> Report:
    """Time the scorer; with `--run` also its share of that run's steps."""
    if options.run is not None and not metrics_of(options.run).is_file():
        raise FileNotFoundError(f"--run {options.run}: there is no {metrics_of(options.run)}")
    measured = rates(options.seconds)
    share = None if options.run is None else step_share(options.run, measured)
    found = {"completions_per_second": measured, "step_share": share}
    rows = [
        (task, *(f"{by_task[task]:,.0f}" for by_task in measured.values()))
        for task in map(str, Task)
    ]
    shown = table("Completions a second, one core", ["task", *measured], rows)
    return found, [shown] if share is None else [shown, str(share)]


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


def _rate(
    scorer: Scorer, texts: list[CompletionCase], seconds: float, clock: Callable[[], float]
) -> float:
    """Once unmeasured, which fills the caches of a long run; then whole rounds."""
    for case in texts:
        score_once(scorer, case)
    done, start = 0, clock()
    while (spent := clock() - start) < seconds or not done:
        for case in texts:
            score_once(scorer, case)
        done += len(texts)
    return done / max(spent, 1e-9)


def score_once(scorer: Scorer, case: CompletionCase) -> None:
    """Score one, halfway through a run."""
    truth = case.row.truth
    scorer.score(case.row.task, case.text, truth=truth, progress=0.5, frame_size=FRAME)
