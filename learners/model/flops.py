"""What a pass costs, counted: vision, linear layers, attention, head. Multiply and add are two.

The same numbers balance the ranks (`learners.rank.batching`) and bound what sharing a prompt can
win (`cluster.bench.learner`). A shared pass over a prompt of P tokens with G completions of C costs

    V + t·(P + G·C) + a·(P²/2 + G·(P·C + C²/2)) + h·G·C

and G passes of their own cost G·(V + t·(P + C) + a·(P + C)²/2 + h·C): V for the vision tower, t a
token's linear layers, a a query's look at one key in all layers, h a prediction.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from learners.model.architecture import Architecture

GRADIENT = 2.0  # of a forward pass: one product for the input's gradient, one for the weight's
ATTENTION_GRADIENT = 2.5  # five products for two, the scores being made again
Grids = Sequence[tuple[int, int, int]]
"""Time, height and width in patches of each picture."""


@dataclass(frozen=True, slots=True)
class Flops:
    """A model's prices, of a forward pass.

    `token` and `pair` (query and key) in the language model, `target` in the head; `patch` and
    `patch_pair` in the vision tower, where `windowed` of the `vision_layers` see only windows of
    `window` patches a side. `passes` is how often layers are run for one step besides their
    gradient (2 with gradient checkpointing), `vision_trained` whether the tower has a gradient.
    """

    token: float
    pair: float
    target: float
    patch: float
    patch_pair: float
    vision_layers: int
    windowed: int
    window: int
    patch_size: int
    merged: int
    passes: int = 1
    vision_trained: bool = True

    @classmethod
    def of(
        cls, sizes: Architecture, *, checkpointing: bool = False, vision_trained: bool = True
    ) -> "Flops":
        """Counted on the matrices; biases and norms cost next to nothing."""
        text, vision = sizes.text, sizes.vision
        merged = vision.merge**2
        by_patch = vision.hidden * vision.patch_values + vision.layers * sizes.patch_matrices
        mergers = (1 + vision.deep) * sizes.merger_matrices
        return cls(
            token=2.0 * text.layers * sizes.token_matrices,
            pair=4.0 * text.layers * text.heads * text.head,
            target=2.0 * text.matrix,
            patch=2.0 * (by_patch + mergers / merged),
            patch_pair=4.0 * vision.hidden,
            vision_layers=vision.layers,
            windowed=vision.windowed,
            window=vision.window,
            patch_size=vision.patch_size,
            merged=merged,
            passes=2 if checkpointing else 1,
            vision_trained=vision_trained,
        )

    def vision(self, grids: Grids) -> float:
        """A step of the vision tower on these pictures."""
        patches = sum(time * height * width for time, height, width in grids)
        whole = sum(time * (height * width) ** 2 for time, height, width in grids)
        near = sum(
            time * _squares(height, self.window) * _squares(width, self.window)
            for time, height, width in grids
        )
        pairs = (self.vision_layers - self.windowed) * whole + self.windowed * near
        if not self.vision_trained:
            return self.patch * patches + self.patch_pair * pairs
        linear = self.patch * patches * (self.passes + GRADIENT)
        return linear + self.patch_pair * pairs * (self.passes + ATTENTION_GRADIENT)

    def shared(self, prompt: int, completions_G: Sequence[int], grids: Grids) -> float:
        """A step over `[prompt | c1 | … | cG]`, by lengths in tokens; last ones are not read."""
        read_G = [length - 1 for length in completions_G]
        pairs = _causal(prompt) + sum(prompt * read + _causal(read) for read in read_G)
        return self.vision(grids) + self._text(prompt + sum(read_G), pairs, sum(completions_G))

    def separate(self, prompt: int, completions_G: Sequence[int], grids: Grids) -> float:
        """A step over the same completions, each with a prompt and a vision tower of its own."""
        return sum(self.shared(prompt, [length], grids) for length in completions_G)

    def _text(self, tokens: float, pairs: float, targets: float) -> float:
        layers = self.token * tokens * (self.passes + GRADIENT)
        attention = self.pair * pairs * (self.passes + ATTENTION_GRADIENT)
        return layers + attention + self.target * targets * (1 + GRADIENT)


def _causal(length: int) -> float:
    """Pairs of a query with itself and what came before."""
    return length * (length + 1) / 2


def _squares(side: int, window: int) -> int:
    """Sum of the squares of a side's pieces; by a window of 0 it is not cut."""
    if not window:
        return side**2
    return (side // window) * window**2 + (side % window) ** 2
