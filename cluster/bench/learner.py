"""`o3rl bench learner`: how much faster a shared prompt is, against the arithmetic.

One step by each of `variants`, on the same weights, dtype and checkpointing; `masked` on a GPU
only. The baseline is the faster one of `sequential` and `batched`. Time is paired: every repeat
runs all variants in turn. Memory is the peak above the loaded model, one process per variant. The
bound is the ratio of `learners.model.flops` of both sides.
"""

import argparse
import ctypes
import gc
import multiprocessing
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import PreTrainedModel

from cluster.bench.random_models import (
    BASELINES,
    Setting,
    Shape,
    build_policy,
    build_segment,
    grids_of,
)
from cluster.bench.report import Report, table
from cluster.bench.variants import step_of, timed_step
from learners.model.architecture import Architecture
from learners.model.flops import Flops, Grids
from learners.model.logprob_head import LOGITS_AT_ONCE
from learners.model.memory import Pass, pass_memory, step_peak
from o3rl.config import ModelConfig

COLUMNS = (
    "P, C, G",
    "shared s",
    "baseline s",
    "speedup",
    "bound",
    "of bound",
    "memory",
    "baseline",
)
MEMORY_SECONDS = 3600.0  # limit for one variant's process
MMAP_THRESHOLD = -3  # glibc's name for it in mallopt
# Dense bfloat16 FLOP/s that the makers state, by a part of the device's name.
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "RTX 4090": 165e12}


def run(options: argparse.Namespace) -> Report:
    """Measure, then a table or JSON."""
    setting = Setting(options.model, options.device, not options.without_checkpointing)
    shapes = [Shape.parse(text) for text in options.shapes.split(",")]
    memory = not options.without_memory
    found = measure(shapes, setting, repeats=options.repeats, memory=memory)
    first = found[0]
    title = (
        f"{first['parameters'] / 1e6:.0f} M parameters, {first['dtype']}, {first['device']}, "
        f"{first['threads']} threads"
    )
    return found, [table(title, COLUMNS, map(_row, found))]


def _row(each: Mapping[str, Any]) -> tuple[str, ...]:
    """Medians, the speedup, and its share of the bound."""
    baseline, memory = each["baseline"], each["memory_ratio"]
    return (
        f"{each['P']}, {each['C']}, {each['G']}",
        f"{median(each['seconds']['shared']):.2f}",
        f"{median(each['seconds'][baseline]):.2f}",
        f"{each['speedup']:.2f}",
        f"{each['bound']:.2f}",
        f"{each['speedup_of_bound']:.2f}",
        "" if memory is None else f"{memory:.2f}",
        baseline,
    )


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
        step_of(name, policy, build_segment(policy, Shape(40, 4, 2)))()
    found = []
    for shape, bytes_ in peaks.items():
        timings = report(policy, shape, setting, repeats=repeats)
        memory_ = _memory(policy, shape, setting, peaks=bytes_, baseline=timings["baseline"])
        found.append(timings | memory_)
    return found


def report(
    policy: PreTrainedModel, shape: Shape, setting: Setting, *, repeats: int
) -> dict[str, Any]:
    """The figures of one shape, raw seconds beside them."""
    segment = build_segment(policy, shape)
    steps = {name: step_of(name, policy, segment) for name in setting.variants}
    if setting.device == "cuda":  # kernels are compiled and chosen by shape
        for step in steps.values():
            step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            seconds[name].append(timed_step(step, policy))
    baseline = min(BASELINES, key=lambda name: median(seconds[name]))
    pairs = zip(seconds[baseline], seconds["shared"], strict=True)
    speedup = median(theirs / ours for theirs, ours in pairs)
    costs = Flops.of(_sizes(policy), checkpointing=setting.checkpointing)
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
    sizes = _sizes(policy)
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


def _sizes(policy: PreTrainedModel) -> Architecture:
    return Architecture.of(policy.config.to_dict())


def peak_bytes(name: str, shape: Shape, setting: Setting) -> int:
    """Peak memory of a variant's step above the loaded model, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:  # its end kills a child that is still at work
        return pool.apply_async(_peak_here, (name, shape, setting)).get(MEMORY_SECONDS)


def _peak_here(name: str, shape: Shape, setting: Setting) -> int:
    """What `peak_bytes` runs: one small step first, for what libraries keep for good."""
    # Tensors of their own pages: the holes that glibc's heap keeps between them depend on the order
    # of allocations, and came to more than all that the smaller steps need.
    ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, 2**16)
    policy = build_policy(setting)
    step_of(name, policy, build_segment(policy, Shape(40, 4, 2)))()
    step = step_of(name, policy, build_segment(policy, shape))
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
    costs, completions_G = Flops.of(_sizes(policy)), [shape.completion] * shape.group
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
