"""New weights to the store, as versions: whole, or as what changed since the last one.

Under ZeRO-3 all ranks walk through the layers together; rank 0 alone holds and sends buckets.
"""

import logging
from functools import cached_property

import torch
from torch import Tensor
from transformers import PreTrainedModel

from learners.weights.collective_writes import rank
from learners.weights.export import Source, layers, sources
from o3rl.config import Publish
from o3rl.types import Version
from o3rl.weights.buckets import Bucket, RawTensor, pack_bucket
from o3rl.weights.delta import difference
from o3rl.weights.manifest import Manifest, Published, WeightSink

log = logging.getLogger(__name__)

BUCKET_BYTES = 256 * 2**20


class Publisher:
    """Sends versions of one policy; remembers the last one where only changes are sent.

    A version that cannot be sent as a change is sent whole: the first, and one whose base the store
    does not hold.
    """

    def __init__(self, policy: PreTrainedModel, publish: Publish, *, limit: int = BUCKET_BYTES):
        self._policy = policy
        self._compares = publish is Publish.changes
        self._limit = limit
        self._last: tuple[Version, dict[int, bytes]] | None = None  # payloads by bucket

    @cached_property
    def _sources(self) -> dict[str, Source]:
        return sources(self._policy)

    def send(self, version: Version, sink: WeightSink) -> Published | None:
        """The weights as `version`; all ranks enter, rank 0 sends and is told of it."""
        last, self._last = self._last, None  # until this one is there as a whole
        payloads: dict[int, bytes] = {} if last is None else last[1]
        buckets: list[Bucket] = []
        sent = changed = values = 0
        for index, tensors in enumerate(layers(self._sources, limit=self._limit)):
            if rank() != 0:
                continue
            bucket, payload = pack_bucket(
                index, [_raw(name, tensor) for name, tensor in tensors.items()]
            )
            buckets.append(bucket)
            if last is None:
                sink.put(version, bucket, payload)
                sent += len(payload)
            else:
                patch = difference(payloads[index], payload)
                changed, values = changed + patch.changed, values + patch.values
                sent += _send(sink, version, bucket, payload, base=last[0], patch=patch.payload)
            if self._compares:
                payloads[index] = payload
        if rank() != 0:
            return None
        manifest = Manifest(version, tuple(buckets), base=self._compares)
        sink.commit(manifest)
        share = None if last is None else changed / values
        self._last = (version, payloads) if self._compares else None
        return Published(manifest, sent, share)


def _send(
    sink: WeightSink,
    version: Version,
    bucket: Bucket,
    payload: bytes,
    *,
    base: Version,
    patch: bytes,
) -> int:
    """As a change where that is shorter and the store has the base; returns the bytes sent."""
    if len(patch) < len(payload):
        try:
            sink.put_patch(version, bucket, base, patch)
            return len(patch)
        except (LookupError, ValueError) as error:
            log.warning("bucket %d of version %s is sent whole: %s", bucket.index, version, error)
    sink.put(version, bucket, payload)
    return len(payload)


def _raw(name: str, tensor: Tensor) -> RawTensor:
    data = tensor.contiguous().flatten().view(torch.uint8).numpy().data
    return RawTensor(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), data)
