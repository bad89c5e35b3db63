"""The learner's own state on disk: weights, optimiser, schedule, random state, one part a rank."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from learners.writes import Writes

TAG = "engine"
LAYOUT = "layout.json"


def save_state(engine: Any, folder: Path, *, batches: int) -> None:
    """Write this rank's part; all ranks enter. The folder is complete when all have returned.

    Raises OSError on all ranks where one could not write; they may go on training.
    """
    writes, rank = Writes(), dist.get_rank()
    writes.do((folder / TAG).mkdir, parents=True, exist_ok=True)
    _save_engine(engine, folder, writes)
    writes.do(torch.save, {"random": torch.get_rng_state()}, folder / f"rank-{rank}.pt")
    if rank == 0:
        layout = json.dumps({**_layout(engine), "batches": batches})
        writes.do((folder / LAYOUT).write_text, layout)
    writes.settle()


def load_state(engine: Any, folder: Path) -> int:
    """Read back what `save_state` wrote; the number of batches trained until then.

    Raises FileNotFoundError where there is no state, ValueError where it is of another number of
    ranks or ZeRO stage.
    """
    path = folder / LAYOUT
    if not path.is_file():
        raise FileNotFoundError(f"no learner state at {folder} ({LAYOUT} is not there)")
    layout = json.loads(path.read_text())
    for name, value in _layout(engine).items():
        if layout[name] != value:
            raise ValueError(
                f"{folder} was saved with {name}={layout[name]}, this run has {value}; "
                "start a new run from its Hugging Face export, or use the same"
            )
    engine.load_checkpoint(str(folder), tag=TAG)
    random = torch.load(folder / f"rank-{dist.get_rank()}.pt", weights_only=True)
    torch.set_rng_state(random["random"])
    return layout["batches"]


def _save_engine(engine: Any, folder: Path, writes: Writes) -> None:
    """DeepSpeed's part. A rank that raised in the middle would leave the others in a barrier."""
    files = engine.checkpoint_engine
    shadowed = [(files, "save"), (files, "makedirs"), (engine, "_copy_recovery_script")]
    for owner, name in shadowed:
        setattr(owner, name, partial(writes.do, getattr(owner, name)))
    try:
        engine.save_checkpoint(str(folder), tag=TAG, save_latest=False)
    finally:
        for owner, name in shadowed:
            delattr(owner, name)  # the class's own again


def _layout(engine: Any) -> dict[str, int]:
    return {
        "learning.ranks": dist.get_world_size(),
        "learning.zero": engine.zero_optimization_stage(),
    }
