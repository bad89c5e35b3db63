"""Checksums made on a device, against the sum as it is written down."""

import pytest
import torch

from o3rl.weights import checksum as module
from o3rl.weights.checksum import checksum, in_hex


def by_hand(tensor: torch.Tensor) -> str:
    words = {2: torch.int16, 4: torch.int32}[tensor.element_size()]
    values = tensor.contiguous().view(-1).view(words).tolist()
    total = sum((value + 1) * (place * 0x9E3779B1 + 1) for place, value in enumerate(values))
    return f"{total % 2**64:016x}"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_it_is_the_weighted_sum_of_the_bits(dtype, monkeypatch):
    monkeypatch.setattr(module, "_AT_ONCE", 7)  # several parts
    tensor = torch.randn(5, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert in_hex([checksum(tensor), checksum(tensor.T)]) == [by_hand(tensor), by_hand(tensor.T)]
    assert by_hand(tensor) != by_hand(tensor.T)


def test_every_bit_and_every_place_counts():
    tensor = torch.randn(64, generator=torch.Generator().manual_seed(1))
    [before] = in_hex([checksum(tensor)])
    swapped = tensor.clone()
    swapped[[3, 9]] = tensor[[9, 3]]
    bits = tensor.clone().view(torch.int32)
    bits[17] ^= 1
    longer = torch.cat([tensor, torch.zeros(1)])
    for other in (swapped, bits.view(torch.float32), longer):
        assert in_hex([checksum(other)]) != [before]


def test_nothing_has_a_sum_too():
    assert in_hex([]) == []
    assert in_hex([checksum(torch.empty(0))]) == ["0" * 16]
