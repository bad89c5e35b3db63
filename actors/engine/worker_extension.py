"""What vLLM's worker processes learn from us: it registers our ways of the weights."""

import os

from vllm.distributed.weight_transfer import WeightTransferEngineFactory

from actors.engine.child_processes import die_with_owner
from actors.weights.backends import BACKENDS
from actors.weights.file_transfer import FileTransferEngine, name_problems
from o3rl.config import Transfer


class WorkerExtension:
    """What the engine may ask of a worker beside vLLM's own calls; mixed into its class."""

    def o3rl_name_problems(self, names: list[str]) -> str:
        """Hold a manifest's names against the model before an update touches it.

        Says which tensors the model needs and the manifest lacks (part of a fused layer too), or
        which the model does not know; empty if all is well.
        """
        model = self.get_model()  # pyright: ignore[reportAttributeAccessIssue]
        return name_problems(model, names)

    def o3rl_pid(self) -> int:
        """Of the worker's process."""
        return os.getpid()

    def o3rl_transfer_report(self) -> dict[str, int]:
        """Of the last finished update."""
        return self.weight_transfer_engine.report()  # pyright: ignore[reportAttributeAccessIssue]


WeightTransferEngineFactory.register_engine(BACKENDS[Transfer.object_store], FileTransferEngine)
WeightTransferEngineFactory.register_engine(
    BACKENDS[Transfer.ipc], "actors.weights.device_receiver", "IpcEngine"
)
WeightTransferEngineFactory.register_engine(
    BACKENDS[Transfer.nccl], "actors.weights.device_receiver", "NcclEngine"
)
die_with_owner()
