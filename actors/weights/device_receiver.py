"""Weights straight from the learner's GPU: vLLM's own back ends, held to our laws.

    start ─► update … update ─► the sums of what was sent, held against what came ─► finish

Imported in vLLM's worker processes where `rollouts.transfer` asks for one of these (`ipc`, `nccl`).
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from vllm.distributed.weight_transfer.ipc_engine import IPCWeightTransferEngine
from vllm.distributed.weight_transfer.nccl_engine import (
    NCCLWeightTransferEngine,
    NCCLWeightTransferInitInfo,
)

from actors.weights.file_transfer import Checked, listed
from actors.weights.ipc_handles import rebuilt
from o3rl.weights.checksum import checksum, in_hex
from o3rl.weights.device_protocol import SUMS


class HeldToSums(Checked):
    """Before a vLLM engine that takes tensors without a digest: they are held against sums."""

    def start_weight_update(self) -> None:
        """Begin; nothing is held yet."""
        self._sums: dict[str, Tensor] = {}
        self._held = False
        super().start_weight_update()

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Take tensors, or, last, the sums. Raises ValueError naming tensors that differ."""
        if SUMS in update_info:
            self._hold(update_info[SUMS])
        else:
            super().update_weights(update_info)

    def receive_weights(self, update_info: Any) -> None:
        """As the back end does, seeing what it loads."""
        model = self.model
        self.model = _Seen(model, self)
        try:
            super().receive_weights(update_info)  # pyright: ignore[reportAbstractUsage]
        finally:
            self.model = model

    def finish_weight_update(self) -> None:
        """Put the layers back, if what came is what was sent."""
        if not self._held:
            raise ValueError("weight update ends before the sums of its tensors have come")
        super().finish_weight_update()

    def see(self, tensors: list[tuple[str, Tensor]], loaded: set[str]) -> None:
        """Sum tensors that the model has loaded into the parameters `loaded`."""
        for name, tensor in tensors:
            self._sums[name] = checksum(tensor)
        self.note(loaded, tensors=len(tensors), size=sum(tensor.nbytes for _, tensor in tensors))

    def _hold(self, sent: dict[str, str]) -> None:
        came = dict(zip(self._sums, in_hex(list(self._sums.values())), strict=True))
        wrong = {name for name in sent.keys() | came.keys() if sent.get(name) != came.get(name)}
        if wrong:
            raise ValueError(f"tensors differ from those that were sent: {listed(wrong)}")
        self._held = True


class _Seen:
    """A model that can only load, and tells what."""

    def __init__(self, model: torch.nn.Module, engine: HeldToSums):
        self._model, self._engine = model, engine

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """As the model does."""
        tensors = list(weights)
        loaded = self._model.load_weights(tensors)  # pyright: ignore[reportCallIssue]
        self._engine.see(tensors, loaded)
        return loaded


class IpcEngine(HeldToSums, IPCWeightTransferEngine):
    """Maps a buffer of the learner's, on the same GPU."""

    def parse_update_info(self, update_dict: dict[str, Any]) -> Any:
        """With the buffer's handle as torch wants it, of the plain values that came by msgpack."""
        handles = {gpu: rebuilt(values) for gpu, values in update_dict["ipc_handles"].items()}
        return super().parse_update_info({**update_dict, "ipc_handles": handles})


class NcclEngine(HeldToSums, NCCLWeightTransferEngine):
    """Takes what the learner broadcasts."""

    def init_transfer_engine(self, init_info: NCCLWeightTransferInitInfo) -> None:
        """Connect, having ended the connection before."""
        self.shutdown()
        super().init_transfer_engine(init_info)
