"""Handles of GPU memory as plain values, on their way as vLLM sends them."""

import msgspec
import pytest
import torch

from actors.weights.ipc_handles import plain, rebuilt

# As `reduce_tensor` gives it of a buffer of 256 bytes on a GPU.
HANDLE = (
    torch.Tensor,
    torch.Size([256]),
    (1,),
    0,
    torch.storage.TypedStorage,
    torch.uint8,
    0,
    b"\x00" * 64,
    256,
    0,
    False,
    b"counter",
    0,
    b"event",
    True,
)


def test_a_handle_comes_back_from_msgpack_as_it_was():
    sent = msgspec.msgpack.decode(msgspec.msgpack.encode(plain(HANDLE)))
    assert rebuilt(sent) == HANDLE


@pytest.mark.parametrize(("place", "other"), [(0, torch.nn.Parameter), (5, torch.bfloat16)])
def test_another_kind_of_tensor_is_refused(place, other):
    strange = (*HANDLE[:place], other, *HANDLE[place + 1 :])
    with pytest.raises(TypeError, match=f"at {place}"):
        plain(strange)
