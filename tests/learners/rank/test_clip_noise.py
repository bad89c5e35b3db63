"""When a clip window is too small for the noise of a run, and what is said of it."""

import pytest

from learners.rank.clip_noise import ClipNoise, complaint, expected_noise
from o3rl.config import LearningConfig, Objective, OldLogprobs


@pytest.mark.parametrize(
    ("fields", "noise", "said"),
    [
        ({}, 1.6e-4, True),  # half of 3e-4 is 1.5e-4
        ({}, 1.4e-4, False),
        ({"waive": ["clip_noise"]}, 1.0, False),
        ({"old_logprobs": OldLogprobs.recomputed}, 1.0, False),
        ({"objective": Objective.grpo}, 1e-3, False),  # 0.2 of a token
        ({"clip_low": 0.02, "clip_high": 4e-4}, 2.1e-4, True),  # the narrower side counts
    ],
)
def test_half_of_the_window_is_the_limit(fields, noise, said):
    assert bool(complaint(LearningConfig(**fields), noise)) is said


def test_bfloat16_over_hundreds_of_tokens_is_above_the_window_of_the_paper():
    # 0.6745 · 0.03 / √900 = 6.745e-4.
    assert expected_noise("bfloat16", tokens=900) == pytest.approx(6.745e-4)
    assert "6.7e-04" in complaint(LearningConfig(), expected_noise("bfloat16", tokens=900))
    assert not complaint(LearningConfig(), expected_noise("float32", tokens=64))


def test_a_run_hears_of_the_median_of_its_batches():
    noise = ClipNoise(LearningConfig())
    assert noise.note({"loss": 1.0}) == {}  # nothing was sampled by the weights of now
    assert noise.warning() == ""
    assert noise.note({"noise/median": 6e-4})["noise/of_window"] == pytest.approx(2.0)
    assert "6.0e-04" in noise.warning()
    for _ in range(2):
        noise.note({"noise/median": 1e-5})
    assert noise.warning() == ""
