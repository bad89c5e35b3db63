"""What an engine says of a weight update, or that it is broken; light to import."""

from dataclasses import dataclass

from o3rl.flow import Version


class EngineBroken(RuntimeError):
    """The engine cannot serve any more: its process died or an update failed half-way."""


class HandOverFailed(RuntimeError):
    """Weights that the learner sent did not reach a replica, which it names."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a weight update did: sizes in bytes, times in seconds."""

    version: Version
    digest: str  # of the manifest
    tensors: int
    parameters: int  # of the engine, all of them assigned
    size: int
    fetched: int  # of it, over the network: less where only changes came, or a neighbour has it
    seconds_fetch: float  # the replica served meanwhile
    seconds_stalled: float  # it did not
