"""One completion of a prompt, scored as a run scores it: by its row, its frames, its progress.

No Ray here: the pool's workers hold one of these each.
"""

from o3rl.boxes import convention_of
from o3rl.config import Rewards
from o3rl.flow import Prompt, Reward
from rewards.custom import CustomFault, load_custom, with_custom
from rewards.scorer import Scorer


class RowScorer:
    """A scorer, the model's box convention, the user's own rewards."""

    def __init__(self, rewards: Rewards, model_type: str):
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
        )
        return with_custom(
            reward, text, row=prompt.row, functions=self._functions, weights=self._weights
        )
