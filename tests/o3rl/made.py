"""Small things for tests: flow values, and a tracker that keeps what it is given."""

from o3rl.types import (
    Failure,
    FinishReason,
    FramePlan,
    Group,
    Prompt,
    Reward,
    Rollout,
    Row,
    ScoredGroup,
    Task,
    Truth,
    Version,
)

START = Version(0, 0)
PLAN = FramePlan((0, 10), (0.0, 4.0), (112, 112), 8.0)


def row(number: int = 0, *, task: Task = Task.MCQ, reasoning: str | None = None) -> Row:
    return Row(f"row-{number}", task, "test", "Which?", f"{number}.mp4", Truth("A", letter="A"),
               reasoning=reasoning)  # fmt: skip


def prompt(group: int = 0, *, attempt: int = 0, progress: float = 0.0) -> Prompt:
    return Prompt(group, row(group), PLAN, f"key-{group}", progress, attempt=attempt)


def rollout(
    group: int, sample: int, *, tokens: int = 3, version: Version = START, finish=FinishReason.STOP
) -> Rollout:
    return Rollout(
        group, sample, tuple(range(tokens)), (-0.5,) * tokens, ((0, version),), finish, "text"
    )


def group_of(
    prompt: Prompt,
    *,
    samples: int = 2,
    version: Version = START,
    failures: tuple[Failure, ...] = (),
) -> Group:
    rollouts = tuple(rollout(prompt.group, i, version=version) for i in range(samples))
    return Group(prompt, rollouts, (1, 2), "digest", failures)


def reward(total: float, **metrics: float) -> Reward:
    return Reward({"ans_acc": total}, total, metrics=metrics)


def scored_group(
    totals: tuple[float, ...], *, group: int = 0, advantages: tuple[float, ...] | None = None
) -> ScoredGroup:
    advantages = advantages or (0.0,) * len(totals)
    return ScoredGroup(
        group_of(prompt(group), samples=len(totals)), tuple(map(reward, totals)), advantages
    )


class ListTracker:
    """A tracker that keeps all in lists."""

    def __init__(self):
        self.lines: list[tuple[int, dict[str, float]]] = []
        self.tables: dict[str, list[dict]] = {}

    def log(self, metrics, *, step: int) -> None:
        self.lines.append((step, dict(metrics)))

    def table(self, rows, name: str) -> None:
        self.tables.setdefault(name, []).extend(dict(row) for row in rows)
