"""Log-probabilities of the head: exact products, temperature, and nothing that nobody reads."""

import pytest
import torch

from learners.model.logprob_head import LogprobHead


def case(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """48 hidden states over 600 words, logits of a standard deviation of 4."""
    random = torch.Generator().manual_seed(0)
    hidden_NH = torch.randn(48, 256, generator=random).to(dtype)
    weight_VH = (torch.randn(600, 256, generator=random) / 4).to(dtype)
    return hidden_NH, weight_VH, torch.randint(600, (48,), generator=random)


def exact(hidden_NH, weight_VH, target_N, temperature: float) -> torch.Tensor:
    logits = hidden_NH.double() @ weight_VH.double().T / temperature
    return logits.log_softmax(-1).gather(1, target_N[:, None])[:, 0]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("chunk", [48, 7])
@pytest.mark.parametrize(("dtype", "close"), [(torch.bfloat16, 4e-3), (torch.float32, 1e-6)])
def test_values_and_gradients_are_those_of_exact_products(dtype, close, chunk, temperature):
    # bfloat16 has 8 bits: what leaves the head is rounded to 2⁻⁹, nothing inside of it is.
    hidden_NH, weight_VH, target_N = case(dtype)
    hidden_NH.requires_grad_()
    weight = torch.nn.Parameter(weight_VH)
    head = LogprobHead(weight, logits_at_once=chunk * 600, temperature=temperature)
    logprobs_N, _ = head(hidden_NH, target_N)
    expected_N = exact(hidden_NH, weight, target_N, temperature)
    torch.testing.assert_close(logprobs_N.double(), expected_N, atol=2e-5, rtol=0)
    scale_N = torch.linspace(-1, 1, 48)
    ours = torch.autograd.grad((logprobs_N * scale_N).sum(), (hidden_NH, weight))
    theirs = torch.autograd.grad((expected_N * scale_N).sum(), (hidden_NH, weight))
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype is dtype
        assert (one - other).norm() <= close * other.norm()


def test_temperature_is_that_of_the_distribution_and_its_entropy():
    # Logits 0 and ln 4 at T = 2: ln 2, so 1/3 and 2/3; H = ln 3 − 2/3·ln 2 = 0.636514.
    head = LogprobHead(torch.tensor([[1.0], [4.0]]).log(), logits_at_once=2, temperature=2.0)
    logprobs_N, entropy_N = head(torch.ones(1, 1), torch.tensor([1]))
    assert logprobs_N.exp().item() == pytest.approx(2 / 3)
    assert entropy_N.item() == pytest.approx(0.636514, abs=1e-6)


def test_entropy_is_left_out_where_nobody_reads_it():
    hidden_NH, weight_VH, target_N = case(torch.float32)
    head = LogprobHead(weight_VH, logits_at_once=10**6)
    with_N, entropy_N = head(hidden_NH, target_N)
    with torch.no_grad():
        without_N, nothing = head(hidden_NH, target_N)
    assert torch.equal(with_N, without_N)
    assert (len(entropy_N), len(nothing)) == (48, 0)
