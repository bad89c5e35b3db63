"""The ways of the weights, as they are registered with vLLM."""

from o3rl.config import Transfer

BACKENDS = {  # as `actors.engine.worker_extension` registers them with vLLM
    Transfer.object_store: "o3rl_files",
    Transfer.ipc: "o3rl_ipc",
    Transfer.nccl: "o3rl_nccl",
}


EXTENSION = "actors.engine.worker_extension.WorkerExtension"
