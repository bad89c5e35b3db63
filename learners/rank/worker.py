"""One rank of the learner: reads its share, runs its passes, steps with the others. No Ray here.

Laws: every rank runs the same number of passes in a step (a rank with fewer runs dummies of zero
weight), so that no collective waits for a rank that has nothing to do; a loss is normalised by the
sequences (SFT: tokens) of the whole mini-batch over all ranks, so that ranks, passes and packing do
not change an update; a step whose gradient is not finite is skipped, counted and reported.
Schedules count batches: all mini-batches of a batch run at one learning rate.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import PreTrainedModel

from learners.model.packing import Pack, PackedPolicy, PromptInputs, pack
from learners.model.policy import is_vision_frozen, load_policy, load_processor, without_adapters
from learners.rank.batching import passes
from learners.rank.deepspeed_engine import build_engine, join_ranks, set_rate, step
from learners.rank.inputs import Reader, prefetched
from learners.rank.losses import mean_over_tokens
from learners.rank.policy_loss import engine_noise, policy_loss
from learners.rank.settings import Fetch, LearnerSettings
from learners.rank.training_rows import TrainingRow, dummy_row, name_of, rows_of_group, with_values
from learners.rank.update_metrics import UpdateMetrics, summarise_ranks
from learners.weights import export as outward
from learners.weights.checkpoint import load_state, save_state
from learners.weights.device_source import Direct, PolicyWeights
from learners.weights.publisher import Publisher
from o3rl.config import Aggregation, OldLogprobs
from o3rl.types import Failure, Prompt, ScoredGroup, Version
from o3rl.weights.device_protocol import Receivers
from o3rl.weights.manifest import Published, WeightSink

log = logging.getLogger(__name__)

Losses = Callable[[Sequence[TrainingRow], Pack, Tensor], Tensor]
Measure = Callable[[Sequence[TrainingRow], Pack, Tensor], dict[str, Tensor]]
Forward = Callable[[Pack], tuple[Tensor, Tensor]]
T = TypeVar("T")


class GradientsNotFinite(RuntimeError):
    """So many steps in a row had a gradient that was not finite; `names` of what made the last."""

    def __init__(self, steps: int, names: Sequence[str]):
        made = f"made by {', '.join(names)}" if names else "though of no group alone it is"
        super().__init__(
            f"the gradient of {steps} steps in a row was not finite, the last one's {made}; look "
            "at its rewards and log-probabilities, a smaller learning.rate or model.dtype=float32 "
            "(learning.max_skipped says how many end a run)"
        )


class RankWorker:
    """A rank; the others make the same calls in the same order.

    `batches` counts the batches trained; `failures` are what the latest call refused, on all ranks.
    """

    def __init__(self, settings: LearnerSettings, fetch: Fetch):
        model, learning = settings.model, settings.learning
        join_ranks(on_gpu=settings.on_gpu, seconds=learning.seconds)
        torch.manual_seed(settings.seed)
        self.batches = 0
        self.failures: tuple[Failure, ...] = ()
        self._skipped = 0  # steps in a row
        self._settings = settings
        self._fetch = fetch
        self._device = torch.device("cuda" if settings.on_gpu else "cpu")
        self._policy = load_policy(model)
        self._processor = load_processor(model)
        self._reader = Reader.of(
            self._policy,
            self._processor,
            style=model.prompt_style,
            max_tokens=learning.tokens_per_pass,
        )
        self._logits_at_once = learning.logits_mib * 2**20 // 4
        self._reference = self._build_reference()
        self._packed = self._pack_policy(self._policy)
        self._publisher = Publisher(self._policy, learning.publish)
        self._direct = Direct(PolicyWeights(self._policy, self._device))
        self._engine = build_engine(
            self._packed,
            learning,
            optimisation=settings.optimisation,
            bfloat16=model.dtype == "bfloat16",
        )
        self._metrics = UpdateMetrics()
        self._dummy = dummy_row(self._policy.config)
        [self._dummy] = self._with_vision_features([self._dummy])

    def update(
        self, mini_batches_M: Sequence[Sequence[ScoredGroup]], *, version: Version | None = None
    ) -> dict[str, float]:
        """Train one batch, given as this rank's share of each mini-batch: one step a mini-batch.

        `version` names the current weights; rollouts that they sampled measure the noise floor.
        Returns the metrics over all ranks.
        """
        self._begin()
        rows_M: Iterable[list[TrainingRow]] = self._rows(mini_batches_M, version)
        recomputed = self._settings.learning.old_logprobs is OldLogprobs.recomputed
        if recomputed:  # all of them, before the first step changes the weights
            rows_M = [self._with_old_logprobs(rows) for rows in rows_M]
        by_token = self._settings.learning.aggregation is Aggregation.token_mean
        weight = attrgetter("targets" if by_token else "sequences")
        norms: list[float] = []
        for number, rows in enumerate(rows_M):
            on_policy = number == 0 and not recomputed
            losses = self._on_policy_losses if on_policy else self._policy_losses
            norms += self._step(rows, losses, weight=sum(map(weight, rows)))
        return self._finish(norms)

    def sft_step(self, prompts_B: Sequence[Prompt]) -> dict[str, float]:
        """Train this rank's share of a batch of rows with reasoning, on assistant tokens only.

        The loss is the mean over the target tokens of the whole batch. Returns the metrics over all
        ranks.
        """
        self._begin()
        started = time.monotonic()
        read = [self._reader.row(prompt, self._fetch) for prompt in prompts_B]
        rows = [
            TrainingRow(segment, name_of(prompt))
            for prompt, segment in zip(prompts_B, read, strict=True)
            if not isinstance(segment, Failure)
        ]
        self._refuse([failure for failure in read if isinstance(failure, Failure)])
        self._metrics.note(read_seconds=time.monotonic() - started)
        weight = sum(row.targets for row in rows)
        return self._finish(
            self._step(self._with_vision_features(rows), self._target_losses, weight=weight)
        )

    def save(self, folder: Path) -> None:
        """Write this rank's part of the learner's state, as `save_state` does; all ranks enter."""
        save_state(self._engine, folder, batches=self.batches)

    def restore(self, folder: Path) -> None:
        """Go on from a saved state; all ranks enter. Errors as in `load_state`."""
        seconds = self._settings.learning.seconds
        self.batches = load_state(self._engine, folder, seconds=seconds)

    def export(self, folder: Path) -> None:
        """Write a Hugging Face folder (rank 0), as `outward.export` does; all ranks enter."""
        outward.export(self._policy, self._processor, folder)

    def publish(self, version: Version, sink: WeightSink) -> Published | None:
        """Send the weights as `version`; all ranks enter, rank 0 sends and is told of it."""
        return self._publisher.send(version, sink)

    def send(
        self, version: Version, receivers: Receivers, place: tuple[str, int]
    ) -> tuple[Any, ...]:
        """Send the weights as `version` straight to the receivers; all ranks enter.

        What they report, on rank 0. `place` is as in `o3rl.weights.device_protocol`.
        """
        try:
            return tuple(self._direct.send(version, receivers, place))
        finally:
            if self._settings.shares_gpu:
                torch.cuda.empty_cache()

    def close(self) -> None:
        """Leave the process group."""
        self._direct.close()
        dist.destroy_process_group()

    def _build_reference(self) -> PackedPolicy | None:
        """A frozen copy of the starting model for KL, whole on every rank.

        None where no KL is asked for, and with adapters: switched off they leave that model.
        """
        model = self._settings.model
        if not self._settings.learning.kl or model.lora_rank:
            return None
        plain = load_policy(replace(model, gradient_checkpointing=False))
        return self._pack_policy(plain.eval().requires_grad_(False))

    def _pack_policy(self, policy: PreTrainedModel) -> PackedPolicy:
        temperature = self._settings.temperature
        packed = PackedPolicy(policy, logits_at_once=self._logits_at_once, temperature=temperature)
        return packed.to(self._device)

    def _begin(self) -> None:
        self._metrics = UpdateMetrics()
        self.failures = ()
        set_rate(self._engine, self._settings.optimisation.rate_at(self.batches))

    def _rows(
        self, mini_batches_M: Sequence[Sequence[ScoredGroup]], version: Version | None
    ) -> Iterator[list[TrainingRow]]:
        """Each mini-batch as rows; the next one is read while this one computes."""
        reads = prefetched(lambda groups: self._read_groups(groups, version), mini_batches_M)
        for read, failures, seconds in reads:
            self._refuse(failures)
            self._metrics.note(read_seconds=seconds)
            rows = self._with_vision_features(read)
            yield self._with_reference_logprobs(rows) if self._settings.learning.kl else rows

    def _read_groups(
        self, groups: Sequence[ScoredGroup], version: Version | None
    ) -> tuple[list[TrainingRow], list[Failure], float]:
        """Rows, what is refused, and the seconds that it took; off the main thread, so no more."""
        started = time.monotonic()
        rows: list[TrainingRow] = []
        failures: list[Failure] = []
        limit = self._settings.learning.tokens_per_pass
        for scored in groups:
            segment = self._reader.group(scored.group, self._fetch)
            if isinstance(segment, Failure):
                failures.append(segment)
            else:
                rows += rows_of_group(scored, segment, limit=limit, version=version)
        return rows, failures, time.monotonic() - started

    def _refuse(self, failures: Sequence[Failure]) -> None:
        for failure in failures:
            log.warning("group %d is not trained: %s", failure.group, failure.reason)
        self.failures += tuple(failures)

    def _with_vision_features(self, rows: Sequence[TrainingRow]) -> list[TrainingRow]:
        """The rows with what a frozen vision tower sees in them; as they are where it is trained.

        Each prompt is seen once, for all parts of its group, all passes and the reference. As ever
        with as many calls on every rank, the last ones for nothing.
        """
        if not is_vision_frozen(self._policy):
            return list(rows)
        prompts = list({id(row.segment.prompt): row.segment.prompt for row in rows}.values())
        limit = self._settings.learning.tokens_per_pass
        batches = passes([len(prompt.tokens_P) for prompt in prompts], limit=limit)
        most = int(self._reduced(len(batches), dist.ReduceOp.MAX))
        seen: dict[int, PromptInputs] = {}
        for number in range(most):
            mine = [prompts[i] for i in batches[number]] if number < len(batches) else []
            asked = mine or [dummy_row(self._policy.config).segment.prompt]
            for prompt, features in zip(asked, self._packed.look(asked, self._device), strict=True):
                seen[id(prompt)] = prompt.seen_as(features)
        return [row.on_prompt(seen[id(row.segment.prompt)]) for row in rows]

    def _passes(self, rows: Sequence[TrainingRow]) -> list[list[TrainingRow]]:
        """This rank's passes, as many as the rank with most has: the last ones may be dummies."""
        lengths = [row.segment.tokens for row in rows]
        limit = self._settings.learning.tokens_per_pass
        mine = [[rows[i] for i in batch] for batch in passes(lengths, limit=limit)]
        most = int(self._reduced(len(mine), dist.ReduceOp.MAX))
        return mine + [[self._dummy]] * (most - len(mine))

    def _pack(self, rows_B: Sequence[TrainingRow]) -> Pack:
        return pack([row.segment for row in rows_B]).to(self._device)

    def _step(self, rows: Sequence[TrainingRow], losses: Losses, *, weight: float) -> list[float]:
        """One optimiser step; the gradient's norm before clipping, or nothing without any row.

        `weight` is this rank's part of what the sum of losses is divided by.
        """
        total = self._reduced(weight, dist.ReduceOp.SUM)
        if total == 0:
            return []
        # DeepSpeed averages gradients over the ranks.
        scale = dist.get_world_size() / total
        for rows_B in self._passes(rows):
            self._pass(rows_B, losses, scale=scale)
        norm = step(self._engine)
        self._skipped = 0 if math.isfinite(norm) else self._skipped + 1
        if self._skipped >= self._settings.learning.max_skipped:
            raise GradientsNotFinite(self._skipped, self._not_finite(rows, losses))
        return [norm]

    def _pass(self, rows_B: Sequence[TrainingRow], losses: Losses, *, scale: float) -> None:
        """Forward and backward; gradients add up until the step."""
        batch = self._pack(rows_B)
        logprobs_ST, entropy_ST = self._engine(batch)
        if rows_B[0] is self._dummy:
            self._engine.backward(logprobs_ST.sum() * 0.0)
            return
        self._metrics.note(
            read_tokens=float(batch.tokens_1L.numel()),
            trained_tokens=batch.mask_ST.sum(1),
            entropy=mean_over_tokens(entropy_ST, batch.mask_ST),
        )
        losses_S = losses(rows_B, batch, logprobs_ST)
        self._engine.backward(losses_S.sum() * scale)

    def _not_finite(self, rows: Sequence[TrainingRow], losses: Losses) -> list[str]:
        """Names of what alone has a gradient that is not finite; all ranks enter.

        One row of one rank at a time, the others with dummies, each with a step at rate 0.
        """
        set_rate(self._engine, 0.0)
        counts = self._of_all_ranks(len(rows))
        named: list[str] = []
        for rank, count in enumerate(counts):
            mine = rank == dist.get_rank()
            for index in range(count):
                self._pass([rows[index]] if mine else [self._dummy], losses, scale=1.0)
                if not math.isfinite(step(self._engine)) and mine:
                    named.append(rows[index].name)
        return [name for names in self._of_all_ranks(named) for name in dict.fromkeys(names)]

    def _on_policy_losses(
        self, rows_B: Sequence[TrainingRow], batch: Pack, logprobs_ST: Tensor
    ) -> Tensor:
        """`_policy_losses` by weights that no step has changed since they sampled."""
        self._metrics.note(**engine_noise(rows_B, batch, logprobs_ST.detach()))
        return self._policy_losses(rows_B, batch, logprobs_ST)

    def _policy_losses(
        self, rows_B: Sequence[TrainingRow], batch: Pack, logprobs_ST: Tensor
    ) -> Tensor:
        settings = self._settings
        loss = policy_loss(rows_B, batch, logprobs_ST, settings.learning, longest=settings.longest)
        self._metrics.note(**loss.statistics)
        return loss.losses_S

    def _target_losses(self, _: Sequence[TrainingRow], batch: Pack, logprobs_ST: Tensor) -> Tensor:
        self._metrics.note(token_loss=-logprobs_ST[batch.mask_ST])
        return -logprobs_ST.sum(1)

    def _with_reference_logprobs(self, rows: Sequence[TrainingRow]) -> list[TrainingRow]:
        """The rows with the log-probabilities of the model that KL is measured to."""
        if self._reference is not None:
            return self._evaluated(rows, self._reference, "reference_G")
        with without_adapters(self._policy):
            return self._evaluated(rows, self._engine, "reference_G")

    def _with_old_logprobs(self, rows: Sequence[TrainingRow]) -> list[TrainingRow]:
        """The rows with π_old by the current weights; what those sampled themselves shows noise."""
        return self._evaluated(rows, self._engine, "old_G", measure=engine_noise)

    @torch.no_grad()
    def _evaluated(
        self,
        rows: Sequence[TrainingRow],
        forward: Forward,
        name: str,
        *,
        measure: Measure | None = None,
    ) -> list[TrainingRow]:
        evaluated: list[TrainingRow] = []
        for rows_B in self._passes(rows):
            batch = self._pack(rows_B)
            logprobs_ST, _ = forward(batch)
            if rows_B[0] is self._dummy:
                continue
            if measure is not None:
                self._metrics.note(**measure(rows_B, batch, logprobs_ST))
            evaluated += with_values(rows_B, name, logprobs_ST)
        return evaluated

    def _reduced(self, value: float, operation: Any) -> float:
        tensor = torch.tensor(float(value), dtype=torch.float64, device=self._device)
        dist.all_reduce(tensor, op=operation)
        return tensor.item()

    def _of_all_ranks(self, value: T) -> list[T]:
        values: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(values, value)
        return values

    def _finish(self, norms: Sequence[float]) -> dict[str, float]:
        """Count the batch; the metrics of all ranks, the same on each."""
        everyone = self._of_all_ranks((self._metrics.collected(), self.failures))
        self.failures = tuple(failure for _, failures in everyone for failure in failures)
        finite = [norm for norm in norms if math.isfinite(norm)]
        metrics = summarise_ranks([collected for collected, _ in everyone])
        metrics["learner/refused"] = float(len(self.failures))
        metrics["learner/rate"] = self._settings.optimisation.rate_at(self.batches)
        metrics["learner/steps"] = float(len(finite))
        metrics["learner/skipped_steps"] = float(len(norms) - len(finite))
        if finite:
            metrics["gradient/norm"] = sum(finite) / len(finite)
        if len(norms) > len(finite):
            log.warning(
                "batch %d: %d of %d optimiser steps skipped, gradient not finite",
                self.batches,
                len(norms) - len(finite),
                len(norms),
            )
        self.batches += 1
        if self._settings.shares_gpu:
            torch.cuda.empty_cache()  # the engine's turn
        return metrics
