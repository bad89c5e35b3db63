"""The loop of the cold start: admit a batch of rows with reasoning, learn it; again.

The little brother of `loop`, with its laws as far as they go without rollouts: every admitted
row is trained exactly once or set aside with a reason, and a run that goes on from a checkpoint
trains what one that never stopped would have trained.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from o3rl.loop.prompt_source import PromptSource
from o3rl.persistence.checkpoints import Checkpoints
from o3rl.persistence.ledger import TRAINED, Ledger
from o3rl.tracking.tracker import Tracker
from o3rl.types import Failure, Prompt, Version


class SftLearner(Protocol):
    """The learner group. `failures` are the rows that the latest step refused to train."""

    @property
    def failures(self) -> Sequence[Failure]:
        """By prompt number, with the reason."""
        ...

    async def sft_step(self, prompts: Sequence[Prompt]) -> Mapping[str, float]:
        """Learn one batch; returns metrics."""
        ...


class ColdStart:
    """Trains a batch of rows a step. `tokens` were learned so far; `show` takes step and words."""

    def __init__(
        self,
        admission: PromptSource,
        ledger: Ledger,
        learner: SftLearner,
        checkpoints: Checkpoints,
        *,
        batch: int,
        tracker: Tracker,
        show: Callable[[int, str], None],
    ):
        self.version = Version(0, 0)
        self.tokens = 0
        self._admission = admission
        self._ledger = ledger
        self._learner = learner
        self._checkpoints = checkpoints
        self._batch = batch
        self._tracker = tracker
        self._show = show

    @property
    def step(self) -> int:
        """Batches trained; each makes a version."""
        return self.version.n

    @property
    def samples(self) -> int:
        """Rows trained."""
        return self._ledger.counts().get(TRAINED, 0)

    async def run(self, steps: int) -> None:
        """Train until `steps` are done in all."""
        try:
            while self.step < steps:
                await self._train_one([await self._admission.next() for _ in range(self._batch)])
        finally:
            await self._admission.close()

    def state(self) -> dict[str, Any]:
        """Plain values from which `restore` goes on; to be taken between steps."""
        loop = {"step": self.step, "incarnation": self.version.incarnation, "tokens": self.tokens}
        return {"loop": loop, "admission": self._admission.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken, as a new incarnation."""
        loop = state["loop"]
        self.version = Version(loop["incarnation"] + 1, loop["step"])
        self.tokens = loop["tokens"]
        self._admission.restore(state["admission"])

    async def _train_one(self, prompts: Sequence[Prompt]) -> None:
        metrics = dict(await self._learner.sft_step(prompts))
        self.version = Version(self.version.incarnation, self.step + 1)
        self.tokens += int(metrics["learner/tokens"])
        self._enter(prompts)
        metrics["prompts/skipped"] = self._admission.skipped
        self._tracker.log(_named(metrics), step=self.step)
        loss = f"loss {metrics['loss']:.3f}" if "loss" in metrics else "nothing learned"
        self._show(self.step, loss)
        await self._checkpoints.save_due(self.step, self.state, ledger=self._ledger)

    def _enter(self, prompts: Sequence[Prompt]) -> None:
        """What became of each row of the batch, into the ledger."""
        refused = {failure.group: failure.reason for failure in self._learner.failures}
        self._ledger.train((p for p in prompts if p.group not in refused), self.version)
        for prompt in prompts:
            self._admission.settle(prompt)
            if prompt.group in refused:
                reason = f"refused by the learner: {refused[prompt.group]}"
                self._ledger.set_aside(prompt, reason)


def _named(metrics: dict[str, float]) -> dict[str, float]:
    """The loss under the name by which the curves know it."""
    return {"sft/loss" if name == "loss" else name: value for name, value in metrics.items()}
