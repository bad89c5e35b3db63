"""How much faster a shared prompt is, against the arithmetic: `o3rl bench learner`.

One step (forward and backward over a group, gradients of all parameters, no optimiser) by variants
on the same weights, dtype and checkpointing:

- `shared`: what the learner runs, one row `[prompt | c1 | … | cG]`;
- `masked`, on a GPU only: the same row by SDPA with a mask, to compare flex attention with;
- `sequential`: plain transformers, one pass per completion, `is_causal` SDPA, logits at completion
  positions only, gradients summed up;
- `batched`: the same with all copies in one batch.

The baseline is the faster of the last two. Time is paired: every repeat runs all variants in turn.
Memory is the peak above the loaded model, one process per variant. The bound is the ratio of
`learners.model.flops` of both sides.
"""

import ctypes
import gc
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cluster.bench.random_models import (
    BASELINES,
    Setting,
    Shape,
    build_policy,
    build_segment,
    grids_of,
)
from learners.model import attention
from learners.model.architecture import Architecture
from learners.model.flops import Flops, Grids
from learners.model.logprob_head import LOGITS_AT_ONCE
from learners.model.memory import Pass, pass_memory, step_peak
from learners.model.packing import PackedPolicy, Segment, pack
from o3rl.config import ModelConfig

Step = Callable[[], Tensor]
MEMORY_SECONDS = 3600.0  # limit for one variant's process
MMAP_THRESHOLD = -3  # glibc's name for it in mallopt
# Dense bfloat16 FLOP/s that the makers state, by a part of the device's name.
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "RTX 4090": 165e12}


@dataclass(frozen=True, slots=True)
class StepSeconds:
    """Of a whole step of RL, and of that what was learning."""

    whole: float
    learn: float


def measure(
    shapes: Sequence[Shape], setting: Setting, *, repeats: int, memory: bool = True
) -> list[dict[str, Any]]:
    """One report a shape. Raises ValueError where there is no such device."""
    if setting.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device is cuda, but torch finds no GPU here; use --device cpu")
    peaks = {  # while no other model takes room on the device
        shape: {name: peak_bytes(name, shape, setting) for name in setting.variants if memory}
        for shape in shapes
    }
    policy = build_policy(setting)
    for name in setting.variants:  # libraries' first calls are slow
        _step(name, policy, build_segment(policy, Shape(40, 4, 2)))()
    found = []
    for shape, bytes_ in peaks.items():
        timed = report(policy, shape, setting, repeats=repeats)
        memory_ = _memory(policy, shape, setting, peaks=bytes_, baseline=timed["baseline"])
        found.append(timed | memory_)
    return found


def report(
    policy: PreTrainedModel, shape: Shape, setting: Setting, *, repeats: int
) -> dict[str, Any]:
    """The figures of one shape, raw seconds beside them."""
    segment = build_segment(policy, shape)
    steps = {name: _step(name, policy, segment) for name in setting.variants}
    if setting.device == "cuda":  # kernels are compiled and chosen by shape
        for step in steps.values():
            step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            seconds[name].append(_timed(step, policy))
    baseline = min(BASELINES, key=lambda name: median(seconds[name]))
    pairs = zip(seconds[baseline], seconds["shared"], strict=True)
    speedup = median(theirs / ours for theirs, ours in pairs)
    costs = Flops.of(policy, checkpointing=setting.checkpointing)
    completions_G = [shape.completion] * shape.group
    grids = grids_of(segment)
    shared = costs.shared(shape.prompt, completions_G, grids)
    bound = costs.separate(shape.prompt, completions_G, grids) / shared
    return {
        "P": shape.prompt,
        "C": shape.completion,
        "G": shape.group,
        "bound": bound,
        "speedup": speedup,
        "speedup_of_bound": speedup / bound,
        "baseline": baseline,
        "seconds": seconds,
        "flops": {"shared": shared, baseline: shared * bound},
        **_throughput(shape, seconds, policy, grids),
        **_circumstances(policy, setting),
    }


