"""The learner's side of `device_receiver`, in a rank's process: vLLM's trainer, with our laws.

    vLLM's trainer engine ──► client ──► receivers (replicas)
          └── tensors ──► GPU

vLLM's engine walks through the tensors and says when what is due; bytes go from GPU to GPU.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.distributed import DistError
from vllm.distributed.weight_transfer import (
    ParamMeta,
    TrainerWeightTransferEngine,
    WeightSource,
    WeightTransferTrainerFactory,
)
from vllm.distributed.weight_transfer.base import TrainerInitInfo, WeightTransferUpdatePayload
from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

from actors.weights.ipc_handles import plain
from actors.weights.update_stream import HandOverFailed, Loaded
from o3rl.types import Version
from o3rl.weights.device_protocol import AT_ONCE_BYTES, SUMS, DeviceWeights, Receivers


class VllmSender:
    """See `o3rl.weights.device_protocol.Sender`."""

    def __init__(self, info: TrainerInitInfo, weights: DeviceWeights, receivers: Receivers):
        """Connect. Raises HandOverFailed where a receiver does not."""
        near = info.backend == IPCTrainerInitInfo.backend
        self._client, self._source = _Client(weights, receivers, near=near), _Source(weights)
        try:
            with _own_stream():
                self._trainer = WeightTransferTrainerFactory.trainer_init(
                    info, client=self._client, source=self._source
                )
        except (DistError, OSError) as error:  # it waits for all, also where one has refused
            told = f"the learner and {', '.join(receivers.members)} did not connect: {error}"
            raise (self._client.failed or HandOverFailed(told)) from error
        self._client.trainer = self._trainer

    def send(self, version: Version) -> list[Any]:
        """Send the weights as they are.

        Raises what a receiver raised first, or HandOverFailed where the way to them is lost; what
        is wrong with the weights themselves.
        """
        self._client.begin(version)
        try:
            self._trainer.send_weights()
        except (HandOverFailed, torch.OutOfMemoryError):
            raise
        except RuntimeError as error:  # of NCCL and CUDA, which have no types of their own
            if error is self._source.failed:
                raise
            first = self._client.failed
            told = f"version {version} could not be sent: {error}"
            raise (first or HandOverFailed(told)) from error
        return self._client.loaded

    def close(self) -> None:
        """End the connection."""
        _abort(self._trainer)
        self._trainer.shutdown()


def over_ipc(weights: DeviceWeights, receivers: Receivers, *, rank: int) -> VllmSender:
    """Into the engine on the same GPU, through a buffer of it that both map."""
    largest = max(prod(meta.shape) * meta.dtype.itemsize for meta in _metas(weights))
    size = max(AT_ONCE_BYTES, largest)
    info = IPCTrainerInitInfo(rank=rank, packed=True, packed_buffer_size_bytes=size)
    return VllmSender(info, weights, receivers)


def over_nccl(
    weights: DeviceWeights, receivers: Receivers, *, rank: int, place: tuple[str, int], engines: int
) -> VllmSender:
    """To `engines` GPUs at once; `place` is rank 0's address and a port that is free there."""
    host, port = place
    info = NCCLTrainerInitInfo(
        rank=rank,
        master_address=host,
        master_port=port,
        world_size=1 + engines,
        packed_buffer_size_bytes=AT_ONCE_BYTES,
    )
    return VllmSender(info, weights, receivers)


def _own_stream() -> AbstractContextManager[Any]:
    """The stream of now is that of later: vLLM would make itself one, and leave it current."""
    if not torch.cuda.is_available():
        return nullcontext()
    return torch.cuda.stream(torch.cuda.current_stream())


class _Source(WeightSource):
    """The weights as vLLM walks through them; `failed` is what went wrong with the walk itself."""

    def __init__(self, weights: DeviceWeights):
        self.failed: Exception | None = None
        self._weights = weights

    def metadata(self) -> list[ParamMeta]:
        """Of each tensor."""
        return _metas(self._weights)

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Each tensor. Where vLLM stops, the walk is not ended, as it would be by `yield from`: the
        other ranks are in it.
        """
        try:
            for pair in self._weights:  # noqa: UP028
                yield pair
        except Exception as error:
            self.failed = error
            raise


class _Client:
    """vLLM's `VLLMWeightSyncClient`: what its trainer engine asks of the replicas."""

    def __init__(self, weights: DeviceWeights, receivers: Receivers, *, near: bool):
        self.loaded: list[Loaded] = []  # what became of the version
        self.failed: BaseException | None = None
        self.trainer: TrainerWeightTransferEngine[Any] | None = None
        self._version = Version(0, 0)
        self._weights, self._receivers, self._near = weights, receivers, near

    def begin(self, version: Version) -> None:
        """What follows is `version`."""
        self._version, self.loaded, self.failed = version, [], None

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Have the engines connect."""
        try:
            self._receivers.link(init_info)
        except BaseException as error:
            self.failed = error
            raise

    def start_weight_update(self) -> None:
        """Have the replicas stand still."""
        self._receivers.open(self._version, [entry.name for entry in self._weights.entries()])

    def update_weights(self, update_info: WeightTransferUpdatePayload) -> None:
        """Have them take in what is sent meanwhile, the same for all.

        Where one cannot, the broadcast is ended: the sender would wait for it for ever.
        """
        assert isinstance(update_info, Mapping), "one for each replica was not asked for"
        try:
            self._receivers.feed(_plain(update_info))
        except BaseException as error:
            self.failed = error
            _abort(self.trainer)
            raise

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Have them hold what came against what was sent, and serve it."""
        del weight_version  # vLLM's trainer knows none
        if self._near and torch.cuda.is_available():
            torch.cuda.empty_cache()  # the engine on this GPU takes room for its cache next
        manifest = self._weights.manifest(self._version)
        [bucket] = manifest.buckets
        self._receivers.feed({SUMS: {entry.name: entry.digest for entry in bucket.tensors}})
        self.loaded = self._receivers.finish(manifest.digest)


def _abort(trainer: TrainerWeightTransferEngine[Any] | None) -> None:
    """End a broadcast that another thread is in. Once: its communicator is of no more use.

    Not by vLLM's `destroy`, which lets that thread go on to broadcast by what is being ended.
    """
    group = getattr(trainer, "model_update_group", None)
    if group is None or group.disabled:
        return
    group.disabled = True
    with torch.accelerator.device_index(group.device.index):
        group.nccl.ncclCommAbort(group.comm)


def _metas(weights: DeviceWeights) -> list[ParamMeta]:
    return [
        ParamMeta(entry.name, getattr(torch, entry.dtype), entry.shape)
        for entry in weights.entries()
    ]


def _plain(update: Mapping[str, Any]) -> dict[str, Any]:
    handles = update.get("ipc_handles")
    if handles is None:
        return dict(update)
    return {**update, "ipc_handles": {gpu: plain(handle) for gpu, handle in handles.items()}}
