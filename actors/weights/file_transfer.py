"""Our back ends of vLLM's native weight transfer; here, buckets from files in the node's memory.

This module is imported in vLLM's worker processes (it is that of `worker_extension_cls`), where it
registers the back ends and ties the worker's life to its owner's. An update is

    name_problems (nothing is touched) → start → update, bucket by bucket → finish → report

Laws: bytes are held against the manifest's digests before they serve; a version that leaves any
element of any parameter unassigned is an error by name. After an error in update or finish the
model is part old, part new: the engine must not serve again.
"""

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.layers.attention import is_deferred_attention_layer
from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding
from vllm.model_executor.model_loader.reload import (
    finalize_layerwise_reload,
    initialize_layerwise_reload,
)
from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info
from vllm.model_executor.model_loader.reload.utils import get_tensor_load_numel

from o3rl.weights.buckets import Bucket, RawTensor, TensorEntry, verify

_NAMES_LISTED = 8  # that an error lists

Init = TypeVar("Init", bound=WeightTransferInitInfo)
Update = TypeVar("Update", bound=WeightTransferUpdateInfo)


@dataclass
class FileInit(WeightTransferInitInfo):
    """Nothing has to be agreed on beforehand."""


@dataclass
class FileUpdate(WeightTransferUpdateInfo):
    """One bucket: its file on this node, its index and its entries (name, dtype, shape, digest)."""

    path: str
    index: int
    entries: list[tuple[str, str, list[int], str]]

    @property
    def bucket(self) -> Bucket:
        """As the manifest has it."""
        tensors = tuple(TensorEntry(n, d, tuple(s), h) for n, d, s, h in self.entries)
        return Bucket(self.index, tensors, Path(self.path).stat().st_size)


class Checked(WeightTransferEngine[Any, Any]):
    """The laws above, before one of vLLM's weight transfer engines."""

    def start_weight_update(self) -> None:
        """Move the layers aside, to be filled one by one."""
        self._loaded: set[str] = set()
        self._tied = tied(self.model)
        self._report = {"tensors": 0, "bytes": 0}
        super().start_weight_update()  # pyright: ignore[reportAbstractUsage]

    def note(self, loaded: set[str], *, tensors: int, size: int) -> None:
        """Engine parameters that so many tensors, of `size` bytes, went into."""
        self._loaded |= loaded
        self._report["tensors"] += tensors
        self._report["bytes"] += size

    def finish_weight_update(self) -> None:
        """Put the layers back. Raises ValueError naming parameters that were not assigned."""
        missing = {name for name, _ in self.model.named_parameters()} - self._loaded
        missing |= set(_incomplete(self.model))
        missing -= set(self._tied)
        if missing:
            raise ValueError(f"weight update leaves parameters unassigned: {listed(missing)}")
        super().finish_weight_update()  # pyright: ignore[reportAbstractUsage]
        tie(self.model, self._tied)
        self._report["parameters"] = len(self._loaded)

    def report(self) -> dict[str, int]:
        """Of the last finished update: tensors and bytes taken, engine parameters assigned."""
        return dict(self._report)


