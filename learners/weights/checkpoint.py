"""The learner's own state on disk: weights, optimiser, schedule, random state, one part a rank."""

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from learners.weights.collective_writes import Writes

log = logging.getLogger(__name__)

TAG = "engine"
LAYOUT = "layout.json"
GROUPS = "parameter_groups"  # of the optimiser; a state without it is of one
MOST_WORKERS = 8  # processes that cut a state anew


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


def load_state(engine: Any, folder: Path, *, seconds: float) -> int:
    """Read back what `save_state` wrote; all ranks enter. Gives the number of batches trained.
    `seconds` bound the cutting of a state for another number of ranks.

    A state of as many ranks is loaded bit for bit, random state too; that of another number is cut
    anew. Raises FileNotFoundError where there is no state, ValueError where it is of another ZeRO
    stage, of an optimiser with other groups of parameters, or cannot be cut anew.
    """
    path = folder / LAYOUT
    if not path.is_file():
        raise FileNotFoundError(f"no learner state at {folder} ({LAYOUT} is not there)")
    layout = json.loads(path.read_text())
    ours = _layout(engine)
    if layout["learning.zero"] != ours["learning.zero"]:
        raise ValueError(
            f"{folder} was saved with learning.zero={layout['learning.zero']}, this run has "
            f"{ours['learning.zero']}; use the same, or start anew from its Hugging Face export"
        )
    if (saved := layout.get(GROUPS, 1)) != ours[GROUPS]:
        raise ValueError(
            f"{folder} was saved with {saved} groups of parameters in the optimiser, this run has "
            f"{ours[GROUPS]} (matrices with weight decay, norms and biases without): its moments "
            "belong to other parameters; start anew from its Hugging Face export"
        )
    if layout["learning.ranks"] == ours["learning.ranks"]:
        engine.load_checkpoint(str(folder), tag=TAG)
        random = torch.load(folder / f"rank-{dist.get_rank()}.pt", weights_only=True)
        torch.set_rng_state(random["random"])
    else:
        log.info("%s is cut for %d ranks", folder, ours["learning.ranks"])
        _load_cut_anew(engine, folder, seconds)
    return layout["batches"]


def _load_cut_anew(engine: Any, folder: Path, seconds: float) -> None:
    """By DeepSpeed's universal checkpoint, which rank 0 makes beside it and removes again."""
    universal = [""]
    try:
        if dist.get_rank() == 0:
            universal = [_converted(folder, seconds)]
        dist.broadcast_object_list(universal)
        engine._config.load_universal_checkpoint = True
        engine.load_checkpoint(universal[0], tag=TAG)
        for state in engine.optimizer.optimizer.state.values():  # all share one, which each counts
            state["step"] = state["step"].clone()
        dist.barrier()
    finally:
        engine._config.load_universal_checkpoint = False
        if universal[0] and dist.get_rank() == 0:
            shutil.rmtree(universal[0], ignore_errors=True)


def _converted(folder: Path, seconds: float) -> str:
    """The state as a universal checkpoint in a folder of its own; by a process that may fork."""
    made = tempfile.mkdtemp(prefix="universal-", dir=folder.parent.parent)
    workers = str(min(MOST_WORKERS, len(os.sched_getaffinity(0))))
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal"]
    command += ["--input_folder", str(folder / TAG), "--output_folder", str(Path(made, TAG))]
    command += ["--num_extract_workers", workers, "--num_merge_workers", workers]
    command += ["--inject_missing_state"]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu"}
    try:
        subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=seconds, check=True
        )
    except subprocess.SubprocessError as error:
        shutil.rmtree(made, ignore_errors=True)
        said = (getattr(error, "stderr", None) or "").strip() or str(error)
        raise ValueError(
            f"{folder} cannot be cut for another number of ranks: {said.splitlines()[-1]}; "
            "resume with as many ranks as before, or start anew from its Hugging Face export"
        ) from error
    return made


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
        GROUPS: len(engine.optimizer.param_groups),
    }
