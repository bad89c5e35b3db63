"""What runs in a rollout actor: one engine, and the way to its frames. No Ray here."""

import asyncio
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from actors.weights.update_stream import Delivery, EngineBroken, Loaded
from o3rl.code_digest import source_digest
from o3rl.config import VLLM, ModelConfig, RolloutsConfig, SamplingConfig
from o3rl.config.user_functions import load_function
from o3rl.media.decoder import MediaError
from o3rl.types import Failure, FailureKind, Group, Message, Prompt, ReplySampling, Version
from o3rl.weights.manifest import WeightSource

Fetch = Callable[[str], np.ndarray]  # frames by media key


@dataclass(frozen=True, slots=True)
class ProcessLocation:
    """Where a replica runs."""

    node: str
    pid: int


ENGINE_SECONDS = 6.0  # for it to answer between two passes; the pool waits a little longer for us


def make_engine(model: ModelConfig, *, sampling: SamplingConfig, rollouts: RolloutsConfig) -> Any:
    """vLLM's, or of the class that `rollouts.engine` names, which is made and called like `Engine`.

    Raises ValueError where there is no such class.
    """
    if rollouts.engine == VLLM:
        from actors.engine.engine import Engine as make
    else:
        where = f"rollouts.engine is {rollouts.engine!r}"
        make = load_function(rollouts.engine, where=where, hint=" on every node")
    return make(model, sampling=sampling, rollouts=rollouts)


class ReplicaActor:
    """An engine that gets frames by their key."""

    def __init__(
        self,
        model: ModelConfig,
        *,
        sampling: SamplingConfig,
        rollouts: RolloutsConfig,
        fetch: Fetch,
        seed: int,
        source: str,
    ):
        """Raises RuntimeError if this node runs other source code than the driver."""
        if source != source_digest():
            raise RuntimeError(
                f"node {socket.gethostname()} runs source {source_digest()}, the driver {source}; "
                "install the same wheel on every node"
            )
        self._model, self._sampling, self._rollouts = model, sampling, rollouts
        self._fetch, self._seed = fetch, seed

    async def start(self) -> ProcessLocation:
        """Start the engine and let it run once."""
        self._engine = make_engine(self._model, sampling=self._sampling, rollouts=self._rollouts)
        await self._engine.warm_up()
        return ProcessLocation(socket.gethostname(), os.getpid())

    async def ping(self) -> bool:
        """Answers while the event loop runs; EngineBroken if the engine below it says nothing."""
        try:
            await asyncio.wait_for(self._engine.ping(), ENGINE_SECONDS)
        except TimeoutError as error:
            told = f"its engine has not answered for {ENGINE_SECONDS:.0f} s"
            raise EngineBroken(told) from error
        return True

    async def load(self, source: WeightSource, version: Version) -> Loaded:
        """See `Engine.load`."""
        return await self._engine.load(source, version)

    async def link(self, init: Mapping[str, Any]) -> None:
        """See `Engine.link`."""
        await self._engine.link(init)

    async def open(self, version: Version, names: Sequence[str]) -> None:
        """Begin to take a version that the learner sends; then `feed`, and `finish`.

        Raises what `Engine.take` raises, as do those.
        """
        self._delivery = Delivery(version, names)
        await self._delivery.open(self._engine.take)

    async def feed(self, update: Mapping[str, Any]) -> None:
        """See `Delivery.feed`."""
        await self._delivery.feed(update)

    async def finish(self, digest: str) -> Loaded:
        """See `Delivery.finish`."""
        return await self._delivery.finish(digest)

    async def sleep(self) -> None:
        """See `Engine.sleep`."""
        await self._engine.sleep()

    async def adopt(self, version: Version) -> None:
        """See `Engine.adopt`."""
        await self._engine.adopt(version)

    async def sample(self, prompt: Prompt, temperature: float, n: int) -> Group | Failure:
        """See `Engine.sample`; frames that cannot be had are a failure of the prompt."""
        try:
            frames = await asyncio.to_thread(self._fetch, prompt.media_key)
        except MediaError as error:
            return Failure(prompt.group, None, f"frames: {error}", FailureKind.FILE)
        except TimeoutError as error:
            return Failure(prompt.group, None, f"frames: {error}", FailureKind.SERVICE)
        return await self._engine.sample(
            prompt, frames, seed=self._seed, temperature=temperature, n=n
        )

    async def ask(
        self, messages: Sequence[Message], images: Sequence[np.ndarray], sampling: ReplySampling
    ) -> list[str]:
        """See `Engine.ask`."""
        return await self._engine.ask(messages, images, sampling, seed=self._seed)

    async def checksums(self) -> list[dict[str, str]]:
        """See `Engine.checksums`."""
        return await self._engine.checksums()

    async def close(self) -> None:
        """End vLLM."""
        await self._engine.close()
