"""Whether a clip window stands out of the noise between the engine that samples and the learner.

Both compute π of the same weights, and differ by rounding: |log s| of a sequence at weights that no
step has touched. Where half of the window is below its median, what is clipped is mostly chance.
Only π_old of the sampler has this noise in its ratios; a recomputed one has the learner's rounding
on both sides.
"""

from collections.abc import Mapping
from statistics import median

from o3rl.config import LearningConfig, OldLogprobs

TOKEN_NOISE = {"bfloat16": 0.03, "float32": 2e-6}  # sd of log π a token, engine against learner
MEDIAN = 0.6745  # of |x| for a normal x of sd 1
SHARE = 0.5  # of the window, above which it is chance what is clipped


class ClipNoise:
    """The medians of a run's batches beside its window."""

    def __init__(self, learning: LearningConfig):
        self._learning = learning
        self._medians: list[float] = []

    def note(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Of a batch's metrics, the noise as a share of the window; nothing where none was
        measured: no token of it was sampled by the weights of now."""
        if "noise/median" not in metrics:
            return {}
        self._medians.append(metrics["noise/median"])
        return {"noise/of_window": metrics["noise/median"] / min(self._learning.clip)}

    def warning(self) -> str:
        """What a person should hear of it so far; empty if nothing."""
        return complaint(self._learning, median(self._medians)) if self._medians else ""


def expected_noise(dtype: str, *, tokens: int) -> float:
    """Median |log s| of sequences of so many tokens, where errors of tokens are independent."""
    return MEDIAN * TOKEN_NOISE[dtype] / tokens**0.5


def complaint(learning: LearningConfig, noise: float) -> str:
    """Why the window is too small for this median noise; empty where it is not, or waived."""
    window = min(learning.clip)
    waived = "clip_noise" in learning.waive or learning.old_logprobs is OldLogprobs.recomputed
    if waived or noise <= SHARE * window:
        return ""
    return (
        f"engine and learner differ by {noise:.1e} (median |log s| at the same weights), more than "
        f"half of the clip window {window:.1e}: what is clipped is mostly chance. Use "
        "learning.old_logprobs=recomputed, a wider learning.clip_low and clip_high, or "
        "model.dtype=float32; learning.waive=[clip_noise] if that is meant"
    )