def _memory(
    policy: PreTrainedModel,
    shape: Shape,
    setting: Setting,
    *,
    peaks: Mapping[str, int],
    baseline: str,
) -> dict[str, Any]:
    """Measured peaks, their ratio, and what the formula gives for ours."""
    sizes = Architecture.of(policy.config.to_dict())
    dtype = str(policy.dtype).removeprefix("torch.")
    model = ModelConfig(dtype=dtype, gradient_checkpointing=setting.checkpointing)
    segment = build_segment(policy, shape)
    largest = Pass(segment.tokens, shape.group * shape.completion, len(segment.prompt.pixels_ND))
    one = pass_memory(sizes, model, largest, logits_mib=LOGITS_AT_ONCE * 4 // 2**20)
    return {
        "memory_ratio": peaks[baseline] / peaks["shared"] if peaks else None,
        "memory_bytes": dict(peaks),
        "memory_formula": step_peak(sizes, one, each=policy.dtype.itemsize),
    }


def peak_bytes(name: str, shape: Shape, setting: Setting) -> int:
    """Peak memory of a variant's step above the loaded model, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:  # its end kills a child that is still at work
        return pool.apply_async(_peak_here, (name, shape, setting)).get(MEMORY_SECONDS)


def _step(name: str, policy: PreTrainedModel, segment: Segment) -> Step:
    """One step as a function without arguments; it gives the log-probabilities [G, C]."""
    variants = {"shared": _shared, "masked": _masked}
    variants |= {"sequential": _sequential, "batched": _batched}
    return variants[name](policy, segment, _weights(segment, policy.device))


def _shared(policy: PreTrainedModel, segment: Segment, weights_GC: Tensor) -> Step:
    packed = PackedPolicy(policy)
    batch = pack([segment]).to(policy.device)

    def step() -> Tensor:
        attention.use(policy)
        logprobs_GC, _ = packed(batch)
        (logprobs_GC * weights_GC).sum().backward()
        return logprobs_GC.detach()

    return step


def _masked(policy: PreTrainedModel, segment: Segment, weights_GC: Tensor) -> Step:
    """The shared row as one text to transformers, who sees whom given as a mask."""
    packed = PackedPolicy(policy)
    batch = pack([segment]).to(policy.device)
    seen_11LL = attention.attention_mask(batch.layout).to(policy.device)[None, None]

    def step() -> Tensor:
        policy.set_attn_implementation({"text_config": "sdpa"})
        hidden_1LH = packed.core(
            input_ids=batch.tokens_1L,
            position_ids=batch.positions_31L,
            attention_mask={"full_attention": seen_11LL},
            pixel_values=batch.pixels_ND,
            image_grid_thw=batch.grid_I3,
            use_cache=False,
        ).last_hidden_state
        hidden_NH = hidden_1LH[0].index_select(0, batch.predictor_N)
        logprobs_N, _ = packed.head(hidden_NH, batch.target_N)
        logprobs_GC = batch.scatter(logprobs_N)
        (logprobs_GC * weights_GC).sum().backward()
        return logprobs_GC.detach()

    return step


def _sequential(policy: PreTrainedModel, segment: Segment, weights_GC: Tensor) -> Step:
    inputs, targets_GC = _copies(policy, segment, 1), _targets(segment, policy.device)

    def step() -> Tensor:
        found = []
        for targets_C, weights_C in zip(targets_GC, weights_GC, strict=True):
            found.append(_plain(policy, inputs, targets_C[None], weights_C[None]))
        return torch.cat(found)

    return step


def _batched(policy: PreTrainedModel, segment: Segment, weights_GC: Tensor) -> Step:
    inputs = _copies(policy, segment, len(weights_GC))
    targets_GC = _targets(segment, policy.device)
    return lambda: _plain(policy, inputs, targets_GC, weights_GC)


def _plain(policy: Any, inputs: dict[str, Tensor], targets_BC: Tensor, weights_BC: Tensor):
    """Plain transformers over copies of the prompt; the last token of each is not read."""
    policy.set_attn_implementation({"text_config": "sdpa"})
    prompts_BP = inputs["prompts_BP"]
    tokens_BL = torch.cat([prompts_BP, targets_BC[:, :-1]], 1)
    logits_BCV = policy(
        input_ids=tokens_BL,
        pixel_values=inputs["pixels_ND"],
        image_grid_thw=inputs["grid_I3"],
        mm_token_type_ids=(tokens_BL == policy.config.image_token_id).int(),
        logits_to_keep=targets_BC.shape[1],
        use_cache=False,
    ).logits
    losses_N = torch.nn.functional.cross_entropy(
        logits_BCV.flatten(0, 1).float(), targets_BC.flatten(), reduction="none"
    )
    logprobs_BC = -losses_N.view(targets_BC.shape)
    (logprobs_BC * weights_BC).sum().backward()
    return logprobs_BC.detach()


def _copies(policy: PreTrainedModel, segment: Segment, count: int) -> dict[str, Tensor]:
    prompt = segment.prompt
    return {
        "prompts_BP": prompt.tokens_P.repeat(count, 1).to(policy.device),
        "pixels_ND": prompt.pixels_ND.repeat(count, 1).to(policy.device),
        "grid_I3": prompt.grid_I3.repeat(count, 1).to(policy.device),
    }


def _targets(segment: Segment, device: torch.device) -> Tensor:
    return torch.tensor(segment.completions_G, device=device)


def _weights(segment: Segment, device: torch.device) -> Tensor:
    """Gradients of the loss by each log-probability, as advantages of both signs give."""
    group, length = len(segment.completions_G), len(segment.completions_G[0])
    weights_G = torch.linspace(-1, 1, group + 2, device=device)[1:-1]
    return (weights_G[:, None] / length).expand(group, length)


def _timed(step: Step, policy: PreTrainedModel) -> float:
    policy.zero_grad(set_to_none=True)
    gc.collect()
    _wait(policy.device)
    started = perf_counter()
    step()
    _wait(policy.device)
    return perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _peak_here(name: str, shape: Shape, setting: Setting) -> int:
    """What `peak_bytes` runs: one small step first, for what libraries keep for good."""
    # Tensors of their own pages: the holes that glibc's heap keeps between them depend on the order
    # of allocations, and came to more than all that the smaller steps need.
    ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, 2**16)
    policy = build_policy(setting)
    _step(name, policy, build_segment(policy, Shape(40, 4, 2)))()
    step = _step(name, policy, build_segment(policy, shape))
    policy.zero_grad(set_to_none=True)
    gc.collect()
    if setting.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL(None).malloc_trim(0)  # what is free but kept would hide what is taken
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _resident("VmRSS")
    step()
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    """Bytes of this process in memory, now (VmRSS) or at most (VmHWM), as Linux counts them."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise AssertionError(field)


def _circumstances(policy: PreTrainedModel, setting: Setting) -> dict[str, Any]:
    cuda = setting.device == "cuda"
    return {
        "model": setting.model,
        "parameters": sum(p.numel() for p in policy.parameters()),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "dtype": str(policy.dtype).removeprefix("torch."),
        "checkpointing": setting.checkpointing,
        "threads": torch.get_num_threads(),
    }


def _throughput(
    shape: Shape, seconds: Mapping[str, Sequence[float]], policy: PreTrainedModel, grids: Grids
) -> dict[str, Any]:
    """By variant: completion tokens and FLOP a second, and on a known GPU their share of its peak.

    As is usual, what checkpointing computes again does not count; what a copy computes again does.
    """
    costs, completions_G = Flops.of(policy), [shape.completion] * shape.group
    rates, tokens = {}, {}
    for name, values in seconds.items():
        cost = costs.separate if name in BASELINES else costs.shared
        rates[name] = cost(shape.prompt, completions_G, grids) / median(values)
        tokens[name] = shape.group * shape.completion / median(values)
    found: dict[str, Any] = {"tokens_per_second": tokens, "flops_per_second": rates}
    if policy.device.type == "cuda":
        device = torch.cuda.get_device_name()
        peak = next((peak for part, peak in PEAK.items() if part in device), None)
        if peak is not None:
            found["mfu"] = {name: rate / peak for name, rate in rates.items()}
    return found
