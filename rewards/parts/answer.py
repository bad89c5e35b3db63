"""What the answer is worth: option letter, interval, box. Text answers are `rouge`'s.

`answer` is the stripped text inside the first `<answer>…</answer>`. Nothing here raises on any
text; every value lies in [0, 1].
"""

from o3rl.text.boxes import BoxConvention, box_iou, interval_iou, numbers_of
from o3rl.text.grammar import interval_of, raw_boxes
from o3rl.types import Box, Interval

MARKER = "Correct Option:"


def option(answer: str, letter: str) -> float:
    """1 for `X`, `X.`, `(X)` or `[X]`, else 0; case matters."""
    return float(answer in (letter, f"{letter}.", f"({letter})", f"[{letter}]"))


def marked_option(answer: str, letter: str) -> float:
    """`option` of what follows the first `Correct Option:`; 0 without one."""
    _, marker, rest = answer.partition(MARKER)
    return option(rest.strip(), letter) if marker else 0.0


def interval(answer: str, truth: Interval) -> float:
    """tIoU of the first `<t>s</t>s to <t>e</t>s`; 0 without one."""
    written = interval_of(answer)
    return 0.0 if written is None else interval_iou((float(written[0]), float(written[1])), truth)


def box(answer: str, truth: Box, *, size: tuple[int, int], convention: BoxConvention) -> float:
    """IoU of the first box with the true one; 0 without four numbers in it."""
    first = next(raw_boxes(answer), None)
    numbers = None if first is None else numbers_of(first.numbers)
    return 0.0 if not numbers else box_iou(convention.read(numbers, size), truth)
