"""The temporal-spatial row of STGR.md's worked values, and how to claim things about it.

A frame of 100×100 px, so that a pixel is a hundredth. Key frames: 5.0 s with a dog [10,10,30,30]
and a cat [50,50,70,70]; 12.5 s with a dog [20,20,40,40].
"""

from o3rl.config import Profile, RewardsConfig
from o3rl.types import KeyFrame, Reward, Task, Truth
from rewards.scorer import Scorer

TRUTH = Truth(
    "a dog",
    key_frames=(
        KeyFrame(5.0, (("dog", ((0.1, 0.1, 0.3, 0.3),)), ("cat", ((0.5, 0.5, 0.7, 0.7),)))),
        KeyFrame(12.5, (("dog", ((0.2, 0.2, 0.4, 0.4),)),)),
    ),
)
DOG, CAT, SECOND_DOG = "[10,10,30,30]", "[50,50,70,70]", "[20,20,40,40]"
NOWHERE = "[80,80,90,90]"


def claim(name: str, time: float | str, *boxes: str) -> str:
    return f"<obj>{name}</obj>{''.join(f'<box>{box}</box>' for box in boxes)}at<t>{time}</t>s "


def scored(thought: str, *, truth: Truth = TRUTH, progress: float = 1.0, **settings) -> Reward:
    """The reward of a thought by `profile` and other settings of `Rewards`."""
    settings = {"profile": Profile.paper, **settings}
    return Scorer(RewardsConfig(**settings)).score(
        Task.TEMPORAL_SPATIAL,
        f"<think>{thought}</think><answer>a dog</answer>",
        truth=truth,
        progress=progress,
        frame_size=(100, 100),
    )
