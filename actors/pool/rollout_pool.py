"""The pool of rollout replicas: any of them samples a prompt.

| who waits      | for whom                      | at most                 | then                  |
|----------------|-------------------------------|-------------------------|-----------------------|
| `sample`, `ask`| a healthy replica             | `start_seconds`         | Failure               |
| `sample`       | a less busy one that loads    | 5 s, twice its last load| another gets it       |
| `sample`       | its replica                   | `seconds`               | Failure, SUSPECT      |
| a late replica | its own answer to a ping      | 10 s                    | it restarts           |
|                | its engine's, below it        | 6 s                     | the same              |

Laws: prompts go only to replicas that hold the pool's current weights; the prompt of a replica that
died comes back as a Failure, never as zero; a prompt that was with `SUSPICIOUS` replicas when they
died is sampled alone from then on, so that one that kills its replica costs no other prompt its
attempts. How replicas start, join and leave is `replica_fleet`'s, how they come to new weights
`weight_sync`'s.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from ray.exceptions import ObjectLostError, RayError, RayTaskError

from actors.engine.replica import Fetch
from actors.pool.replica_fleet import Fleet, taken_away
from actors.pool.replica_state import Replica, State
from actors.pool.weight_sync import WeightSync
from actors.weights.update_stream import EngineBroken
from o3rl.config import ModelConfig, RolloutsConfig, SamplingConfig
from o3rl.media.reader import frames_digest
from o3rl.ray_calls import DIED, answered, as_future, first_line
from o3rl.types import Failure, Group, Message, Prompt, ReplySampling
from o3rl.weights.manifest import WeightSource

log = logging.getLogger(__name__)

PING_SECONDS = 10.0
SUSPICIOUS = 2  # deaths
HOMES_KEPT = 1024  # first images
PATIENCE_SECONDS = 5.0  # at least, with a replica that takes weights and has fewer prompts


@dataclass(frozen=True, slots=True)
class _Fault:
    """Of the infrastructure, in place of an answer."""

    reason: str


class RolloutPool:
    """Sampling, whatever replica does it. Use it from one event loop.

    `fetch` gets frames by media key and must be picklable, as must `source`.
    """

    def __init__(
        self,
        model: ModelConfig,
        *,
        sampling: SamplingConfig,
        rollouts: RolloutsConfig,
        fetch: Fetch,
        source: WeightSource | None,
        seed: int,
    ):
        self._sampling, self._rollouts = sampling, rollouts
        self.fleet = Fleet(model, sampling=sampling, rollouts=rollouts, fetch=fetch, seed=seed)
        self.weights = WeightSync(self.fleet, rollouts, source)
        self._late = 0  # groups past their time limit
        self._late_answers = 0  # of those, that came after all and were thrown away
        self._deaths: Counter[int | str] = Counter()  # of replicas, by what they were asked
        self._homes: dict[str, Replica] = {}  # who was last asked about a first image

    @property
    def counts(self) -> dict[str, int]:
        """Deaths, joined, left; late groups, late answers; `healthy` replicas, `members` of now.

        One that serves and just takes new weights counts as healthy.
        """
        healthy = sum(
            replica.state is State.HEALTHY or replica.updating for replica in self.fleet.replicas
        )
        now = {"healthy": healthy, "members": len(self.fleet.staying)}
        late = {"late": self._late, "late_answers": self._late_answers}
        return self.fleet.counts | late | now

    async def sample(self, prompt: Prompt) -> Group | Failure:
        """A group for training."""
        n, temperature = self._sampling.group_size, self._sampling.temperature
        return await self.sample_group(prompt, n=n, temperature=temperature)

    async def sample_group(self, prompt: Prompt, *, n: int, temperature: float) -> Group | Failure:
        """`n` rollouts at `temperature` (0: greedy) by the replica with the fewest prompts.

        An infrastructure fault is a Failure that names the replica. A bug raises, with the
        replica's own traceback; TimeoutError where no replica is left. Cancelled, it ends the
        sampling.
        """
        result = await self._by_replica(
            lambda actor: actor.sample.remote(prompt, temperature, n), prompt.group
        )
        return Failure.of_service(prompt, result.reason) if isinstance(result, _Fault) else result

    async def ask(
        self, messages: Sequence[Message], images: Sequence[np.ndarray], sampling: ReplySampling
    ) -> list[str]:
        """The replies to a chat with `images`, uint8 [H, W, 3]: see `Engine.ask`.

        Questions about the same first image go to the same replica, whose caches have it, unless
        another has less to do. Raises ConnectionError for a fault of the infrastructure,
        ValueError where the chat cannot be asked, TimeoutError where no replica is left.
        """
        about = frames_digest(images[0]) if images else ""
        key = f"{about} {messages}"
        try:
            result = await self._by_replica(
                lambda actor: actor.ask.remote(messages, images, sampling), key, about=about
            )
        except RayTaskError as error:
            if isinstance(error.cause, ValueError):
                raise ValueError(str(error.cause)) from None
            raise
        if isinstance(result, _Fault):
            raise ConnectionError(result.reason)
        return result

    async def _by_replica(
        self, ask: Callable[[Any], Any], key: int | str, *, about: str = ""
    ) -> Any:
        """What a replica's actor answers to `ask`, or the fault of the infrastructure.

        `key` tells what is asked from all else, to count the replicas that died of it; `about`
        what a replica may have in its caches.
        """
        alone = self._deaths[key] >= SUSPICIOUS
        replica = await self._healthy(idle=alone, known=self._homes.get(about))
        if replica is None and not self.fleet.members:
            raise TimeoutError(f"no rollout replica is left: {self.fleet.why}")
        if replica is None:
            return _Fault(f"no healthy rollout replica: {self.fleet.why}")
        if about:
            self._homes.pop(about, None)
            self._homes[about] = replica
            while len(self._homes) > HOMES_KEPT:
                self._homes.pop(next(iter(self._homes)))
        replica.running += 1
        replica.exclusive = alone
        name = str(replica)  # with where it is, which it may have lost when it is told of
        call = ask(replica.actor)
        try:
            result = await answered(call, self._rollouts.seconds)
        except asyncio.CancelledError:
            ray.cancel(call)
            raise
        except RayTaskError as error:  # before TimeoutError: one may have come from there
            reason = f"{name}: {first_line(error)}"
            if isinstance(error.cause, TimeoutError):
                return _Fault(reason)
            if not isinstance(error.cause, EngineBroken):
                raise
            self._deaths[key] += not replica.leaving
            return _Fault(self.fleet.died(replica, reason, excused=alone))
        except TimeoutError:
            self._late += 1
            reason = f"{name}: no group within {self._rollouts.seconds:.0f} s"
            self.fleet.spawn(self._count_late(as_future(call)))
            ray.cancel(call)
            await self.fleet.shielded(self._suspect(replica, reason, excused=alone))
            self._deaths[key] += replica.state in (State.STARTING, State.DEAD)
            return _Fault(reason)
        except DIED as error:
            self._deaths[key] += not (taken_away(error) or replica.leaving)
            return _Fault(self.fleet.lost(replica, error, f"{name} died", excused=alone))
        except ObjectLostError as error:  # with its node, after it was there
            return _Fault(f"{name}: its answer was lost: {first_line(error)}")
        finally:
            replica.running -= 1
            replica.exclusive = False
            await self.fleet.announce()
        del self._deaths[key]
        if replica.returned_group():
            log.info("%s returned its first group after %.1f s", name, replica.first_group)
        return result

    async def _count_late(self, answer: Awaitable[Group | Failure]) -> None:
        """Of a call that was given up: its prompt is elsewhere by the time that a group comes."""
        with suppress(RayError):  # it was ended, as it should
            self._late_answers += isinstance(await answer, Group)

    async def _healthy(self, *, idle: bool = False, known: Replica | None = None) -> Replica | None:
        """The healthy replica with the fewest prompts (`idle`: none), the `known` one of several.

        Waits while any may come.

        One that has fewer and will be healthy soon is waited for: else the first to have taken new
        weights would get all prompts that waited for them.
        """

        def free() -> Replica | None:
            come = [
                replica
                for replica in self.fleet.replicas
                if self._serves(replica) or replica.serves_soon(PATIENCE_SECONDS)
            ]
            fit = [each for each in come if not (each.exclusive or (idle and each.running))]
            best = min(
                fit,
                key=lambda each: (each.running, not self._serves(each), each is not known),
                default=None,
            )
            return best if best is not None and self._serves(best) else None

        if self.weights.wanted is None:
            raise ValueError("no weights were loaded or adopted; nothing can be sampled yet")
        try:
            async with asyncio.timeout(self._rollouts.start_seconds), self.fleet.changed:
                while (replica := free()) is None and self.fleet.members:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(PATIENCE_SECONDS):
                            await self.fleet.changed.wait()
        except TimeoutError:
            return None
        return replica

    def _serves(self, replica: Replica) -> bool:
        return replica.state is State.HEALTHY and replica.version == self.weights.wanted

    async def _suspect(self, replica: Replica, reason: str, *, excused: bool) -> None:
        """A late replica gets no prompts until it answers; one that does not is restarted."""
        if not replica.suspect(reason):
            return
        try:
            await answered(replica.actor.ping.remote(), PING_SECONDS)
        except RayTaskError as error:
            self.fleet.died(replica, f"{reason}; {first_line(error)}", excused=excused)
            return
        except TimeoutError:
            told = f"{reason}, and no answer since"
            self.fleet.died(replica, told, excused=excused, silent=True)
            return
        except DIED as error:
            self.fleet.lost(replica, error, f"{reason}, and then it died", excused=excused)
            return
        if replica.answered():
            await self.weights.refresh(replica)
