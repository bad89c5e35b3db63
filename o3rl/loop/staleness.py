"""The staleness window: which groups are being sampled, which are ready, how old each may get.

The step on weights n makes n + 1. A group that was started under version v is `n - v` versions old
in it, and never older than `max_staleness` (S). With B groups a batch:

    started at n-1   started at n            at most (S + 1) B places are taken; a step on n takes
    ▪▪▪▪▪▪           ▪▪▪▪▪▪▪▪▪               the B oldest that are ready, and frees B places

Law: before a step on n, at most (v + S - n + 1) B of the groups started at v or before are left,
for they have only that many steps to come. Where a step would break it, because groups that were
started early are still being sampled, it has to wait for those (`late`). With S = 0 this is plain
synchronous training. No clocks, no tasks here: pure bookkeeping.
"""

from o3rl.types import ScoredGroup


class StalenessWindow:
    """Groups by number. Versions are given by their `n`."""

    def __init__(self, groups: int, max_staleness: int):
        self._groups, self._staleness = groups, max_staleness
        self._running: dict[int, int] = {}  # group → version that its attempt was started under
        self._ready: dict[int, tuple[int, ScoredGroup]] = {}
        self._places = 0  # taken: by a prompt from before its admission until it is trained

    @property
    def running(self) -> int:
        """Groups being sampled or scored."""
        return len(self._running)

    @property
    def ready(self) -> int:
        """Scored groups that wait for the learner."""
        return len(self._ready)

    def occupy(self, needed: int) -> int:
        """Take all places that are free, `needed` in all at most; returns how many were taken."""
        free = max(0, min((self._staleness + 1) * self._groups, needed) - self._places)
        self._places += free
        return free

    def trained(self) -> None:
        """A batch that was taken is trained: its places are free."""
        self._places -= self._groups

    def start(self, group: int, n: int) -> None:
        """An attempt begins, the first or another, under version `n`."""
        self._running[group] = n

    def drop(self, group: int) -> None:
        """An attempt ended without a group."""
        self._running.pop(group, None)

    def finish(self, scored: ScoredGroup, n: int) -> None:
        """A running group is ready; version `n` sampled the oldest of its tokens."""
        group = scored.group.prompt.group
        del self._running[group]
        self._ready[group] = (n, scored)

    def late(self, n: int) -> tuple[int, ...]:
        """Running groups which would be too old in the end if the step on `n` were taken now."""
        left = [*self._running.values(), *(v for v, _ in self._oldest()[self._groups :])]
        for v in sorted(set(left), reverse=True):
            if sum(each <= v for each in left) > (v + self._staleness - n) * self._groups:
                return tuple(group for group, start in self._running.items() if start <= v)
        return ()

    def take(self) -> list[ScoredGroup]:
        """The oldest ready ones, a batch of them, in order of their numbers; [] if there are fewer.

        The order among them does not depend on which was sampled first.
        """
        if len(self._ready) < self._groups:
            return []
        batch = [scored for _, scored in self._oldest()[: self._groups]]
        numbers = sorted(scored.group.prompt.group for scored in batch)
        return [self._ready.pop(number)[1] for number in numbers]

    def _oldest(self) -> list[tuple[int, ScoredGroup]]:
        return sorted(self._ready.values(), key=lambda r: (r[0], r[1].group.prompt.group))
