"""Sight for the tiny base: its vision tower, taught on its own before any word.

Each image token answers, by linear heads that are thrown away afterwards, what covers most of its
cell: colour, shape, and the box in pixels, digit by digit as the language model has to write it. So
an image token carries what a sentence about it needs, and the language model has only to look.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from o3rl.synth.world import COLOURS, SHAPES, Scene, draw

PATCH, CELL = 14, 28  # pixels of a patch and of an image token, a side
MEAN = (0.48145466, 0.4578275, 0.40821073)  # of the family's processor
STD = (0.26862954, 0.26130258, 0.27577711)
SCALE = (1 / (255 * np.array(STD))).astype(np.float32)
SHIFT = (np.array(MEAN) / np.array(STD)).astype(np.float32)
ROUGH = 3.0  # of a codec's noise, of 255
COVERED = 0.04  # of a cell, from which on it tells what is there
WORDS = (tuple(COLOURS), tuple(SHAPES))
DIGITS = (12, 10) * 4  # tens and units of x1, y1, x2, y2: frames have less than 120 pixels a side
CLASSES = (2, *map(len, WORDS), *DIGITS)


@dataclass(frozen=True, slots=True)
class Look:
    """A frame as the tower takes it: patches [P, 588], and what each of its cells tells [C, 11]."""

    patches: np.ndarray
    cells: np.ndarray


def look(scene: Scene, time: float, size: tuple[int, int], rng: Random) -> Look:
    """The frame at `time`, resized to `size` as decoding does it, with a codec's noise."""
    small = draw(scene, time).resize(size, Image.Resampling.BICUBIC)
    seen = np.asarray(small).astype(np.float32)
    at = rng.randrange(len(_noise()) - seen.size)
    seen += _noise()[at : at + seen.size].reshape(seen.shape)
    seen *= SCALE
    seen -= SHIFT
    high, wide = size[1] // CELL, size[0] // CELL
    parts = seen.reshape(high, 2, PATCH, wide, 2, PATCH, 3).transpose(0, 3, 1, 4, 6, 2, 5)
    return Look(parts.reshape(high * wide * 4, 3 * PATCH * PATCH), cells_of(scene, time, size))


@lru_cache(maxsize=1)
def _noise() -> np.ndarray:
    return np.random.default_rng(0).normal(0, ROUGH, 1 << 21).astype(np.float32)


def cells_of(scene: Scene, time: float, size: tuple[int, int]) -> np.ndarray:
    """Per cell the classes of `CLASSES`; where nothing is, the first is 0 and the others -100."""
    wide, high = size[0] // CELL, size[1] // CELL
    out = np.full((high * wide, len(CLASSES)), -100)
    out[:, 0] = 0
    share = np.full(high * wide, COVERED)
    left = np.arange(wide) * CELL
    top = np.arange(high) * CELL
    for thing in scene.things:
        if not thing.visible(time):
            continue
        box = thing.box(time)
        x1, y1, x2, y2 = (edge * size[i % 2] for i, edge in enumerate(box))
        across = np.clip(np.minimum(left + CELL, x2) - np.maximum(left, x1), 0, CELL) / CELL
        down = np.clip(np.minimum(top + CELL, y2) - np.maximum(top, y1), 0, CELL) / CELL
        covered = np.outer(down, across).ravel()
        mine = covered > share
        share = np.where(mine, covered, share)
        out[mine] = (1, *_words(thing), *digits(box, size))
    return out


def _words(thing: Any) -> tuple[int, int]:
    return WORDS[0].index(thing.colour), WORDS[1].index(thing.shape)


def digits(box: Sequence[float], size: tuple[int, int]) -> list[int]:
    """Tens and units of each edge in pixels, as a box is written."""
    edges = (min(max(round(edge * size[i % 2]), 0), size[i % 2]) for i, edge in enumerate(box))
    return [digit for edge in edges for digit in divmod(edge, 10)]


def see(tower: Any, patches: Tensor, size: tuple[int, int]) -> Tensor:
    """Image tokens [N, C, hidden] of N frames of one size, patches [N, P, 588].

    The same numbers as the tower's own forward on each frame by itself, without its loop over
    frames; a still frame is given to it twice (`temporal_patch_size`), so the kernels are added.
    """
    frames, count, _ = patches.shape
    kernel = tower.patch_embed.proj.weight.sum(2).flatten(1)
    hidden = patches @ kernel.T
    grid = torch.tensor([[1, size[1] // PATCH, size[0] // PATCH]])
    cos, sin = _angles(tower, grid, hidden)
    for block in tower.blocks:
        attention = block.attn
        mixed = attention.qkv(block.norm1(hidden))
        query, key, value = mixed.view(
            frames, count, 3, attention.num_heads, attention.head_dim
        ).permute(2, 0, 3, 1, 4)
        query, key = (part * cos + _turned(part) * sin for part in (query, key))
        seen = nn.functional.scaled_dot_product_attention(query, key, value)
        hidden = hidden + attention.proj(seen.transpose(1, 2).reshape(hidden.shape))
        hidden = hidden + block.mlp(block.norm2(hidden))
    return tower.merger(hidden.reshape(frames * count, -1)).view(frames, count // 4, -1)


def _angles(tower: Any, grid: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    _, high, wide = grid[0].tolist()
    rows = torch.arange(high).view(high // 2, 1, 2, 1).expand(high // 2, wide // 2, 2, 2)
    columns = torch.arange(wide).view(1, wide // 2, 1, 2).expand(high // 2, wide // 2, 2, 2)
    places = torch.stack([rows.flatten(), columns.flatten()], 1)
    return tower.rotary_pos_emb(like, places)


def _turned(part: Tensor) -> Tensor:
    first, second = part.chunk(2, -1)
    return torch.cat([-second, first], -1)


class Heads(nn.Module):
    """What an image token is asked while sight is taught, all classes side by side."""

    def __init__(self, hidden: int):
        super().__init__()
        self.out = nn.Linear(hidden, sum(CLASSES))

    def forward(self, tokens: Tensor, cells: Tensor) -> tuple[Tensor, list[float]]:
        """The mean cross entropy of tokens [N, hidden] against cells [N, 11]; right by question."""
        losses, right = [], []
        for logits, truth in zip(self.out(tokens).split(CLASSES, -1), cells.T, strict=True):
            there = truth >= 0
            losses.append(nn.functional.cross_entropy(logits[there], truth[there]))
            right.append((logits[there].argmax(-1) == truth[there]).float().mean().item())
        return torch.stack(losses).mean(), right
