"""A user's own rewards: `rewards.custom` names Python functions, each a further part of the total.

    def reward(text: str, row: Row, rewards: Reward) -> float

`text` is the completion, `row` the STGR row with its truth, `rewards` what the built-in parts gave.
The value must be finite, and at most 1e9 either way. What such a function raises is a value here, a
`CustomFault`: it fails the group, and after `rewards.custom_errors` distinct ones the run.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from o3rl.config import RewardsConfig
from o3rl.config.user_functions import load_function, place_of
from o3rl.text.boxes import convention_of
from o3rl.types import Prompt, Reward, Row
from rewards.scorer import Scorer, weighted

LARGEST = 1e9  # of a value, so that sums and spreads of rewards are finite too

CustomReward = Callable[[str, Row, Reward], float]


class CustomRewardError(RuntimeError):
    """Custom rewards raised too many distinct exceptions; the run must stop."""


@dataclass(frozen=True, slots=True)
class CustomFault:
    """What a custom reward raised. Two are the same fault if only their message differs."""

    name: str
    kind: str  # type of the exception
    place: str  # file:line
    message: str

    @property
    def identity(self) -> tuple[str, str, str]:
        return self.name, self.kind, self.place

    def __str__(self) -> str:
        return f"custom reward {self.name!r} raised {self.kind} at {self.place}: {self.message}"


def load_custom(custom: Mapping[str, str]) -> dict[str, CustomReward]:
    """Import the functions of `Rewards.custom`. Raises ValueError by name and what is missing."""
    return {
        name: load_function(
            target, where=f"rewards.custom.{name} is {target!r}", hint=" on every node"
        )
        for name, target in custom.items()
    }


def with_custom(
    reward: Reward,
    text: str,
    *,
    row: Row,
    functions: Mapping[str, CustomReward],
    weights: Mapping[str, float],
) -> Reward | CustomFault:
    """The reward with a part for each function added, or the first fault."""
    parts = dict(reward.parts)
    for name, function in functions.items():
        try:
            value = float(function(text, row, reward))
        except Exception as error:  # a user's function may raise anything
            return _fault(name, error)
        if not abs(value) <= LARGEST:
            reason = f"returned {value}; it must be finite, and at most {LARGEST:g} either way"
            return CustomFault(name, "ValueError", function.__module__, reason)
        parts[name] = value
    return replace(reward, parts=parts, total=weighted(parts, weights))


def _fault(name: str, error: Exception) -> CustomFault:
    return CustomFault(name, type(error).__name__, place_of(error), f"{error!s:.300}")


class RowScorer:
    """A scorer, the model's box convention, the user's own rewards."""

    def __init__(self, rewards: RewardsConfig, model_type: str):
        self._scorer = Scorer(rewards)
        self._convention = convention_of(model_type)
        self._functions = load_custom(rewards.custom)
        self._weights = rewards.weights

    def score(self, prompt: Prompt, text: str) -> Reward | CustomFault:
        """The reward of one completion of `prompt`, custom parts included."""
        reward = self._scorer.score(
            prompt.row.task,
            text,
            truth=prompt.row.truth,
            progress=prompt.progress,
            frame_size=prompt.plan.size,
            convention=self._convention,
            seen=prompt.plan.times_F,
        )
        return with_custom(
            reward, text, row=prompt.row, functions=self._functions, weights=self._weights
        )
