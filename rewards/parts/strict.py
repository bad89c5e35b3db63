"""The guards of profile `strict`: `paper`, with the known ways to game it closed.

- Many boxes in one claim: each box counts in the divisor, and is matched with one true box.
- A repeated claim: a true box is matched once.
- A wrong name: a claim whose name shares no word that says something with the object's is worth
  half; names are never compared as a whole, so that "soccer ball" is a "ball".
- A box of the whole frame: the IoU that it has is taken off.
- Copied time mentions: mentions within a second of each other count as one.
- One claim where the truth has several key frames: precision and recall both count, as their
  harmonic mean.
- The middle of the clip, where the frames' times are known: what citing a frame at random earns is
  taken off the point part, and the segment part asks for both ends of the interval.

docs/rewards.md has what each of them is worth in each profile.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

from o3rl.text.boxes import box_iou
from o3rl.types import Box, Interval, KeyFrame
from rewards.parts.claims import Judged, Stated
from rewards.parts.rouge import unicode_tokens
from rewards.parts.thinking import proximity, segment

SAME_TIME_SECONDS = 1.0
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
UNNAMED = 0.5  # of a box under a name that shares no word with the true one
EXTRA_WORDS = 3  # that a name may have beyond what is shared, at no cost
MOST_BLIND = 0.9  # is taken off at most
MUTE = "a an the of in on at to by for from with and or object thing item something"


def fits_by_name(stated: Stated, frame: KeyFrame) -> float:
    """Σ worth of the claim's boxes, matched one to one with true ones, by boxes written."""
    return sum(_matched([(stated, frame)])) / max(stated.written, 1)


def matched_share(claims: Sequence[Judged], key_frames: Sequence[KeyFrame], mentions: int) -> float:
    """2·S/(D + T): S the worth of all matched pairs, T the number of true boxes.

    D is the number of boxes written, and of time mentions beyond the claims.
    """
    true = sum(len(boxes) for frame in key_frames for _, boxes in frame.objects)
    written = sum(max(claim.stated.written, 1) for claim in claims)
    divisor = written + max(mentions - len(claims), 0) + true
    pairs = [(claim.stated, claim.passed) for claim in claims if claim.passed is not None]
    return 2 * sum(_matched(pairs)) / divisor if true and pairs else 0.0


def balanced_point(
    times: Sequence[float], key_times: Sequence[float], sigma: float, seen: Sequence[float] = ()
) -> float:
    """Harmonic mean of the proximity of times to key frames, and of key frames to times.

    (p − b)/(1 − b), at least 0, with b what one of the `seen` frames cited at random earns.
    """
    if not times or not key_times:
        return 0.0
    blind = sum(_balanced([time], key_times, sigma) for time in seen) / max(len(seen), 1)
    return _beyond(_balanced(times, key_times, sigma), blind)


def segment_to_both_ends(
    times: Sequence[float], interval: Interval, seen: Sequence[float] = ()
) -> float:
    """Share of times inside the interval, mentions within a second of each other being one.

    With `seen` the harmonic mean of it and of how near mentions come to the first and the last seen
    frame of the interval, σ being the frames' mean spacing.
    """
    if not times:
        return 0.0
    inside = _mean_each_once(times, lambda time: segment([time], interval))
    if len(seen) < 2:
        return inside
    within = [time for time in seen if interval[0] <= time <= interval[1]]
    middle = (interval[0] + interval[1]) / 2
    within = within or [min(seen, key=lambda time: abs(time - middle))]
    spacing = (max(seen) - min(seen)) / (len(seen) - 1)
    ends = (min(within), max(within))
    return _harmonic(inside, sum(proximity(end, times, spacing) for end in ends) / 2)


def best_of_distinct(ious: Sequence[float]) -> float:
    """Visual QA: 2·best/(n + 1) for n boxes, as `matched_share` with one true box."""
    return 2 * max(ious) / (len(ious) + 1) if ious else 0.0


@lru_cache(maxsize=8192)
def name_worth(claimed: str, true: str) -> float:
    """From `UNNAMED` to 1: by the share of the shorter name's words that both have. 0: no name.

    Words are stemmed; those that say nothing of a thing, such as "in", do not count. A list of
    words pays for what it has beyond the shared ones and `EXTRA_WORDS`.

    >>> name_worth("soccer ball", "ball"), name_worth("in", "man in red shirt")
    (1.0, 0.5)
    """
    said, meant = _words(claimed.rpartition("<obj>")[2]), _words(true)
    if not said:
        return 0.0
    said, meant = said - _mute(), meant - _mute()
    if not meant:
        return 1.0
    fair = max(min(len(said), len(meant)), len(said) - EXTRA_WORDS, 1)
    return UNNAMED + (1 - UNNAMED) * min(1.0, len(said & meant) / fair)


@lru_cache(maxsize=8192)
def _words(name: str) -> frozenset[str]:
    return frozenset(unicode_tokens(name))


def _mute() -> frozenset[str]:
    return _words(MUTE)


def _matched(pairs: Sequence[tuple[Stated, KeyFrame]]) -> Iterator[float]:
    """The worth of each pair of a written and a true box: best first, each box in one pair.

    Worth is the IoU beyond that of a box of the whole frame, times what the name is worth.
    """
    fits = []
    for stated, frame in pairs:
        for name, boxes in frame.objects:
            worth = name_worth(stated.name, name)
            fits.extend(
                (
                    worth * _beyond(box_iou(box, true), box_iou(WHOLE, true)),
                    (frame.time, box),
                    (frame.time, name, true),
                )
                for box in stated.boxes
                for true in boxes
            )
    used: set[tuple[float, Box]] = set()  # a box said twice is one box here
    met: set[tuple[float, str, Box]] = set()
    for value, written, true in sorted(fits, key=lambda fit: -fit[0]):
        if written not in used and true not in met:
            used.add(written)
            met.add(true)
            yield value


def _beyond(value: float, blind: float) -> float:
    """What is earned beyond the blind's share, 1 staying 1."""
    blind = min(blind, MOST_BLIND)
    return max(0.0, (value - blind) / (1 - blind))


def _balanced(times: Sequence[float], key_times: Sequence[float], sigma: float) -> float:
    precision = _mean_each_once(times, lambda time: proximity(time, key_times, sigma))
    recall = sum(proximity(key, times, sigma) for key in key_times) / len(key_times)
    return _harmonic(precision, recall)


def _harmonic(one: float, other: float) -> float:
    return 2 * one * other / (one + other) if one + other > 0 else 0.0


def _mean_each_once(times: Sequence[float], value: Callable[[float], float]) -> float:
    """Mean over runs of times within a second of their first, each the mean of its own ones.

    Without the same time twice: copies of its best one would lift a run.
    """
    runs: list[list[float]] = []
    for time in sorted(set(times)):
        if runs and time - runs[-1][0] <= SAME_TIME_SECONDS:
            runs[-1].append(time)
        else:
            runs.append([time])
    return sum(sum(map(value, run)) / len(run) for run in runs) / len(runs)
