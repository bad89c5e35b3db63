"""Qwen3-VL from end to end: prompt, engine, learner, target, reward; frames below its limit."""

import numpy as np
import pytest
import torch

from learners.model.packing import PackedPolicy, Segment, pack
from learners.model.policy import load_policy, load_processor
from learners.rank.inputs import Reader
from o3rl.config import ModelConfig, RewardsConfig
from o3rl.text.boxes import RELATIVE_1000, convention_of
from o3rl.types import FramePlan, KeyFrame, Prompt, Row, Task, Truth, Version
from rewards.scorer import Scorer
from tests.actors.conftest import ROLLOUTS, SAMPLING, SEED
from tests.qwen3_vl import FACTOR, LEAST, build_thinker

SIZE = (3 * FACTOR, 2 * FACTOR)  # width, height
assert SIZE[0] * SIZE[1] < LEAST
PLAN = FramePlan((0, 1), (0.0, 1.0), SIZE, 2.0)
TRUTH = Truth("a circle", key_frames=(KeyFrame(1.0, (("red circle", ((0.1, 0.2, 0.5, 1.0),)),)),))
THOUGHT = "It is <obj>red circle</obj><box>[0.1,0.2,0.5,1.0]</box>at<t>1.0</t>s."
ROW = Row(
    "r", Task.TEMPORAL_SPATIAL, "synth", "Where is the red circle?", "v.mp4", TRUTH, None, THOUGHT
)
PROMPT = Prompt(0, ROW, PLAN, "key", 0.0)
FRAMES = np.random.default_rng(0).integers(0, 256, (2, SIZE[1], SIZE[0], 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> ModelConfig:
    return ModelConfig(
        path=str(build_thinker(tmp_path_factory.mktemp("m"), seed=1)), dtype="float32"
    )


@pytest.fixture(scope="module")
def policy(settings):
    return load_policy(settings).eval()


@pytest.fixture(scope="module")
def reader(settings, policy) -> Reader:
    processor = load_processor(settings)
    return Reader.of(policy, processor, style=settings.prompt_style, max_tokens=4096)


def test_a_target_thinks_once_in_thousandths_and_earns_all_there_is(reader):
    segment = reader.row(PROMPT, lambda _: FRAMES)
    assert isinstance(segment, Segment)
    tokenizer = reader.processor.tokenizer
    asked = tokenizer.decode(segment.prompt.tokens_P)
    assert asked.endswith("<|im_start|>assistant\n")
    assert "in thousandths of width and height" in asked
    text = tokenizer.decode(segment.completions_G[0][:-1])
    assert text.count("<think>") == 1
    assert "<box>[100,200,500,1000]</box>" in text
    assert convention_of(reader.config.model_type) is RELATIVE_1000
    reward = Scorer(RewardsConfig()).score(
        ROW.task, text, truth=TRUTH, progress=1.0, frame_size=SIZE, convention=RELATIVE_1000
    )
    assert reward.total == pytest.approx(4.0)  # answer, times, boxes, format


@pytest.mark.e2e
def test_engine_and_learner_read_the_same_prompt_and_agree_on_it(settings, policy, reader, run):
    from actors.engine.engine import Engine

    async def sampled():
        engine = Engine(settings, sampling=SAMPLING, rollouts=ROLLOUTS)
        try:
            await engine.warm_up()
            await engine.adopt(Version(0, 0))
            return await engine.generate(PROMPT, FRAMES, seed=SEED)
        finally:
            await engine.close()

    group = run(sampled())
    segment = reader.group(group, lambda _: FRAMES)
    assert isinstance(segment, Segment), segment
    with torch.no_grad():
        logprobs_ST, _ = PackedPolicy(policy)(pack([segment]))
    for rollout, ours_T in zip(group.rollouts_G, logprobs_ST, strict=True):
        ours = ours_T[: len(rollout.tokens_T)].numpy()
        np.testing.assert_allclose(rollout.logprobs_T, ours, atol=1e-4, rtol=0)
