"""How the services of a run are handed to its loop."""

from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.services.weight_transfer import DeviceTransfer, StoreTransfer
from cluster.services.wiring import Services
from learners.rank.settings import Optimisation
from o3rl.config import load

DIRECT = ["rollouts.transfer=nccl"]
TURNS = [
    "rollouts.transfer=ipc",
    "rollouts.placement=colocated",
    "rollouts.gpus=0.5",
    "cluster.gpus_per_rank=0.5",
    "learning.optimizer_offload=true",
    "loop.max_staleness=0",
]


@pytest.mark.parametrize(("overrides", "direct"), [([], False), (DIRECT, True), (TURNS, True)])
def test_the_pool_takes_weights_as_the_configuration_says(overrides, direct, tmp_path):
    """And an engine on the learner's GPU sleeps before it learns."""
    start = Services(load(None, overrides), tmp_path, AsyncExitStack())
    media: Any = SimpleNamespace(frames=None)
    store: Any = None if direct else object()
    pool = start.rollouts(media, store)
    optimisation = Optimisation.of_learning(load(None).learning, batches=1)
    learner = start.learner(media, store, optimisation=optimisation, pool=pool)
    transfer = start.transfer(pool, learner)
    assert isinstance(transfer, DeviceTransfer if direct else StoreTransfer)
    assert pool.weights.provider is transfer
    assert (learner._make_room == pool.weights.sleep) is (overrides is TURNS)


@pytest.mark.parametrize("stored", [True, False])
def test_an_evaluation_pulls_from_its_store_whatever_training_does(stored, tmp_path):
    """Several models are loaded one after the other, and there is no learner."""
    run = load(None, DIRECT)
    store: Any = object() if stored else None
    media: Any = SimpleNamespace(frames=None)
    pool = Services(run, tmp_path, AsyncExitStack()).rollouts(media, store)
    assert pool._rollouts.transfer == ("object_store" if stored else "nccl")
