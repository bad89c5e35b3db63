"""How many rollout replicas a run should have, by who waits for whom.

Each step tells which share of it the learner waited for a batch, and which share the replicas had
nothing to do. A replica more where the learner has waited for several steps in a row; one fewer
where it has not, and the others could do the work. Between the two lies a band in which nothing
changes, and after a change the count begins anew: the number does not swing.
"""

from collections import deque

GROW = 0.25  # of a step that the learner waits
CONTENT = 0.05  # of a step, below which it hardly waits
BUSY = 0.9  # of their time that the replicas left over may be at work
REFUSED = 10  # times as long until one that found no room is asked for again


class ScalePolicy:
    """Wants between `least` and `most` replicas; moves after `steps` steps in a row that agree."""

    def __init__(self, least: int, most: int, *, steps: int):
        self._least, self._most, self._steps = least, most, steps
        self._seen: deque[int] = deque(maxlen=steps)
        self._patience = 0

    def want(self, replicas: int, *, waited: float, idle: float) -> int:
        """The number to have after a step of which the learner `waited` and the replicas idled."""
        if not self._least <= replicas <= self._most:
            return min(max(replicas, self._least), self._most)
        if self._patience:
            self._patience -= 1
            return replicas
        self._seen.append(self._direction(replicas, waited, idle))
        if len(self._seen) < self._steps or len(set(self._seen)) > 1:
            return replicas
        wanted = min(max(replicas + self._seen[0], self._least), self._most)
        if wanted != replicas:
            self._seen.clear()
        return wanted

    def refused(self) -> None:
        """What was wanted could not be had."""
        self._patience = REFUSED * self._steps

    def _direction(self, replicas: int, waited: float, idle: float) -> int:
        if waited > GROW:
            return 1
        if waited < CONTENT and replicas > 1 and (1 - idle) * replicas / (replicas - 1) < BUSY:
            return -1
        return 0
