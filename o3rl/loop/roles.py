"""Who a run is made of, as the loop knows them."""

from collections.abc import Awaitable, Mapping, Sequence
from typing import Protocol

from o3rl.types import Failure, FramePlan, Group, Prompt, Reward, Row, ScoredGroup, Version


class Sampler(Protocol):
    """Samples groups for training."""

    async def sample(self, prompt: Prompt) -> Group | Failure:
        """The group of a prompt, by the current weights; a Failure if it is to be tried again."""
        ...


class Scorers(Protocol):
    """The scorer pool. `seconds` is what its processes have spent on groups so far, summed."""

    @property
    def seconds(self) -> float:
        """Wall seconds, from a group's first call to its last answer."""
        ...

    async def score(self, group: Group) -> tuple[Reward | Failure, ...]:
        """One reward, or the reason for none, per rollout of the group, in order."""
        ...


class Learner(Protocol):
    """The learner group. `failures` are the groups that the latest update refused to train."""

    @property
    def failures(self) -> Sequence[Failure]:
        """By group number, with the reason."""
        ...

    async def update(self, groups: Sequence[ScoredGroup]) -> Mapping[str, float]:
        """Learn from one batch, in mini-batches; returns metrics."""
        ...


class WeightTransfer(Protocol):
    """The way of the weights from the learner to the sampler."""

    async def hand_over(
        self, version: Version
    ) -> tuple[Mapping[str, float], Awaitable[Mapping[str, float]]]:
        """Bring the learner's weights to the sampler as `version`.

        Returns when the learner may train on, and nothing starts on older weights: seconds and
        bytes, and what gives those of the sampler once it serves the version.
        """
        ...


class Observer(Protocol):
    """Is told what happens: tracking, checkpoints, validation, pages, the progress bar."""

    async def stepped(
        self, step: int, version: Version, groups: Sequence[ScoredGroup], metrics: dict[str, float]
    ) -> None:
        """After step `step` (from 1) made `version`; may add to `metrics`."""
        ...


class Media(Protocol):
    """Plans and decodes the frames of a row, once, where rollouts and learner can read them."""

    async def prepare(self, row: Row, *, training: bool) -> tuple[FramePlan, str] | Failure:
        """(plan, key of the decoded frames), or why the media cannot be read."""
        ...


class Answerer(Protocol):
    """Samples answers outside training."""

    async def sample_group(self, prompt: Prompt, *, n: int, temperature: float) -> Group | Failure:
        """`n` responses at `temperature` (0: greedy, one)."""
        ...
