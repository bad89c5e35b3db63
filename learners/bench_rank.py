"""A learner rank in this process, and a batch for it: what benchmarks of whole steps share."""

import os
import socket

from learners.bench_folder import rewards_of
from learners.schedule import Optimisation
from learners.settings import LearnerSettings
from o3rl.advantages import group_advantages
from o3rl.config import Learning, Model
from o3rl.flow import Group, Reward, ScoredGroup


def alone(model: Model, learning: Learning) -> LearnerSettings:
    """Of one rank on CPU; sets the environment in which it finds itself alone."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "DS_ACCELERATOR": "cpu"}
    optimisation = Optimisation.of_learning(learning, batches=1)
    return LearnerSettings(model, learning, optimisation, seed=0, on_gpu=False)


def scored(group: Group) -> ScoredGroup:
    """With a reward that costs nothing."""
    rewards = rewards_of([rollout.tokens_T for rollout in group.rollouts_G])
    parts = tuple(Reward({"even": reward}, reward) for reward in rewards)
    return ScoredGroup(group, parts, group_advantages(rewards))
