"""The training loop: sample, score, learn, hand over the weights; again.

    stream ─► batch ─► learner.update ─► weights.hand_over ─► observers
      ▲ rolls on meanwhile, within the staleness window    │
      └────────────────────── new version ◄────────────────┘

Written against protocols, so that it runs in milliseconds on fakes and unchanged on a cluster. With
`max_staleness` 0 it waits for the weights to arrive before it samples on: plain synchronous
training. Otherwise rollouts, scoring, learning and hand-over overlap (`dispatcher`), and a slow
replica holds up nobody. Time limits belong to the implementations, which know whom they wait for;
none of the calls below waits for ever.
"""

import asyncio
from collections.abc import Callable, Mapping

from o3rl import config
from o3rl.loop.dispatcher import Dispatcher
from o3rl.loop.prompt_source import PromptSource
from o3rl.loop.roles import Learner, Observer, Sampler, Scorers, WeightTransfer
from o3rl.loop.step_metrics import batch_metrics, timed
from o3rl.persistence.ledger import TRAINED, Ledger
from o3rl.types import ScoredGroup, Version


class Loop:
    """Trains `steps` batches, and stops after the running one when `stop` was called."""

    def __init__(
        self,
        settings: config.LoopConfig,
        admission: PromptSource,
        ledger: Ledger,
        *,
        sampler: Sampler,
        scorers: Scorers,
        learner: Learner,
        weights: WeightTransfer,
        longest: int,
        shuffle: Callable[[list[ScoredGroup]], list[ScoredGroup]] = list,
    ):
        self.version = Version(0, 0)
        self.step = 0
        self._settings = settings
        self._admission = admission
        self._ledger = ledger
        self._learner = learner
        self._weights = weights
        self._observers: list[Observer] = []
        self._shuffle = shuffle
        self._stream = Dispatcher(
            settings, admission, ledger, sampler=sampler, scorers=scorers, longest=longest
        )
        self._loads: list[asyncio.Future[Mapping[str, float]]] = []
        self._stopping = False

    @property
    def trained(self) -> int:
        """Prompts, by the ledger."""
        return self._ledger.counts().get(TRAINED, 0)

    @property
    def set_aside(self) -> int:
        """Prompts that were given up."""
        return self._stream.set_aside

    def observe(self, observer: Observer) -> None:
        """Tell `observer` of each step, after those that came before it."""
        self._observers.append(observer)

    def stop(self) -> None:
        """Finish the running step and return."""
        self._stopping = True

    async def run(self, steps: int) -> None:
        """Hand over the starting weights, then train until `steps` are done in all."""
        try:
            await self._hand_over({})
            while self.step < steps and not self._stopping:
                self._sample_on(steps)
                await self._train_one(steps)
        finally:
            await self._stream.close()
            for load in self._loads:
                load.cancel()
            await asyncio.gather(*self._loads, return_exceptions=True)

    def status(self) -> dict[str, int | str]:
        """Where it is, as plain values: step, version, prompts by what becomes of them."""
        return {
            "step": self.step,
            "version": str(self.version),
            "running": self._stream.running,
            "ready": self._stream.ready,
            "trained": self.trained,
            "set_aside": self.set_aside,
            "skipped": self._admission.skipped,
        }

    def state(self) -> dict[str, int]:
        """Plain values from which `restore` goes on; to be taken between steps."""
        return {
            "step": self.step,
            "incarnation": self.version.incarnation,
            "n": self.version.n,
            "set_aside": self.set_aside,
        }

    def restore(self, state: Mapping[str, int]) -> None:
        """Go on where `state` was taken, as a new incarnation: no version names two weights."""
        self.step = state["step"]
        self.version = Version(state["incarnation"] + 1, state["n"])
        self._stream.set_aside = state["set_aside"]

    async def _train_one(self, steps: int) -> None:
        metrics: dict[str, float] = {}
        with timed("seconds/step", metrics):
            with timed("seconds/rollout", metrics):
                groups = self._shuffle(await self._batch(metrics))
            metrics |= self._stream.scoring.metrics(metrics["seconds/rollout"])
            with timed("seconds/learn", metrics):
                metrics |= await self._learner.update(groups)
            self.step += 1
            self.version = Version(self.version.incarnation, self.version.n + 1)
            refused = {f.group: f.reason for f in self._learner.failures if f.group is not None}
            self._stream.trained([g.group.prompt for g in groups], refused, self.version)
            await self._hand_over(metrics)
            if self._settings.max_staleness:
                self._sample_on(steps)
        metrics |= batch_metrics(groups, self.version)
        metrics["tokens/second"] = metrics["tokens/sampled"] / metrics["seconds/step"]
        metrics |= self._stream.metrics()
        for observer in self._observers:
            await observer.stepped(self.step, self.version, groups, metrics)

    async def _batch(self, metrics: dict[str, float]) -> list[ScoredGroup]:
        """The next batch; a hand-over that fails meanwhile is raised at once."""
        batch = asyncio.create_task(self._stream.batch(self.version))
        try:
            while not batch.done():
                await asyncio.wait([batch, *self._loads], return_when=asyncio.FIRST_COMPLETED)
                await self._loaded(metrics, whole=False)
            return batch.result()
        finally:
            batch.cancel()

    def _sample_on(self, steps: int) -> None:
        if not self._stopping:
            self._stream.fill((steps - self.step) * self._settings.groups)

    async def _hand_over(self, metrics: dict[str, float]) -> None:
        """Have the sampler take the weights: now, or while other things go on."""
        with timed("seconds/sync", metrics):
            self._stream.expect(self.version)
            taken, loading = await self._weights.hand_over(self.version)
            self._stream.serve(self.version)
            metrics |= taken
            self._loads.append(asyncio.ensure_future(loading))
            await self._loaded(metrics, whole=self._settings.max_staleness == 0)

    async def _loaded(self, metrics: dict[str, float], *, whole: bool) -> None:
        """Take what finished hand-overs report; wait for all of them if `whole`."""
        if whole:
            await asyncio.gather(*self._loads)
        for load in [load for load in self._loads if load.done()]:
            self._loads.remove(load)
            metrics |= load.result()
