"""Muon in float32: against the singular value decomposition, and against torch's in bfloat16."""

import torch

from learners.model.muon import Muon, orthogonal


def test_orthogonal_keeps_directions_and_evens_out_lengths():
    """Against the singular value decomposition, on both sides of square."""
    generator = torch.Generator().manual_seed(0)
    for shape in ((8, 20), (20, 8), (16, 16)):
        matrix = torch.randn(shape, generator=generator)
        left, lengths, right = torch.linalg.svd(matrix, full_matrices=False)
        inside = left.T @ orthogonal(matrix) @ right.T
        kept = lengths > 0.2 * lengths.max()  # five steps do not reach the shortest ones
        assert inside.diagonal()[kept].min() > 0.6
        assert inside.diagonal().max() < 1.3
        assert (inside - inside.diagonal().diag()).abs().max() < 1e-4


def test_muon_steps_as_torch_does_but_for_bfloat16():
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(8, 20, generator=generator)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    optimizers = [
        Muon([ours], lr=0.01, weight_decay=0.1),
        torch.optim.Muon([theirs], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    ]
    for _ in range(3):
        gradient = torch.randn(8, 20, generator=generator)
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
    moved = (ours - start).abs().mean()
    assert (ours - theirs).abs().max() < 0.1 * moved
