"""What SFT would teach, scored by the rewards that RL would give for it.

A row whose own target earns nothing for a part teaches the model to earn nothing there.
"""

from collections.abc import Callable

from o3rl.config import RewardsConfig
from o3rl.text.boxes import ABSOLUTE
from o3rl.text.prompts import target
from o3rl.types import PART_WORDS, FramePlan, Row, Task
from rewards.scorer import Scorer

PLAN = FramePlan((0,), (0.0,), (1000, 1000), 0.0)  # boxes keep three digits
EARNED = {
    Task.MCQ: ("ans_acc",),
    Task.FREE_FORM: ("ans_acc",),
    Task.TEMPORAL_SPATIAL: ("ans_acc", "thk_temporal_point", "thk_spatial"),
    Task.TEMPORAL: ("ans_tiou", "thk_temporal_segment"),
    Task.TEMPORAL_MCQ: ("ans_acc", "ans_tiou", "thk_temporal_segment"),
    Task.VISUAL: ("ans_viou", "thk_spatial"),
}


def unearned(rewards: RewardsConfig | None = None) -> Callable[[Row], list[str]]:
    """A function from a row to the parts, in words, for which its own target earns nothing.

    Empty for a row without reasoning, which SFT does not teach. A row that RL cannot reward is
    held to its form alone.
    """
    scorer = Scorer(rewards or RewardsConfig())

    def parts(row: Row) -> list[str]:
        if row.reasoning is None:
            return []
        text = target(row, PLAN, convention=ABSOLUTE)
        earned = scorer.score(
            row.task, text, truth=row.truth, progress=1.0, frame_size=PLAN.size
        ).parts
        asked = () if row.task is Task.VISUAL and row.truth.box is None else EARNED[row.task]
        return [PART_WORDS[name] for name in (*asked, "format") if not earned[name]]

    return parts
