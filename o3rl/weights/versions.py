"""Where published weights stand: the newest few versions, each whole, some also as a patch.

State only, no transport: the memory below and the Ray store both hold a `RetainedVersions`.
"""

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from o3rl.types import Version
from o3rl.weights.buckets import Bucket, verify
from o3rl.weights.delta import patched
from o3rl.weights.manifest import Manifest

Payload = TypeVar("Payload")


@dataclass
class RetainedVersions(Generic[Payload]):
    """The newest `keep` versions: manifests, and payloads in whatever form a holder has them."""

    keep: int = 2
    _open: dict[Version, dict[int, tuple[Bucket, Payload]]] = field(default_factory=dict)
    _held: dict[Version, tuple[Manifest, tuple[Payload, ...]]] = field(default_factory=dict)
    _patches: dict[Version, dict[int, tuple[Version, Payload]]] = field(default_factory=dict)

    @property
    def versions(self) -> tuple[Version, ...]:
        """Readable versions, oldest first."""
        return tuple(sorted(self._held))

    def put(self, version: Version, bucket: Bucket, payload: Payload) -> None:
        """Take one bucket of a version that is not committed yet; a repeat replaces.

        Raises ValueError if the version is not newer than those held.
        """
        self._refuse_old(version)
        self._open.setdefault(version, {})[bucket.index] = (bucket, payload)
        self._patches.get(version, {}).pop(bucket.index, None)

    def note_patch(self, version: Version, index: int, base: Version, patch: Payload) -> None:
        """A bucket that was put can also be made from that of `base`."""
        self._patches.setdefault(version, {})[index] = (base, patch)

    def commit(self, manifest: Manifest) -> tuple[Version, ...]:
        """Make a version readable; returns the versions that made room for it.

        A repeat changes nothing. Raises LookupError if its buckets are not those that were put,
        ValueError if another manifest as new is held.
        """
        if manifest.version in self._held and self._held[manifest.version][0] == manifest:
            return ()
        self._refuse_old(manifest.version)
        put = self._open.get(manifest.version, {})
        for bucket in manifest.buckets:
            if bucket.index not in put or put[bucket.index][0] != bucket:
                raise LookupError(
                    f"version {manifest.version}: bucket {bucket.index} of the manifest was not put"
                )
        payloads = tuple(put[bucket.index][1] for bucket in manifest.buckets)
        self._held[manifest.version] = (manifest, payloads)
        self._open = {v: b for v, b in self._open.items() if v > manifest.version}
        dropped = self.versions[: -self.keep]
        for version in dropped:
            del self._held[version]
        kept = self._held.keys() | self._open.keys()
        self._patches = {v: patches for v, patches in self._patches.items() if v in kept}
        return dropped

    def manifest(self, version: Version | None = None) -> Manifest:
        """Of `version` or the newest. Raises LookupError naming what is held."""
        return self._find(version)[0]

    def payload(self, version: Version, index: int) -> Payload:
        """Of one bucket. Raises LookupError naming what is held."""
        payloads = self._find(version)[1]
        if not 0 <= index < len(payloads):
            raise LookupError(f"version {version} has {len(payloads)} buckets; no bucket {index}")
        return payloads[index]

    def patch(self, version: Version, index: int) -> tuple[Version, Payload] | None:
        """What changed in one bucket, and since when. Raises LookupError naming what is held."""
        self._find(version)
        return self._patches.get(version, {}).get(index)

    def _find(self, version: Version | None) -> tuple[Manifest, tuple[Payload, ...]]:
        if not self._held:
            raise LookupError("no weights were published yet")
        wanted = max(self._held) if version is None else version
        if wanted not in self._held:
            held = ", ".join(str(v) for v in self.versions)
            raise LookupError(f"weights of version {wanted} are not held; held: {held}")
        return self._held[wanted]

    def _refuse_old(self, version: Version) -> None:
        if self._held and version <= max(self._held):
            raise ValueError(
                f"version {version} is not newer than {max(self._held)}; no version may name two "
                "sets of weights"
            )


class MemoryWeights:
    """Sink and source in one process, every payload checked as it is put."""

    def __init__(self, *, keep: int = 2):
        self._retained: RetainedVersions[bytes] = RetainedVersions(keep)

    def put(self, version: Version, bucket: Bucket, payload: bytes) -> None:
        """Take one bucket. Raises ValueError naming a tensor that differs from its entry."""
        verify(bucket, payload)
        self._retained.put(version, bucket, payload)

    def put_patch(self, version: Version, bucket: Bucket, base: Version, patch: bytes) -> None:
        """Take one bucket as what changed. Raises as `WeightSink` says."""
        payload = patched(self._retained.payload(base, bucket.index), patch)
        self.put(version, bucket, bytes(payload))
        self._retained.note_patch(version, bucket.index, base, patch)

    def commit(self, manifest: Manifest) -> None:
        """Make the version readable."""
        self._retained.commit(manifest)

    def manifest(self, version: Version | None = None) -> Manifest:
        """Of `version` or the newest."""
        return self._retained.manifest(version)

    def payload(self, version: Version, index: int) -> bytes:
        """Safetensors bytes of one bucket."""
        return self._retained.payload(version, index)

    def patch(self, version: Version, index: int) -> tuple[Version, bytes] | None:
        """What changed in one bucket, and since when."""
        return self._retained.patch(version, index)
