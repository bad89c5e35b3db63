"""Muon (Jordan et al., 2024) in float32.

torch's own works in bfloat16, which a CPU without that arithmetic does by emulation: a hundred to
five hundred times slower, and at the tiny model's size more than all the rest of a step.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

QUINTIC = (3.4445, -4.775, 2.0315)  # Jordan's coefficients: steepest at zero, five steps do
STEPS = 5


class Muon(torch.optim.Optimizer):
    """Momentum made orthogonal, for matrices; its update has the root mean square of AdamW's.

    The scaling is that of Moonlight (Liu et al., 2025, eq. 4): rates of AdamW can be kept.
    """

    def __init__(
        self,
        matrices: Iterable[Tensor],
        *,
        lr: float = 1e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
    ):
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update of every matrix that has a gradient, Nesterov's way."""
        assert closure is None
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if not state:
                    state["mean"] = torch.zeros_like(matrix)
                mean = state["mean"].lerp_(matrix.grad, 1 - group["momentum"])
                update = orthogonal(matrix.grad.lerp(mean, group["momentum"]))
                scale = 0.2 * max(matrix.shape) ** 0.5
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(update, alpha=-group["lr"] * scale)


def orthogonal(matrix: Tensor) -> Tensor:
    """Near U Vᵀ of the matrix U S Vᵀ: its singular values are brought to about 0.7 to 1.2."""
    a, b, c = QUINTIC
    flat = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    flat = flat / flat.norm().clamp(min=1e-7)
    for _ in range(STEPS):
        gram = flat @ flat.T
        flat = torch.addmm(flat, torch.addmm(gram, gram, gram, beta=b, alpha=c), flat, beta=a)
    return flat if matrix.shape[0] <= matrix.shape[1] else flat.T
