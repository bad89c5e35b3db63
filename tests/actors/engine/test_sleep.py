"""An engine that shares a GPU by turns: its memory is the learner's while it sleeps."""

from dataclasses import replace

import pytest
import torch

from o3rl.config import Placement
from o3rl.types import Version
from tests.actors.conftest import (
    ROLLOUTS,
    SAMPLING,
    SEED,
    frames,
    model,
    prompt,
    published,
    reference_logprobs,
    tensors,
)

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="vLLM sleeps on a GPU only"),
]


def test_a_sleeping_engine_gives_its_memory_back_and_wakes_with_the_next_weights(run, policies):
    from actors.engine.engine import Engine

    by_turns = replace(ROLLOUTS, gpus=0.5, memory_share=0.3, placement=Placement.colocated)

    async def turns():
        engine = Engine(model(policies.base), sampling=SAMPLING, rollouts=by_turns)
        try:
            await engine.warm_up()
            await engine.load(published(tensors(policies.base), Version(0, 0)))
            awake, _ = torch.cuda.mem_get_info()
            await engine.sleep()
            asleep, whole = torch.cuda.mem_get_info()
            assert asleep - awake > 0.2 * whole
            await engine.load(published(tensors(policies.changed), Version(0, 1)))
            again, _ = torch.cuda.mem_get_info()
            await engine.sleep()
            asleep, _ = torch.cuda.mem_get_info()
            assert asleep - again > 0.2 * whole, "what was loaded sleeps too"
            await engine.load(published(tensors(policies.changed), Version(0, 2)))
            return await engine.generate(prompt(0), frames("key0"), seed=SEED)
        finally:
            await engine.close()

    group = run(turns())
    expected = reference_logprobs(policies.changed, group)
    for rollout, values in zip(group.rollouts_G, expected, strict=True):
        assert rollout.logprobs_T == pytest.approx(values, abs=1e-2)
