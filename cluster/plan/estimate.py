"""What a run takes: bytes by formula, steps by counting, and every problem that can be told before
anything starts. Pure arithmetic: no Ray, no GPU, no torch, and no file is read here.

Bytes are of tensors. A process that holds none takes `PROCESS_BYTES` beside them, as measured.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from cluster.plan.node_placement import Node, Service, misfits, place, sft_units_of, units_of
from learners.model.architecture import Architecture
from learners.model.memory import Pass, RankMemory, rank_memory, trained_count
from learners.rank.clip_noise import complaint, expected_noise
from o3rl.config import FramesConfig, Placement, Publish, RolloutsConfig, RunConfig, Transfer
from o3rl.data.row_order import RowOrder, steps_of
from o3rl.media.frame_plan import CEILING
from o3rl.types import Task
from o3rl.weights.device_protocol import AT_ONCE_BYTES

GIB = 2**30
BYTES = {"float32": 4, "bfloat16": 2}
VERSIONS = 3  # with the weight store at most: two that it keeps and the one on its way
GPU_BLOCK, CPU_BLOCK = 16, 128  # tokens of a KV block, vLLM's defaults
GPU_PASS_BYTES = 2 * GIB  # of a GPU that vLLM keeps for a pass and its CUDA graphs, about
GPU_USABLE = 0.95  # of a GPU; the rest is CUDA's and NCCL's
# Resident memory of processes of the tiny demo less their tensors, on a CPU-only machine.
PROCESS_BYTES = {
    "controller": 320 * 2**20,
    "media": 270 * 2**20,  # with one reader
    "weight store": 210 * 2**20,
    "learner rank": 1100 * 2**20,
    "rollout replica": 2650 * 2**20,  # the actor and vLLM's process
    "scorer": 145 * 2**20,
}


@dataclass(frozen=True, slots=True)
class Amount:
    """Bytes of one thing in one place, and where they come from.

    >>> Amount("KV blocks", "rollout replica", 2**30, "rollouts.kv_cache_gib")
    """

    name: str
    where: str
    bytes: int
    formula: str


@dataclass(frozen=True, slots=True)
class Steps:
    """How often what happens in a stage; an epoch uses `per_epoch` of its `rows`."""

    rows: int
    per_epoch: float
    steps: int
    updates: int  # optimiser steps
    completions: int  # sampled for training
    validations: int
    checkpoints: int


@dataclass(frozen=True, slots=True)
class Plan:
    """All that `o3rl plan` shows. Stages whose data are not there have no steps."""

    model: str
    parameters: int
    trained: int
    services: tuple[Service, ...]
    amounts: tuple[Amount, ...]
    kv_blocks: int
    whole_sequences: int  # of rollouts.max_model_tokens that a replica's KV blocks hold at once
    sft: Steps | None
    rl: Steps | None
    problems: tuple[str, ...]


def plan_of(
    run: RunConfig,
    architecture: Architecture,
    node: Node,
    *,
    nodes: int = 0,
    sft_tasks: Sequence[Task] = (),
    rl_tasks: Sequence[Task] = (),
    disk_free: int | None = None,
) -> Plan:
    """The plan of a run on nodes like `node`, at most `nodes` (0: as many as need be).

    `sft_tasks` and `rl_tasks` are the tasks of the rows; `disk_free` the bytes free where the run
    writes, None if nobody knows.
    """
    services = place(units_of(run), node, nodes=nodes)
    room = kv_room(run.rollouts, architecture, node, dtype=run.model.dtype)
    block = kv_block_bytes(run.rollouts, architecture, dtype=run.model.dtype)
    blocks = max(0, room // block)
    per_sequence = math.ceil(run.rollouts.max_model_tokens / block_tokens(run.rollouts))
    memory = rank_memory(architecture, run.model, run.learning, largest=largest(run, architecture))
    sft = _sft_steps(run, sft_tasks) if sft_tasks else None
    rl = _rl_steps(run, rl_tasks) if rl_tasks else None
    cold_start = place(sft_units_of(run), node, nodes=nodes) if sft else ()
    checkpoints = _on_disk(run.sft.checkpoint_every, run.sft.keep_checkpoints, sft)
    checkpoints += _on_disk(run.loop.checkpoint_every, run.loop.keep_checkpoints, rl)
    others = _others(run, architecture, kv_bytes=blocks * block, checkpoints=checkpoints)
    amounts = (*_learner(memory), *others)
    problems = [
        *misfits((*services, *cold_start), node, nodes=nodes),
        *_tight(run, architecture, memory, node=node, sequences=blocks // per_sequence),
        *_disk(amounts, disk_free),
        *_noise(run),
    ]
    return Plan(
        model=run.model.path,
        parameters=architecture.parameters + architecture.adapters(run.model.lora_rank),
        trained=trained_count(architecture, run.model),
        services=services,
        amounts=amounts,
        kv_blocks=blocks,
        whole_sequences=blocks // per_sequence,
        sft=sft,
        rl=rl,
        problems=tuple(problems),
    )


def block_tokens(rollouts: RolloutsConfig) -> int:
    """Tokens of a KV block."""
    return GPU_BLOCK if rollouts.gpus else CPU_BLOCK


def kv_block_bytes(rollouts: RolloutsConfig, architecture: Architecture, *, dtype: str) -> int:
    """Keys and values of a block's tokens in all layers, on each GPU of a replica."""
    text = architecture.text
    heads = max(1, text.key_heads // rollouts.tensor_parallel)
    token = 2 * text.layers * heads * text.head * BYTES[dtype]
    return block_tokens(rollouts) * token


def kv_room(rollouts: RolloutsConfig, architecture: Architecture, node: Node, *, dtype: str) -> int:
    """Bytes for KV blocks: as configured on a CPU; what weights and passes leave of each GPU."""
    if not rollouts.gpus:
        return rollouts.kv_cache_gib * GIB
    weights = architecture.parameters * BYTES[dtype] // rollouts.tensor_parallel
    return int(rollouts.memory_share * node.gpu_gib * GIB) - weights - GPU_PASS_BYTES


def published_bytes(run: RunConfig, architecture: Architecture) -> int:
    """Of one version: the plain model in the forward pass's type, adapters merged."""
    return architecture.parameters * BYTES[run.model.dtype]


def sent_bytes(run: RunConfig, architecture: Architecture) -> int:
    """Of weights on their way from GPU to GPU, at once at either end; 0 through the store."""
    if run.rollouts.transfer is Transfer.object_store:
        return 0
    return 3 * max(AT_ONCE_BYTES, BYTES[run.model.dtype] * architecture.text.matrix)


def checkpoint_bytes(run: RunConfig, architecture: Architecture) -> int:
    """Of one: masters and moments of what is trained, weights as DeepSpeed saves them, the export.

    ZeRO-2 saves all weights, ZeRO-3 only those that have no masters.
    """
    everything = architecture.parameters + architecture.adapters(run.model.lora_rank)
    trained = trained_count(architecture, run.model)
    saved = everything if run.learning.zero == 2 else everything - trained
    state = 12 * trained + BYTES[run.model.dtype] * saved
    return state + published_bytes(run, architecture)


def frame_tokens(frames: FramesConfig) -> int:
    """Image tokens of the largest frame that the limits allow."""
    return int(CEILING * frames.pixels) // frames.factor**2


def most_seen(frames: FramesConfig) -> int:
    """Image tokens of the largest prompt: all frames of a video, or a single image."""
    return max(
        frames.max_frames * frame_tokens(frames), frames.image_max_pixels // frames.factor**2
    )


def largest(run: RunConfig, architecture: Architecture) -> Pass:
    """The largest pass of whole groups: all frames, every completion of full length."""
    seen = most_seen(run.frames)
    written = run.sampling.group_size * run.sampling.max_tokens
    limit = run.learning.tokens_per_pass
    packs = max(1, limit // (seen + written))
    return Pass(
        tokens=min(limit, packs * (seen + written)),
        targets=min(limit, packs * written),
        patches=packs * seen * architecture.vision.merge**2,
    )


def _learner(memory: RankMemory) -> Iterator[Amount]:
    formulas = {
        "weights": "b·Ψ, shared by the ranks under ZeRO-3",
        "gathered": "b·min(Ψ, 10⁹) under ZeRO-3",
        "reference": "b·Ψ where learning.kl is on without adapters",
        "masters": "4·T / ranks",
        "moments": "8·T / ranks",
        "gradients": "8·T / ranks: held, and once more as a step begins (ZeRO-2, bfloat16: 4·T)",
        "sums": "4·T / ranks in bfloat16, and the largest parameter: ZeRO-2 that offloads",
        "buckets": "(b + 4)·min(T, 5·10⁸), or the largest parameter",
        "activations": "the largest pass, all completions of full length",
    }
    for name, formula in formulas.items():
        offloaded = memory.offloaded and name in ("masters", "moments", "gradients")
        where = "learner rank, host" if offloaded else "learner rank"
        yield Amount(name, where, getattr(memory, name), formula)


def _others(
    run: RunConfig, architecture: Architecture, *, kv_bytes: int, checkpoints: int
) -> Iterator[Amount]:
    published = published_bytes(run, architecture)
    checkpoint = checkpoint_bytes(run, architecture)
    parallel = run.rollouts.tensor_parallel
    each = "of each GPU" if run.rollouts.gpus else "rollouts.kv_cache_gib"
    pixels = frame_tokens(run.frames) * run.frames.factor**2
    yield Amount("weights", "rollout replica", published // parallel, "b·Ψ / tensor_parallel")
    yield Amount("KV blocks", "rollout replica", kv_bytes, each)
    if run.learning.publish is Publish.changes:
        last = "b·Ψ: the last version, where learning.publish is changes"
        yield Amount("published weights", "learner rank, host", published, last)
        yield Amount("published weights", "a node with replicas, host", published, last)
    if run.rollouts.transfer is Transfer.object_store:
        yield Amount("published weights", "object store", VERSIONS * published, "3 versions · b·Ψ")
    else:
        formula = "3 buffers of 256 MiB, or of the largest parameter"
        for where in ("learner rank", "rollout replica"):
            yield Amount("weights on their way", where, sent_bytes(run, architecture), formula)
    yield Amount("frames", "object store", run.frames.cache_mib * 2**20, "frames.cache_mib")
    yield Amount(
        "frames of a prompt",
        "object store",
        run.frames.max_frames * pixels * 3,
        "max_frames · pixels · 3, without key frames",
    )
    yield Amount("a checkpoint", "disk", checkpoint, "12·T + b·Ψ (ZeRO-3: b·(Ψ − T)) + b·Ψ")
    formula = f"{checkpoints} at a time, of both stages: those kept, and one being made"
    yield Amount("all checkpoints", "disk", checkpoints * checkpoint, formula)
    yield Amount("models", "disk", 3 * published, "3 · b·Ψ: the cold start's, the best, the last")


def _tight(
    run: RunConfig, architecture: Architecture, memory: RankMemory, *, node: Node, sequences: int
) -> Iterator[str]:
    """What fits nowhere: memory of GPUs, lengths in tokens, heads and frames that do not divide."""
    rollouts, sampling, text = run.rollouts, run.sampling, architecture.text
    usable = GPU_USABLE * node.gpu_gib * GIB
    by_turns = run.rollouts.placement is Placement.colocated  # each has the whole GPU in its turn
    part = 1 if by_turns else min(1, run.cluster.gpus_per_rank)
    needed = memory.device + sent_bytes(run, architecture)
    if run.cluster.gpus_per_rank and needed > usable * part:
        parts = sorted(asdict(memory).items(), key=lambda part: -part[1])
        most = ", ".join(f"{name} {size / GIB:.1f}" for name, size in parts[:3])
        yield (
            f"a learner rank needs {needed / GIB:.1f} GiB of a GPU's {node.gpu_gib:g} ("
            f"{most}): more learning.ranks with learning.zero=3, learning.optimizer_offload, "
            "model.lora_rank or a smaller learning.tokens_per_pass"
        )
    if not sequences:
        yield (
            f"a replica has no room for the KV blocks of one sequence of rollouts.max_model_tokens "
            f"({rollouts.max_model_tokens}): a smaller one, more rollouts.tensor_parallel, "
            "rollouts.memory_share or on a CPU rollouts.kv_cache_gib"
        )
    part_of_one = rollouts.tensor_parallel == 1 and rollouts.gpus < 1
    if rollouts.gpus and rollouts.gpus != rollouts.tensor_parallel and not part_of_one:
        yield (
            f"rollouts.gpus is {rollouts.gpus:g}; it must be rollouts.tensor_parallel "
            f"({rollouts.tensor_parallel}), or a part of one: an engine has a process a GPU"
        )
    if text.heads % rollouts.tensor_parallel:
        yield (
            f"rollouts.tensor_parallel is {rollouts.tensor_parallel}; it must divide the model's "
            f"{text.heads} attention heads"
        )
    side = architecture.vision.patch_size * architecture.vision.merge
    if run.frames.factor % side:
        yield (
            f"frames.factor is {run.frames.factor}; it must be a multiple of {side}, the side of "
            "an image token of this model"
        )
    seen = most_seen(run.frames)
    room = min(sampling.max_prompt_tokens, rollouts.max_model_tokens - sampling.max_tokens)
    if seen > room:
        yield (
            f"frames take up to {seen} tokens (frames.max_frames · frames.pixels), more than the "
            f"{room} that sampling.max_prompt_tokens and rollouts.max_model_tokens leave"
        )


def _disk(amounts: Sequence[Amount], free: int | None) -> Iterator[str]:
    once = {"a checkpoint"}  # is among all checkpoints
    needed = sum(each.bytes for each in amounts if each.where == "disk" and each.name not in once)
    if free is not None and needed > free:
        yield (
            f"the run writes up to {needed / GIB:.1f} GiB where {free / GIB:.1f} GiB are free: "
            "another folder, or fewer loop.keep_checkpoints and sft.keep_checkpoints"
        )


def _noise(run: RunConfig) -> Iterator[str]:
    """A clip window below what engine and learner differ by, for completions of full length."""
    noise = expected_noise(run.model.dtype, tokens=run.sampling.max_tokens)
    if problem := complaint(run.learning, noise):
        yield f"{problem} (expected of {run.model.dtype} and {run.sampling.max_tokens} tokens)"


def _on_disk(every: int, keep: int, steps: Steps | None) -> int:
    """Checkpoints of a stage at the same time, at most."""
    if not every:
        return 0
    return keep + 1 if steps is None else min(keep + 1, steps.checkpoints)


def _sft_steps(run: RunConfig, tasks: Sequence[Task]) -> Steps:
    settings = run.sft
    order = _order(tasks, settings.task_weights)
    steps = steps_of(order, epochs=settings.epochs, size=settings.batch, steps=settings.steps)
    every = settings.checkpoint_every
    return Steps(
        rows=len(tasks),
        per_epoch=order.per_epoch,
        steps=steps,
        updates=steps,
        completions=0,
        validations=0,
        checkpoints=steps // every if every else 0,
    )


def _rl_steps(run: RunConfig, tasks: Sequence[Task]) -> Steps:
    loop = run.loop
    order = _order(tasks, run.data.task_weights)
    steps = steps_of(order, epochs=loop.epochs, size=loop.groups, steps=loop.steps)
    validates = run.data.validation and loop.validate_every
    return Steps(
        rows=len(tasks),
        per_epoch=order.per_epoch,
        steps=steps,
        updates=steps * run.learning.mini_batches,
        completions=steps * loop.groups * run.sampling.group_size,
        validations=steps // loop.validate_every if validates else 0,
        checkpoints=steps // loop.checkpoint_every,
    )


def _order(tasks: Sequence[Task], weights: dict[str, float]) -> RowOrder:
    return RowOrder(tasks, 0, weights={Task[name.upper()]: w for name, w in weights.items()})
