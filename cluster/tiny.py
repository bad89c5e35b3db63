"""`o3rl tiny pretrain`: makes the base that the demo starts from."""

import argparse
from collections import deque
from dataclasses import replace
from pathlib import Path

from o3rl.config import require


def pretrain(options: argparse.Namespace) -> int:
    """Train a tiny Qwen2.5-VL, with a bar that shows loss and accuracy."""
    if options.steps is not None:
        require(options.steps > 0, "--steps", options.steps, "1 or more")
    from cluster.configs import model_path
    from cluster.progress import bar
    from learners.tiny_pretrain import Recipe
    from learners.tiny_pretrain import pretrain as train

    recipe = Recipe(seed=options.seed)
    if options.steps is not None:
        recipe = replace(recipe, steps=options.steps, stills=options.steps // 5)
    start = None
    if options.start is not None:  # it has seen still images enough
        start = Path(model_path(options.start))
        recipe = replace(recipe, stills=0, rate=3e-3, decay=1.0)
    last: deque[dict[str, float]] = deque(maxlen=50)
    with bar("pretraining", recipe.steps) as show:
        for metrics in train(options.out, recipe, start=start, resume=options.resume):
            last.append(metrics)
            mean = {name: sum(m[name] for m in last) / len(last) for name in ("loss", "accuracy")}
            show(int(metrics["step"]), f"loss {mean['loss']:.3f} accuracy {mean['accuracy']:.3f}")
    return 0
