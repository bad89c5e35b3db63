"""What the answer is worth: option letter, interval, box. Text answers are `rouge`'s.

`answer` is the stripped text inside the first `<answer>…</answer>`. Nothing here raises on any
text; every value lies in [0, 1].
"""

from collections.abc import Iterator

from o3rl.text.boxes import BoxConvention, box_iou, interval_iou, numbers_of
from o3rl.text.grammar import RawBox, interval_of
from o3rl.types import Box, Interval

MARKER = "Correct Option:"


def option(answer: str, letter: str) -> float:
    """1 for `X`, `X.`, `(X)` or `[X]`, else 0; case matters."""
    return float(answer in (letter, f"{letter}.", f"({letter})", f"[{letter}]"))


def first_marked_option(answer: str, letter: str) -> float:
    """As published: `option` of what follows the first `Correct Option:`, up to the next."""
    marked = answer.split(MARKER, 2)
    return option(marked[1].strip(), letter) if len(marked) > 1 else 0.0


def marked_option(answer: str, letter: str) -> float:
    """`option` of what follows each `Correct Option:`, the worst of them; 0 without one."""
    marked = filter(None, map(str.strip, answer.split(MARKER)[1:]))
    return min((option(rest, letter) for rest in marked), default=0.0)


def interval(answer: str, truth: Interval) -> float:
    """tIoU of the first `<t>s</t>s to <t>e</t>s`; 0 without one."""
    written = interval_of(answer)
    return 0.0 if written is None else interval_iou((float(written[0]), float(written[1])), truth)


def box(
    boxes: Iterator[RawBox], truth: Box, *, size: tuple[int, int], convention: BoxConvention
) -> float:
    """IoU of the first box with the true one; 0 without four numbers in it."""
    first = next(boxes, None)
    numbers = None if first is None else numbers_of(first.numbers)
    return 0.0 if not numbers else box_iou(convention.read(numbers, size), truth)
