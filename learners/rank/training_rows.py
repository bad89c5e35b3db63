"""What goes through the model as one row of a pack, with all that its loss needs beside it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PretrainedConfig

from learners.model.packing import PromptInputs, Segment
from learners.rank.batching import split_segment
from o3rl.types import Prompt, Rollout, ScoredGroup, Version


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """A prompt with some of its group's completions (SFT: with its one target).

    One tensor of log-probabilities a completion: `sampler_G` of the sampler, `old_G` of π_old,
    `reference_G` of the model that KL is measured to. `fresh_G` is the token from which
    on the current weights sampled: 0 if all of them, the completion's length if none; `spans_G`
    how many versions had a part in it, the one included whose cache of the prompt it may have read.
    `name` tells a person which group it is of.
    """

    segment: Segment
    name: str = ""
    advantages_G: tuple[float, ...] = ()
    sampler_G: tuple[Tensor, ...] = ()
    old_G: tuple[Tensor, ...] = ()
    reference_G: tuple[Tensor, ...] = ()
    fresh_G: tuple[int, ...] = ()
    spans_G: tuple[int, ...] = ()

    @property
    def sequences(self) -> int:
        """Completions in this row."""
        return len(self.segment.completions_G)

    @property
    def targets(self) -> int:
        """Completion tokens in this row."""
        return sum(len(completion) for completion in self.segment.completions_G)

    def on_prompt(self, prompt: PromptInputs) -> "TrainingRow":
        """The same with the prompt's inputs in another form."""
        return replace(self, segment=replace(self.segment, prompt=prompt))


def rows_of_group(
    scored: ScoredGroup, segment: Segment, *, limit: int, version: Version | None
) -> list[TrainingRow]:
    """The group's rows: one, or several where its tokens exceed `limit`; π_old is the sampler's.

    `version` names the current weights; None: none of the rollouts counts as theirs.
    """
    rollouts = scored.group.rollouts_G
    sampler_G = [torch.tensor(rollout.logprobs_T) for rollout in rollouts]
    fresh_G = [_fresh_from(rollout, version) for rollout in rollouts]
    return [
        TrainingRow(
            name=name_of(scored.group.prompt),
            segment=Segment(segment.prompt, tuple(segment.completions_G[g] for g in part)),
            advantages_G=tuple(scored.advantages_G[g] for g in part),
            sampler_G=tuple(sampler_G[g] for g in part),
            old_G=tuple(sampler_G[g] for g in part),
            fresh_G=tuple(fresh_G[g] for g in part),
            spans_G=tuple(len(rollouts[g].spans) for g in part),
        )
        for part in split_segment(segment, limit=limit)
    ]


def name_of(prompt: Prompt) -> str:
    """The group and the row of data that it is about."""
    return f"group {prompt.group} (row {prompt.row.id})"


def _fresh_from(rollout: Rollout, version: Version | None) -> int:
    """The first token of the last span, if `version` sampled that one."""
    first, last = rollout.spans[-1]
    return first if last == version else len(rollout.tokens_T)


def with_values(rows_B: Sequence[TrainingRow], name: str, values_ST: Tensor) -> list[TrainingRow]:
    """The rows of a pack with `old_G` or `reference_G` set, values given in the pack's order."""
    updated: list[TrainingRow] = []
    first = 0
    for row in rows_B:
        values_G = tuple(
            values_ST[first + g, : len(completion)]
            for g, completion in enumerate(row.segment.completions_G)
        )
        updated.append(replace(row, **{name: values_G}))
        first += row.sequences
    return updated


def padded(rows_B: Sequence[TrainingRow], name: str, *, device: torch.device) -> Tensor:
    """`sampler_G`, `old_G` or `reference_G` of all rows as [S, T], 0 behind their ends."""
    values_S = [value for row in rows_B for value in getattr(row, name)]
    return pad_sequence(values_S, batch_first=True).to(device)


def dummy_row(config: PretrainedConfig) -> TrainingRow:
    """A row of one image token and one completion token, for passes that count nothing."""
    vision = config.vision_config
    side = vision.spatial_merge_size
    channels = getattr(vision, "in_channels", 3)
    patch = channels * vision.temporal_patch_size * vision.patch_size**2
    start, image, end = (
        config.vision_start_token_id,
        config.image_token_id,
        config.vision_end_token_id,
    )
    prompt = PromptInputs(
        tokens_P=torch.tensor([start, image, end]),
        positions_3P=torch.arange(3).expand(3, 3),
        pixels_ND=torch.zeros(side**2, patch),
        grid_I3=torch.tensor([[1, side, side]]),
    )
    return TrainingRow(Segment(prompt, ((end,),)))
