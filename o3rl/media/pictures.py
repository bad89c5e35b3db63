"""Pictures as they go in: three channels of eight bits, upright, white where they are transparent.

Runs in the process that reads media: imports Pillow and numpy only.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

MAX_PIXELS = 64 * 2**20  # of one picture; 8K video has half of it
TRANSPOSE = Image.Transpose


class Unreadable(ValueError):
    """A file that cannot be used; its text is the reason to count."""


def open_image(path: str) -> Image.Image:
    """The picture in RGB, upright as its metadata says; the first one of several."""
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Unreadable("too large")
            return in_rgb(ImageOps.exif_transpose(image))
    except Image.DecompressionBombError as error:
        raise Unreadable("too large") from error
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, Unreadable):
            raise
        raise Unreadable("no readable image") from error


def in_rgb(image: Image.Image) -> Image.Image:
    """Eight bits a channel: deeper ones are scaled, not clipped; what is transparent is white."""
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_eight_bits(np.asarray(image), image.mode)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def upright(image: Image.Image, matrix: Sequence[int]) -> Image.Image:
    """Turned and mirrored as a display matrix (a b u, c d v, x y w) says, in quarters of a turn.

    It puts the point (p, q) to (a·p + c·q, b·p + d·q), y downwards: ISO/IEC 14496-12, 6.2.2.
    """
    a, b, _, c, d = matrix[:5]
    if abs(b) > abs(a):
        image, left, up = image.transpose(TRANSPOSE.TRANSPOSE), c < 0, b < 0
    else:
        left, up = a < 0, d < 0
    if left:
        image = image.transpose(TRANSPOSE.FLIP_LEFT_RIGHT)
    return image.transpose(TRANSPOSE.FLIP_TOP_BOTTOM) if up else image


def resized(image: Image.Image, size: Sequence[int]) -> np.ndarray:
    """uint8 [height, width, 3]; `size` is (width, height)."""
    return np.asarray(image.resize((size[0], size[1]), Image.Resampling.BICUBIC), dtype=np.uint8)


def _eight_bits(values: np.ndarray, mode: str) -> np.ndarray:
    """Grey of 16 bits by its range; integers and floats by the least usual range that holds all.

    These ranges are 1 (floats), 255 and 65535; any other is stretched from its least to its most.
    """
    values = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    least, most = float(values.min()), float(values.max())
    if mode.startswith("I;16"):
        least, most = 0.0, 65535.0
    elif least >= 0 and most <= 65535:
        ranges = (1.0, 255.0, 65535.0) if mode == "F" else (255.0, 65535.0)
        least, most = 0.0, next(each for each in ranges if most <= each)
    return np.rint((values - least) * (255 / max(most - least, 1e-12))).astype(np.uint8)
