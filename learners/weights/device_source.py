"""A rank's part in sending weights straight into the engines: its tensors, and who sends them."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from learners.weights.collective_writes import rank
from learners.weights.export import Source, layers, sources
from o3rl.types import Version
from o3rl.weights.buckets import Bucket, TensorEntry
from o3rl.weights.checksum import checksum, in_hex
from o3rl.weights.device_protocol import AT_ONCE_BYTES, Receivers, Sender
from o3rl.weights.manifest import Manifest, split_layers


class PolicyWeights:
    """The plain model's tensors on the device; see `o3rl.weights.device_protocol.DeviceWeights`."""

    def __init__(
        self, policy: PreTrainedModel, device: torch.device, *, limit: int = AT_ONCE_BYTES
    ):
        self._policy, self._device, self._limit = policy, device, limit
        self._walk: Iterator[tuple[str, Tensor]] | None = None
        self._sums: dict[str, Tensor] = {}

    def entries(self) -> list[TensorEntry]:
        """In the order of `layers`, which the walk has."""
        return self._entries

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Copies, a bucket at once: what was gathered of a partitioned model goes back."""
        self._walk = self._tensors()
        return self._walk

    def walk_on(self) -> None:
        """To the end of the walk, all of it if there is none: the other ranks wait in theirs."""
        for _ in self if self._walk is None else self._walk:
            pass

    def begin(self) -> None:
        """The next walk is a new one."""
        self._walk = None

    def manifest(self, version: Version) -> Manifest:
        """Of the last walk."""
        digests = dict(zip(self._sums, in_hex(list(self._sums.values())), strict=True))
        entries = tuple(replace(entry, digest=digests[entry.name]) for entry in self._entries)
        size = sum(source.nbytes for source in self._sources.values())
        return Manifest(version, (Bucket(0, entries, size),))

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        self._sums = {}
        for tensors in layers(self._sources, limit=self._limit, device=self._device):
            self._settle()  # the taker may read on another stream than the copies were made on
            for name in list(tensors):
                tensor = tensors.pop(name)
                self._sums[name] = checksum(tensor)
                self._lend(tensor)
                yield name, tensor
                del tensor

    @cached_property
    def _sources(self) -> dict[str, Source]:
        return sources(self._policy)

    @cached_property
    def _entries(self) -> list[TensorEntry]:
        found = self._sources
        sizes = ((name, source.nbytes) for name, source in found.items())
        return [
            TensorEntry(name, _name(found[name].dtype), found[name].shape, "")
            for names in split_layers(sizes, self._limit)
            for name in names
        ]

    def _settle(self) -> None:
        if self._device.type != "cpu":
            torch.accelerator.synchronize()

    def _lend(self, tensor: Tensor) -> None:
        """To the stream of now: its memory is not used anew before that has read it."""
        if self._device.type != "cpu":
            tensor.record_stream(torch.cuda.current_stream())


class Direct:
    """Sends to the receivers it is given, by one connection for as long as they are the same."""

    def __init__(self, weights: PolicyWeights):
        self._weights = weights
        self._members: tuple[str, ...] = ()
        self._sender: Sender | None = None

    def send(self, version: Version, receivers: Receivers, place: tuple[str, int]) -> list[Any]:
        """The weights as `version`; all ranks enter, and walk to the end whatever the sender does.

        After an error the connection is ended.
        """
        members = tuple(receivers.members)
        self._weights.begin()
        try:
            if self._sender is None or members != self._members:
                self.close()
                self._sender = receivers.sender(self._weights, rank=rank(), place=place)
                self._members = members
            return self._sender.send(version)
        except BaseException:
            try:
                self._weights.walk_on()
            finally:
                self.close()
            raise

    def close(self) -> None:
        """End the connection, if there is one."""
        if self._sender is not None:
            self._sender.close()
            self._sender = None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
