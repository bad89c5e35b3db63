"""Boxes: how a model family writes them, and how well two of them, or two intervals, agree.

Inside the project a box is xyxy, normalised to [0, 1]. This is the only place that turns it into
what a model writes and back; the size is always that of the resized frame that the model saw.
"""

import json
import math
from collections.abc import Sequence
from typing import Protocol

from o3rl.types import Box, Interval


class BoxConvention(Protocol):
    """The coordinates of one model family, both ways."""

    unit: str  # as a prompt calls it

    def write(self, box: Box, size: tuple[int, int]) -> str:
        """The text between `<box>` and `</box>`: integers without blanks, clamped to the frame."""
        ...

    def read(self, numbers: Sequence[float], size: tuple[int, int]) -> Box:
        """The normalised box of four written numbers, not clamped; ValueError if not four."""
        ...


class _Absolute:
    """Pixels of the resized frame (Qwen2.5-VL)."""

    unit = "pixels"

    def write(self, box: Box, size: tuple[int, int]) -> str:
        return _write(box, size)

    def read(self, numbers: Sequence[float], size: tuple[int, int]) -> Box:
        return _read(numbers, size)


class _Relative1000:
    """Thousandths of width and height, whatever the frame's size (Qwen2-VL, Qwen3-VL)."""

    unit = "thousandths of width and height"

    def write(self, box: Box, size: tuple[int, int]) -> str:  # noqa: ARG002
        return _write(box, (1000, 1000))

    def read(self, numbers: Sequence[float], size: tuple[int, int]) -> Box:  # noqa: ARG002
        return _read(numbers, (1000, 1000))


ABSOLUTE: BoxConvention = _Absolute()
RELATIVE_1000: BoxConvention = _Relative1000()

CONVENTIONS: dict[str, BoxConvention] = {
    "qwen2_vl": RELATIVE_1000,
    "qwen2_5_vl": ABSOLUTE,
    "qwen3_vl": RELATIVE_1000,
    "qwen3_vl_moe": RELATIVE_1000,
}


def convention_of(model_type: str) -> BoxConvention:
    """The convention of a Hugging Face `model_type`; ValueError where none is known."""
    if model_type not in CONVENTIONS:
        raise ValueError(
            f"model_type is {model_type!r}; its box coordinates are unknown, "
            f"it must be one of {sorted(CONVENTIONS)}"
        )
    return CONVENTIONS[model_type]


def box_iou(first: Sequence[float], second: Sequence[float]) -> float:
    """Intersection over union of two xyxy boxes in the same coordinates, in [0, 1].

    Never raises on numbers: a box that has not four of them, is inverted, or is not finite gives 0,
    and so does a union without area.
    """
    if not (_is_box(first) and _is_box(second)):
        return 0.0
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = float(width) * float(height)
    union = box_area(first) + box_area(second) - shared
    # Coordinates near the largest float overflow to inf or NaN here.
    if not (math.isfinite(union) and union > 0):
        return 0.0
    return min(1.0, shared / union)


def interval_iou(first: Interval, second: Interval) -> float:
    """max(0, min(e) − max(s)) / (max(e) − min(s)); 0 if reversed, endless or of no length."""
    hull = max(first[1], second[1]) - min(first[0], second[0])
    if first[1] < first[0] or second[1] < second[0] or not (math.isfinite(hull) and hull > 0):
        return 0.0
    return max(0.0, min(first[1], second[1]) - max(first[0], second[0])) / hull


def numbers_of(text: str) -> Sequence[float] | None:
    """The four numbers of `[x1,y1,x2,y2]`: None if this is no JSON, empty if not four numbers.

    Numeric strings pass, as the published code casts them.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):  # RecursionError: thousands of brackets
        return None
    if not isinstance(values, list) or len(values) != 4:
        return ()
    try:
        return tuple(float(value) for value in values)
    except (TypeError, ValueError, OverflowError):
        return ()


def _is_box(box: Sequence[float]) -> bool:
    try:
        finite = len(box) == 4 and all(math.isfinite(value) for value in box)
    except OverflowError:  # an integer beyond the floats
        return False
    return finite and box[0] <= box[2] and box[1] <= box[3]


def box_area(box: Sequence[float]) -> float:
    """In the square of the unit of its edges."""
    return (float(box[2]) - float(box[0])) * (float(box[3]) - float(box[1]))


def _write(box: Box, scale: tuple[int, int]) -> str:
    width, height = _checked(scale)
    pixels = (
        min(max(round(value * side), 0), side)
        for value, side in zip(box, (width, height, width, height), strict=True)
    )
    return "[" + ",".join(map(str, pixels)) + "]"


def _read(numbers: Sequence[float], scale: tuple[int, int]) -> Box:
    if len(numbers) != 4:
        raise ValueError(f"a box has four numbers, not {len(numbers)}: {list(numbers)!r}")
    width, height = _checked(scale)
    x1, y1, x2, y2 = numbers
    return (x1 / width, y1 / height, x2 / width, y2 / height)


def _checked(size: tuple[int, int]) -> tuple[int, int]:
    if size[0] <= 0 or size[1] <= 0:
        raise ValueError(f"frame size is {size!r}; it must be width and height in pixels, above 0")
    return size