class Layerwise(WeightTransferEngine[Init, Update]):
    """A weight transfer engine that reloads layer by layer, as vLLM's own do."""

    def init_transfer_engine(self, init_info: Init) -> None:
        """Nothing to connect."""

    def start_weight_update(self) -> None:
        """Move the layers aside."""
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Take one update. The base class would synchronise an accelerator, which CPUs lack."""
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def finish_weight_update(self) -> None:
        """Put the layers back."""
        finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        """Nothing is held between updates."""


class FileTransferEngine(Checked, Layerwise[FileInit, FileUpdate]):
    """Loads buckets from files of this node."""

    init_info_cls = FileInit
    update_info_cls = FileUpdate

    def receive_weights(self, update_info: FileUpdate) -> None:
        """Map the bucket's file, check it, and load its tensors.

        Raises ValueError naming a tensor whose bytes differ from the manifest.
        """
        with open(update_info.path, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        tensors = verify(update_info.bucket, memoryview(mapped))
        pairs = ((name, _as_torch(raw)) for name, raw in tensors.items())
        loaded = self.model.load_weights(pairs)  # pyright: ignore[reportCallIssue]
        size = sum(memoryview(raw.data).nbytes for raw in tensors.values())
        self.note(loaded, tensors=len(tensors), size=size)


def tied(model: torch.nn.Module) -> dict[str, str]:
    """Parameters that are another one under a second name (an output head that is the embedding).

    Second name → first name. To be asked before a reload, which gives each a tensor of its own.
    """
    first: dict[int, str] = {}
    found: dict[str, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if first.setdefault(id(parameter), name) != name:
            found[name] = first[id(parameter)]
    return found


def tie(model: torch.nn.Module, names: dict[str, str]) -> None:
    """Make them one again, and let a layer that keeps a packed copy of its weight make it anew."""
    for second, first in names.items():
        path, _, attribute = second.rpartition(".")
        layer = model.get_submodule(path)
        setattr(layer, attribute, model.get_parameter(first))
        method = getattr(layer, "quant_method", None)
        if method is not None:
            method.process_weights_after_loading(layer)


def name_problems(model: torch.nn.Module, names: list[str]) -> str:
    """See `WorkerExtension.o3rl_name_problems`."""
    given = {_engine_name(model, name): name for name in names}
    needed = {part for name, _ in model.named_parameters() for part in _parts(model, name)}
    missing = needed - given.keys()
    if missing:
        return f"the manifest lacks tensors that the model needs: {listed(missing)}"
    tied = "language_model.lm_head.weight"  # shipped or not, it is the embedding
    unknown = given.keys() - needed - {tied}
    if unknown:
        names_given = listed({given[name] for name in unknown})
        return f"the manifest names tensors that the model does not know: {names_given}"
    return ""


def _engine_name(model: torch.nn.Module, name: str) -> str:
    mapped = model.hf_to_vllm_mapper.map_name(name)  # pyright: ignore
    return name if mapped is None else mapped


def _parts(model: torch.nn.Module, name: str) -> list[str]:
    """Names of the tensors that the engine fuses into its parameter `name`; itself if none."""
    packed: dict[str, list[str]] = model.packed_modules_mapping  # pyright: ignore
    path = name.split(".")
    for place, module in enumerate(path):
        if module in packed:
            return [".".join([*path[:place], part, *path[place + 1 :]]) for part in packed[module]]
    return [name]


def _incomplete(model: torch.nn.Module) -> list[str]:
    """Parameters of layers that have not received all their elements (before finalising)."""
    names: list[str] = []
    for path, layer in model.named_modules():
        info = get_layerwise_info(layer)
        parameters = {name: p for name, p in layer._parameters.items() if p is not None}
        if not info.can_load() or not parameters or is_deferred_attention_layer(layer):
            continue  # fully loaded and put back, or nothing to load
        needed = sum(get_tensor_load_numel(p) for p in parameters.values())
        padded = isinstance(layer, VocabParallelEmbedding)  # its loader checks the true rows
        if info.load_numel >= (1 if padded else needed):
            continue
        names += [f"{path}.{name}" for name in parameters]
    return names


def _as_torch(raw: RawTensor) -> torch.Tensor:
    dtype = getattr(torch, raw.dtype)
    if not memoryview(raw.data).nbytes:
        return torch.empty(raw.shape, dtype=dtype)
    return torch.frombuffer(raw.data, dtype=dtype).reshape(raw.shape)


def listed(names: set[str]) -> str:
    """The first of them, and how many more."""
    first = ", ".join(sorted(names)[:_NAMES_LISTED])
    return (
        first if len(names) <= _NAMES_LISTED else f"{first} and {len(names) - _NAMES_LISTED} more"
    )
