"""A way of weights that needs no GPU, in the place of IPC and NCCL: bytes within the updates.

All around it is the real thing: vLLM's engine and both of its sides of a transfer, our laws. It is
the module of `worker_extension_cls`, so that vLLM's workers know it.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from vllm.distributed.weight_transfer import (
    TrainerWeightTransferEngine,
    WeightTransferEngineFactory,
    WeightTransferTrainerFactory,
)
from vllm.distributed.weight_transfer.base import (
    TrainerInitInfo,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)

from actors.engine.worker_extension import WorkerExtension
from actors.weights.device_receiver import HeldToSums
from actors.weights.file_transfer import Layerwise

BACKEND = "plain"


@dataclass
class PlainInit(WeightTransferInitInfo):
    linked: str


@dataclass
class PlainUpdate(WeightTransferUpdateInfo):
    name: str
    dtype: str
    shape: list[int]
    data: bytes


class _Loads(Layerwise[PlainInit, PlainUpdate]):
    def receive_weights(self, update_info: PlainUpdate) -> None:
        dtype = getattr(torch, update_info.dtype)
        flat = torch.frombuffer(bytearray(update_info.data), dtype=dtype)
        self.model.load_weights([(update_info.name, flat.reshape(update_info.shape))])


class PlainEngine(HeldToSums, _Loads):
    init_info_cls = PlainInit
    update_info_cls = PlainUpdate


@dataclass
class PlainTrainerInit(TrainerInitInfo):
    backend: ClassVar[str] = BACKEND


class PlainTrainer(TrainerWeightTransferEngine[PlainTrainerInit]):
    init_info_cls = PlainTrainerInit

    @classmethod
    def trainer_init(cls, init_info, *, client, source=None):
        client.init_weight_transfer_engine({"linked": "yes"})
        return cls(client=client, source=source, is_sender=init_info.is_sender)

    def send_weights(self) -> None:
        self.client.start_weight_update()
        metadata = iter(self.source.metadata())
        for name, tensor in self.source:
            meta = next(metadata)
            assert (meta.name, meta.dtype, meta.shape) == (name, tensor.dtype, tensor.shape)
            self.client.update_weights(
                {
                    "name": name,
                    "dtype": str(tensor.dtype).removeprefix("torch."),
                    "shape": list(tensor.shape),
                    "data": tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes(),
                }
            )
        self.client.finish_weight_update()


class Extension(WorkerExtension):
    """Ours, whose import registers what is above."""


WeightTransferEngineFactory.register_engine(BACKEND, PlainEngine)
WeightTransferTrainerFactory.register_engine(BACKEND, PlainTrainer)
