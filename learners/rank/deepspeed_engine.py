"""DeepSpeed: the process group of the ranks and the ZeRO engine around a packed policy.

The optimiser is torch's fused AdamW throughout: DeepSpeed's own CPU Adam would compile at first
use.
Gradient accumulation is the worker's: any number of backward passes, then one step.
"""

import math
import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import deepspeed
import torch
from torch import nn

from learners.model.memory import BUCKET
from learners.model.policy import trained_parameters
from learners.rank.settings import Optimisation
from o3rl.config import LearningConfig

PERSISTENT = 10_000  # parameters of at most so many elements stay whole under ZeRO-3


def join_ranks(*, on_gpu: bool, seconds: float) -> None:
    """Meet the other ranks at MASTER_ADDR:MASTER_PORT, as RANK of WORLD_SIZE (environment).

    `seconds` bounds this and every later collective; a rank that waits longer raises.
    """
    missing = [
        name
        for name in ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK")
        if name not in os.environ
    ]
    if missing:
        raise ValueError(f"environment lacks {', '.join(missing)}; ranks cannot find each other")
    # DeepSpeed would compile its shared-memory operator on the spot (minutes, or for ever behind a
    # stale lock); gloo serves without it.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(
        "nccl" if on_gpu else "gloo",
        auto_mpi_discovery=False,
        verbose=False,
        timeout=timedelta(seconds=seconds),
    )


def build_engine(
    module: nn.Module, learning: LearningConfig, *, optimisation: Optimisation, bfloat16: bool
) -> Any:
    """A DeepSpeed engine over the module's trained parameters.

    Raises ValueError if there is none. Buffers keep their type: rotary frequencies in bfloat16
    would misplace late tokens.
    """
    parameters = trained_parameters(module)
    if not parameters:
        raise ValueError("nothing to train: every parameter of the model is frozen")
    optimizer = torch.optim.AdamW(
        decay_groups(parameters, optimisation.weight_decay),
        lr=optimisation.rate,
        betas=optimisation.betas,
        eps=optimisation.eps,
        fused=True,  # on a CPU ten times as fast
    )
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    trained = sum(parameter.numel() for parameter in parameters)
    config = _config(learning, optimisation=optimisation, bfloat16=bfloat16, trained=trained)
    engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=config)
    for name, buffer in module.named_buffers():
        buffer.data = buffers[name].to(buffer.device)
    return engine


def decay_groups(parameters: Sequence[nn.Parameter], decay: float) -> list[dict[str, Any]]:
    """Matrices with weight decay, norms and biases without; no group without a parameter."""
    matrices = [parameter for parameter in parameters if parameter.ndim > 1]
    others = [parameter for parameter in parameters if parameter.ndim <= 1]
    groups = ((matrices, decay), (others, 0.0))
    return [{"params": params, "weight_decay": each} for params, each in groups if params]


def step(engine: Any) -> float:
    """One step with the gradients so far; their norm before clipping. Not finite: no step.

    DeepSpeed 0.19 keeps a sum that was not finite where ZeRO-2 offloads the optimiser, and would
    add the next gradients to it.
    """
    engine.step()
    norm = float(engine.get_global_grad_norm())
    if not math.isfinite(norm) and engine.zero_optimization_stage() == 2:
        sums = engine.optimizer.averaged_gradients
        sums.update(dict.fromkeys(sums))
    return norm


def set_rate(engine: Any, rate: float) -> None:
    """The learning rate of the next steps."""
    for group in engine.optimizer.param_groups:
        group["lr"] = rate


def _config(
    learning: LearningConfig, *, optimisation: Optimisation, bfloat16: bool, trained: int
) -> dict[str, Any]:
    zero: dict[str, Any] = {
        "stage": learning.zero,
        "overlap_comm": False,
        "stage3_param_persistence_threshold": PERSISTENT,
        # DeepSpeed reserves a whole bucket, however few gradients there are to go in it.
        "reduce_bucket_size": min(BUCKET, trained),
    }
    if learning.optimizer_offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return {
        # One pass is one sample to DeepSpeed; losses are scaled by the worker.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": optimisation.max_grad_norm,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": bfloat16},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "steps_per_print": None,
        "wall_clock_breakdown": False,
    }
