"""The three reward profiles: one record of functions each, so that a difference is one name.

`released` is the public code bit for bit, for comparisons; `paper` the default; `strict` is `paper`
with guards against the known ways to game it (`rewards.parts.strict`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from o3rl import config
from o3rl.text.grammar import (
    RawBox,
    lists_as_published,
    lists_in_tags,
    named_box,
    one_word_named_box,
    raw_boxes,
    tagged_boxes,
)
from o3rl.types import Interval, KeyFrame
from rewards.parts import answer, claims, strict, thinking
from rewards.parts.claims import Gate, Judged, Lists, Stated
from rewards.parts.format import parsed_structure, structure
from rewards.parts.rouge import ascii_rouge, unicode_rouge


@dataclass(frozen=True, slots=True)
class Profile:
    """What may differ between profiles; everything else is the same code."""

    text: Callable[[str, str], float]  # answer, truth
    has_named_box: Callable[[str], bool]
    format: Callable[..., float]  # as `rewards.parts.format.structure`
    # Times, key times, σ, and times of the frames seen (none: not known).
    point: Callable[[Sequence[float], Sequence[float], float, Sequence[float]], float]
    segment: Callable[[Sequence[float], Interval, Sequence[float]], float]  # …, frames seen
    gate: Gate
    fit: Callable[[Stated, KeyFrame], float]  # of one claim, before the gate
    spatial: Callable[[Sequence[Judged], Sequence[KeyFrame], int], float]  # …, time mentions
    visual: Callable[[Sequence[float]], float]  # IoU of each box of the thought
    marked: Callable[[str, str], float]  # answer, letter: what `Correct Option:` says
    boxes: Callable[[str], Iterator[RawBox]]  # of a text (visual QA)
    lists: Lists  # of a claim's box tags


PAPER = Profile(
    text=unicode_rouge,
    has_named_box=named_box,
    format=structure,
    point=thinking.point,
    segment=thinking.segment,
    gate=claims.near_gate,
    fit=claims.best_fit,
    spatial=thinking.mean_over_mentions,
    visual=thinking.best_box,
    marked=answer.marked_option,
    boxes=tagged_boxes,
    lists=lists_in_tags,
)

RELEASED = replace(
    PAPER,
    text=ascii_rouge,
    has_named_box=one_word_named_box,
    gate=claims.late_gate,
    fit=claims.mean_fit,
    spatial=thinking.mean_over_claims,
    marked=answer.first_marked_option,
    boxes=raw_boxes,
    lists=lists_as_published,
)

STRICT = replace(
    PAPER,
    format=parsed_structure,
    point=strict.balanced_point,
    segment=strict.segment_to_both_ends,
    fit=strict.fits_by_name,
    spatial=strict.matched_share,
    visual=strict.best_of_distinct,
)

BY_NAME = {
    config.Profile.paper: PAPER,
    config.Profile.released: RELEASED,
    config.Profile.strict: STRICT,
}


def profile_of(rewards: config.RewardsConfig) -> Profile:
    """The profile that the configuration names, with its gate open if `rewards.gate` is off."""
    profile = BY_NAME[rewards.profile]
    return profile if rewards.gate else replace(profile, gate=claims.open_gate)
