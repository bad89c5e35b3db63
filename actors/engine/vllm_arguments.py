"""vLLM's arguments and environment, from the configuration; what CPUs need differently.

On a CPU: eager mode; prompts in one piece, because a request's own seed and chunked prefill
together end the CPU engine (its generators have no offset); threads unbound, to be polite to a
learner on the same cores; no kernels compiled for what runs eagerly; and the worker inside the
engine's process, because another process is another quarter of a minute of imports.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from vllm.config import VllmConfig, WeightTransferConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.usage.usage_lib import UsageContext

from actors.engine.child_processes import OWNER
from actors.weights.backends import BACKENDS, EXTENSION
from o3rl.config import ModelConfig, Placement, RolloutsConfig

PROCESSOR_CACHE_GIB = 1.0


def engine_config(
    model: ModelConfig, *, rollouts: RolloutsConfig, temperature: float
) -> VllmConfig:
    """What vLLM starts with."""
    arguments = engine_arguments(model, rollouts=rollouts, temperature=temperature)
    config = arguments.create_engine_config(UsageContext.ENGINE_CONTEXT)
    if rollouts.gpus == 0 and rollouts.tensor_parallel == 1:
        # vLLM asks for a process of the worker's own to set OpenMP's variables in; ours are set
        # before the engine's process starts.
        config.parallel_config.distributed_executor_backend = "uni"
    return config


def engine_arguments(
    model: ModelConfig, *, rollouts: RolloutsConfig, temperature: float
) -> AsyncEngineArgs:
    """For one rollout engine that takes its weights by `rollouts.transfer`.

    Its log-probabilities are of the distribution that it samples from at `temperature`.
    """
    on_cpu = rollouts.gpus == 0
    batched = rollouts.max_batched_tokens
    return AsyncEngineArgs(
        model=model.path,
        dtype=model.dtype,  # pyright: ignore[reportArgumentType]
        seed=0,
        max_model_len=rollouts.max_model_tokens,
        max_num_batched_tokens=max(batched, rollouts.max_model_tokens) if on_cpu else batched,
        max_num_seqs=rollouts.max_sequences,
        enable_chunked_prefill=not on_cpu,
        enforce_eager=rollouts.enforce_eager or on_cpu,
        tensor_parallel_size=rollouts.tensor_parallel,
        distributed_executor_backend="mp" if on_cpu or rollouts.tensor_parallel > 1 else "uni",
        gpu_memory_utilization=rollouts.memory_share,
        enable_sleep_mode=rollouts.placement is Placement.colocated,
        enable_prefix_caching=True,
        limit_mm_per_prompt={"video": 0},
        mm_processor_cache_gb=PROCESSOR_CACHE_GIB,
        mm_processor_kwargs={"min_pixels": 1},  # frames come at their size: none is enlarged
        logprobs_mode="raw_logprobs" if temperature == 1 else "processed_logprobs",
        worker_extension_cls=EXTENSION,
        weight_transfer_config=WeightTransferConfig(backend=BACKENDS[rollouts.transfer]),
        disable_log_stats=True,
        enable_log_requests=False,
    )


@contextmanager
def engine_environment(rollouts: RolloutsConfig) -> Iterator[None]:
    """The environment that vLLM's processes inherit while it starts; restored afterwards."""
    wanted = {
        OWNER: str(os.getpid()),
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "WARNING"),
    }
    if rollouts.gpus == 0:
        wanted |= {
            "VLLM_CPU_KVCACHE_SPACE": str(rollouts.kv_cache_gib),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(max(1, int(rollouts.cpus))),
            "TORCHDYNAMO_DISABLE": "1",
        }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
