"""Cutting a batch: into mini-batches, each over the ranks, each share into passes.

Mini-batches follow the batch's order, whatever the number of ranks, so that one rank and many do
the same optimiser steps.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

from learners.model.flops import Flops, Grids
from o3rl.types import FramePlan, Prompt, ScoredGroup

if TYPE_CHECKING:  # the controller balances ranks, and needs no torch for it
    from learners.model.packing import Segment

Item = TypeVar("Item")
LETTERS = 4  # a token, about


def mini_batches(items: Sequence[Item], count: int) -> list[list[Item]]:
    """At most `count` runs of consecutive items, their sizes as equal as can be, none empty."""
    count = min(count, len(items))
    bounds = [len(items) * i // count for i in range(count + 1)] if count else []
    return [list(items[a:b]) for a, b in pairwise(bounds)]


def shares(items: Sequence[Item], ranks: int, *, cost: Callable[[Item], float]) -> list[list[Item]]:
    """One share a rank, balanced by cost: the dearest first, each to the rank with the least."""
    load = [0.0] * ranks
    taken: list[list[int]] = [[] for _ in range(ranks)]
    by_cost = sorted(range(len(items)), key=lambda index: -cost(items[index]))
    for index in by_cost:
        rank = min(range(ranks), key=lambda r: load[r])
        load[rank] += cost(items[index])
        taken[rank].append(index)
    return [[items[index] for index in sorted(indices)] for indices in taken]


def group_cost(scored: ScoredGroup, flops: Flops) -> float:
    """FLOP of a group's step: vision, its prompt once, all of its completions, their attention."""
    group = scored.group
    lengths = [len(rollout.tokens_T) for rollout in group.rollouts_G]
    return flops.shared(len(group.prompt_tokens_T), lengths, _grids(group.prompt.plan, flops))


def row_cost(prompt: Prompt, flops: Flops) -> float:
    """FLOP of an SFT row's step, which nobody has read yet: its text is counted by its letters."""
    grids = _grids(prompt.plan, flops)
    pictures = sum(height * width for _, height, width in grids) // flops.merged
    asked, taught = (
        1 + len(text) // LETTERS for text in (prompt.row.question, prompt.row.reasoning or "")
    )
    return flops.shared(pictures + asked, [taught], grids)


def _grids(plan: FramePlan, flops: Flops) -> Grids:
    width, height = plan.size
    grid = (1, height // flops.patch_size, width // flops.patch_size)
    return [grid] * len(plan.times_F)


def split_segment(segment: "Segment", *, limit: int) -> list[tuple[int, ...]]:
    """Indices of the completions that go through the model together, `limit` tokens a row at most.

    In order; the prompt is repeated for each part. A completion that does not fit alone is a part.
    """
    parts: list[tuple[int, ...]] = []
    prompt = len(segment.prompt.tokens_P)
    filled = 0
    for index, completion in enumerate(segment.completions_G):
        if not parts or prompt + filled + len(completion) > limit:
            parts.append(())
            filled = 0
        parts[-1] += (index,)
        filled += len(completion)
    return parts


def passes(lengths: Sequence[int], *, limit: int) -> list[list[int]]:
    """Indices of segments that share a pass, `limit` tokens at most: longest first, where it fits.

    A segment over the limit has a pass of its own.
    """
    batches: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[index]
        place = next((i for i, left in enumerate(room) if length <= left), None)
        if place is None:
            place = len(batches)
            batches.append([])
            room.append(limit)
        batches[place].append(index)
        room[place] -= length
    return batches


def permute_advantages(groups: Sequence[ScoredGroup], *, seed: str) -> list[ScoredGroup]:
    """The control that must teach nothing: advantages shuffled over all rollouts of the batch."""
    advantages = [advantage for scored in groups for advantage in scored.advantages_G]
    random.Random(seed).shuffle(advantages)
    given = iter(advantages)
    return [
        replace(scored, advantages_G=tuple(next(given) for _ in scored.advantages_G))
        for scored in groups
    ]
