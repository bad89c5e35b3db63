"""`o3rl plan`'s bytes against those of a tiny learner's tensors and files: within 15 %."""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.plan.estimate import checkpoint_bytes, published_bytes
from learners.model.architecture import Architecture
from learners.model.memory import rank_memory
from learners.rank.worker import RankWorker
from o3rl.config import RunConfig
from o3rl.types import Version
from o3rl.weights.versions import MemoryWeights

pytestmark = pytest.mark.usefixtures("rank_alone")
WITHIN = 0.15


def size(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def size_on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def held_gradients(optimizer: Any) -> list[torch.Tensor]:
    """DeepSpeed's, between backward and step."""
    if hasattr(optimizer, "grad_partitions_flat_buffer"):  # ZeRO-3
        return [optimizer.grad_partitions_flat_buffer]
    sums = [getattr(g, "flat_partition", None) for g in optimizer.averaged_gradients.values()]
    if kept := [each for each in sums if each is not None]:  # the step takes them as they are
        return kept
    return [tensor for tensors in optimizer.all_grad_tensors.values() for tensor in tensors]


def memory_of(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes, of what several share once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


@pytest.mark.parametrize("kind", ["all trained", "frozen tower", "bfloat16"])
@pytest.mark.parametrize("zero", [2, 3])
def test_what_a_rank_holds_and_writes(zero, kind, settings, model, groups, fetch, tmp_path):
    dtype = "bfloat16" if kind == "bfloat16" else "float32"
    kept = replace(model, freeze_vision=kind == "frozen tower", dtype=dtype)
    chosen = settings(zero=zero, mini_batches=1, model=kept)
    worker = RankWorker(chosen, fetch)
    engine, masters, gradients = worker._engine, [], []
    adamw, step = engine.optimizer.optimizer, engine.step
    adamw_step = adamw.step

    def measured_step() -> None:
        gradients.extend(held_gradients(engine.optimizer))
        step()

    def measured_adamw_step() -> None:
        for group in adamw.param_groups:
            masters.extend(group["params"])
            gradients.extend(each.grad for each in group["params"])
        adamw_step()

    engine.step, adamw.step = measured_step, measured_adamw_step
    worker.update([groups])
    worker.save(tmp_path / "learner")
    worker.export(tmp_path / "model")
    published = worker.publish(Version(0, 1), MemoryWeights())
    assert published is not None

    moments = [
        value
        for state in adamw.state.values()
        for name, value in state.items()
        if name in ("exp_avg", "exp_avg_sq")
    ]
    weights = [getattr(each, "ds_tensor", each) for each in worker._policy.parameters()]

    sizes = Architecture.of(json.loads((Path(model.path) / "config.json").read_text()))
    run = RunConfig(model=chosen.model, learning=chosen.learning)
    planned = rank_memory(sizes, chosen.model, chosen.learning)
    assert size(weights) == pytest.approx(planned.weights, rel=WITHIN)
    assert size(masters) == pytest.approx(planned.masters, rel=WITHIN)
    assert size(moments) == pytest.approx(planned.moments, rel=WITHIN)
    assert memory_of(gradients) == pytest.approx(planned.gradients, rel=WITHIN)
    assert published.manifest.size == pytest.approx(published_bytes(run, sizes), rel=WITHIN)
    assert size_on_disk(tmp_path) == pytest.approx(checkpoint_bytes(run, sizes), rel=WITHIN)
