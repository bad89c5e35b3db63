"""Cutting a batch: into mini-batches, each over the ranks, each share into passes.

Mini-batches follow the batch's order, whatever the number of ranks, so that one rank and many do
the same optimiser steps.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TypeVar

from learners.shared_prefix import Segment
from o3rl.flow import ScoredGroup

Item = TypeVar("Item")


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


def tokens_of(scored: ScoredGroup) -> int:
    """The length of a group's row: its prompt once, and all of its completions."""
    completions = sum(len(rollout.tokens_T) for rollout in scored.group.rollouts_G)
    return len(scored.group.prompt_tokens_T) + completions


def split_segment(segment: Segment, *, limit: int) -> list[tuple[int, ...]]:
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
    """Indices of rows that share a pass: rows × longest ≤ `limit` tokens, like lengths together."""
    batches: list[list[int]] = []
    longest = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not batches or (len(batches[-1]) + 1) * longest > limit:
            batches.append([])
            longest = lengths[index]
        batches[-1].append(index)
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
