"""A checksum of a tensor's bytes, made where the tensor is: on a GPU, without a way to the host.

What goes from GPU to GPU is held against it, as what goes through the store is against `digest_of`.
"""

import torch
from torch import Tensor

_AT_ONCE = 2**22  # values: an int64 copy of no more is made
_STRIDE = 0x9E3779B1  # odd, so that every place weighs differently
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def checksum(tensor: Tensor) -> Tensor:
    """int64 [], on the tensor's device: the sum, modulo 2⁶⁴, of its values' bits, each weighted by
    its place. Whole numbers, so that the order of summation does not matter.
    """
    words_N = tensor.detach().contiguous().view(-1).view(_WORDS[tensor.element_size()])
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for start in range(0, words_N.numel(), _AT_ONCE):
        part_N = words_N[start : start + _AT_ONCE].to(torch.int64)
        place_N = torch.arange(start, start + part_N.numel(), device=tensor.device)
        total += ((part_N + 1) * (place_N * _STRIDE + 1)).sum()
    return total


def in_hex(sums: list[Tensor]) -> list[str]:
    """Each as 16 digits; one way from the device for all."""
    if not sums:
        return []
    return [f"{value & (2**64 - 1):016x}" for value in torch.stack(sums).tolist()]
