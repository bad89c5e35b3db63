"""Weights on their way out: gathered layer by layer, adapters merged, under the plain names.

The names are those that `save_pretrained` writes, which vLLM's `load_weights` takes. Under ZeRO-3
all ranks must walk through `layers` together; rank 0 alone gets tensors, one bucket at a time.
"""

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deepspeed
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, ProcessorMixin
from transformers.core_model_loading import revert_weight_conversion

from learners.weights.collective_writes import Writes, rank
from o3rl.weights.manifest import split_layers

SHARD_BYTES = 2 * 2**30


@dataclass(frozen=True)
class Source:
    """One tensor of the plain model: the parameters that it needs whole, and how to make it."""

    parameters: tuple[nn.Parameter, ...]
    merge: Callable[[], Tensor]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor, also while its parameter is partitioned."""
        return tuple(getattr(self.parameters[0], "ds_shape", self.parameters[0].shape))

    @property
    def dtype(self) -> torch.dtype:
        """Of the tensor."""
        return self.parameters[0].dtype

    @property
    def nbytes(self) -> int:
        """Of the whole tensor."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def sources(policy: PreTrainedModel) -> dict[str, Source]:
    """Every tensor of the plain model by the name that `save_pretrained` gives it.

    Good as long as the policy has its parameters, partitioned or not; to find them takes about a
    second for 7B. Tied weights appear once. Raises ValueError for a model whose tensors are split
    or joined when saved.
    """
    adapted = {name: module for name, module in policy.named_modules() if hasattr(module, "lora_A")}
    found: dict[str, Source] = {}
    for name, parameter in policy.named_parameters():
        if ".lora_" in name:
            continue
        module_name, _, leaf = name.rpartition(".")
        owner = module_name.removesuffix(".base_layer")
        if owner in adapted and leaf == "weight":
            source = _merged(adapted[owner], parameter)
        else:
            source = Source((parameter,), lambda parameter=parameter: parameter.data)
        found[_saved_name(policy, f"{owner}.{leaf}")] = source
    return found


def layers(
    found: Mapping[str, Source], *, limit: int, device: torch.device | str = "cpu"
) -> Iterator[dict[str, Tensor]]:
    """Buckets of whole engine layers, at most `limit` bytes each, as tensors on `device`.

    Every rank must exhaust it; ranks other than 0 get empty dictionaries.
    """
    sizes = ((name, source.nbytes) for name, source in found.items())
    for names in split_layers(sizes, limit):
        parameters = [parameter for name in names for parameter in found[name].parameters]
        partitioned = [parameter for parameter in parameters if hasattr(parameter, "ds_id")]
        tensors: dict[str, Tensor] = {}
        with deepspeed.zero.GatheredParameters(partitioned), torch.no_grad():
            if rank() == 0:
                # Copies: the gathered memory goes back when the context ends.
                tensors = {name: found[name].merge().to(device, copy=True) for name in names}
        yield tensors


def export(
    policy: PreTrainedModel,
    processor: ProcessorMixin,
    folder: Path,
    *,
    limit: int = SHARD_BYTES,
) -> None:
    """Write a Hugging Face folder that `from_pretrained` loads; all ranks enter, rank 0 writes.

    Raises OSError on all ranks where it could not be written.
    """
    writes = Writes()
    shards: list[tuple[Path, list[str], int]] = []
    writes.do(folder.mkdir, parents=True, exist_ok=True)
    for index, tensors in enumerate(layers(sources(policy), limit=limit)):
        if rank() == 0:
            path = folder / f"shard-{index:05d}.safetensors"
            writes.do(save_file, tensors, path, metadata={"format": "pt"})
            size = sum(tensor.nbytes for tensor in tensors.values())
            shards.append((path, list(tensors), size))
    if rank() == 0:
        writes.do(_name_shards, folder, shards)
        config = copy.deepcopy(policy.config)
        config.architectures = [type(policy).__name__]
        writes.do(config.save_pretrained, folder)
        if policy.generation_config is not None:
            writes.do(policy.generation_config.save_pretrained, folder)
        writes.do(processor.save_pretrained, folder)
    writes.settle()


def _merged(module: Any, base: nn.Parameter) -> Source:
    adapters = [
        table["default"].weight for table in (module.lora_A, module.lora_B) if "default" in table
    ]
    return Source(
        (base, *adapters),
        lambda: base.data + module.get_delta_weight("default").to(base.dtype),
    )


def _saved_name(policy: PreTrainedModel, name: str) -> str:
    saved = list(revert_weight_conversion(policy, {name: torch.empty(0)}))
    if len(saved) != 1:
        raise ValueError(f"{policy.config.model_type}: {name} is saved as {saved}; unsupported")
    return saved[0]


def _name_shards(folder: Path, shards: list[tuple[Path, list[str], int]]) -> None:
    """Final names, and the index where there are several."""
    if len(shards) == 1:
        shards[0][0].rename(folder / "model.safetensors")
        return
    where: dict[str, str] = {}
    for number, (path, names, _) in enumerate(shards, start=1):
        final = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        path.rename(folder / final)
        where |= dict.fromkeys(names, final)
    total = sum(size for _, _, size in shards)
    index = {"metadata": {"total_size": total}, "weight_map": where}
    text = json.dumps(index, indent=2)
    (folder / "model.safetensors.index.json").write_text(text)
