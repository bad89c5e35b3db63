"""The guards of profile `strict`: `paper`, with the known ways to game it closed.

- Many boxes in one claim: each box counts in the divisor, and is matched with one true box.
- A repeated claim: a true box is matched once.
- A wrong name: boxes are matched only with those of an object so named (all words of the claim's
  name, stemmed, articles apart, are among the object's).
- Copied time mentions: mentions within a second of each other count as one.
- One claim where the truth has several key frames: precision and recall both count, as their
  harmonic mean.

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
ARTICLES = {"a", "an", "the"}


def fits_by_name(stated: Stated, frame: KeyFrame) -> float:
    """Σ IoU of the claim's boxes, matched one to one with true ones so named, by boxes written."""
    return sum(_matched([(stated, frame)])) / max(stated.written, 1)


def matched_share(claims: Sequence[Judged], key_frames: Sequence[KeyFrame], mentions: int) -> float:
    """2·S/(D + T): S the IoU of all matched pairs, T the number of true boxes.

    D is the number of boxes written, and of time mentions beyond the claims.
    """
    true = sum(len(boxes) for frame in key_frames for _, boxes in frame.objects)
    written = sum(max(claim.stated.written, 1) for claim in claims)
    divisor = written + max(mentions - len(claims), 0) + true
    pairs = [(claim.stated, claim.passed) for claim in claims if claim.passed is not None]
    return 2 * sum(_matched(pairs)) / divisor if true and pairs else 0.0


def balanced_point(times: Sequence[float], key_times: Sequence[float], sigma: float) -> float:
    """Harmonic mean of the proximity of times to key frames, and of key frames to times."""
    if not times or not key_times:
        return 0.0
    precision = _mean_each_once(times, lambda time: proximity(time, key_times, sigma))
    recall = sum(proximity(key, times, sigma) for key in key_times) / len(key_times)
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def segment_each_once(times: Sequence[float], interval: Interval) -> float:
    """Share of times inside the interval, mentions within a second of each other being one."""
    return _mean_each_once(times, lambda time: segment([time], interval)) if times else 0.0


def best_of_distinct(ious: Sequence[float]) -> float:
    """Visual QA: 2·best/(n + 1) for n boxes, as `matched_share` with one true box."""
    return 2 * max(ious) / (len(ious) + 1) if ious else 0.0


@lru_cache(maxsize=8192)
def _true_words(name: str) -> frozenset[str]:
    """Of a true name, which is met in every completion of its row."""
    return _words(name)


def _words(name: str) -> frozenset[str]:
    return frozenset(unicode_tokens(name)) - ARTICLES


def _matched(pairs: Sequence[tuple[Stated, KeyFrame]]) -> Iterator[float]:
    """The IoU of each pair of a written and a true box: best first, each box in one pair.

    All words of the claimed name must be among the true one's: "car" is a "red car".
    """
    fits = []
    for stated, frame in pairs:
        claimed = _words(stated.name.rpartition("<obj>")[2])
        for name, boxes in frame.objects:
            if claimed and claimed <= _true_words(name):
                fits.extend(
                    (box_iou(box, true), (frame.time, claimed, box), (frame.time, name, true))
                    for box in stated.boxes
                    for true in boxes
                )
    used: set[tuple[float, frozenset[str], Box]] = set()  # a box said twice is one box here
    met: set[tuple[float, str, Box]] = set()
    for iou, written, true in sorted(fits, key=lambda fit: -fit[0]):
        if written not in used and true not in met:
            used.add(written)
            met.add(true)
            yield iou


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
