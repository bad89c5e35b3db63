"""The settings that are a choice of words."""

from enum import StrEnum

VLLM = "vllm"  # the engine that is not a user's


class Profile(StrEnum):
    """Reward profiles (STGR rewards): the paper's, the released code's, and paper plus guards."""

    paper = "paper"
    released = "released"
    strict = "strict"


class Objective(StrEnum):
    """What is clipped, and how; docs/objectives.md has the formulas and their papers.

    gspo: one length-normalised ratio per sequence. gspo_token: the same ratio with a gradient of
    each token's own. grpo: one ratio per token. cispo: the gradient of log π_θ, weighted by a
    ratio per token that is cut, so that no token loses its gradient.
    """

    gspo = "gspo"
    gspo_token = "gspo_token"
    grpo = "grpo"
    cispo = "cispo"


class Advantages(StrEnum):
    """A reward's distance from its group's mean. scaled: over the group's standard deviation.

    mean_only: as it is. leave_one_out: from the mean of the others.
    """

    scaled = "scaled"
    mean_only = "mean_only"
    leave_one_out = "leave_one_out"


class Truncated(StrEnum):
    """What becomes of a completion that ended because it had as many tokens as it may.

    scored: its reward counts as any other's. masked: it counts for its siblings' advantages, its
    own is 0 (DAPO's overlong filtering). penalised: the last `loop.soft_tokens` of
    `sampling.max_tokens` cost up to 1 of its reward (DAPO's soft overlong punishment).
    """

    scored = "scored"
    masked = "masked"
    penalised = "penalised"


class Aggregation(StrEnum):
    """How a mini-batch's losses become one.

    sequence_mean: mean over a sequence's tokens, then over sequences. token_mean: mean over all
    tokens. constant_length: sum over a sequence's tokens by `sampling.max_tokens`, mean over
    sequences.
    """

    sequence_mean = "sequence_mean"
    token_mean = "token_mean"
    constant_length = "constant_length"


class Correction(StrEnum):
    """What a recomputed π_old is weighed by, because the sampler's π is another.

    sequence: the length-normalised ratio of both, at most 2. token: that of each token, at most 2.
    none: nothing.
    """

    none = "none"
    token = "token"
    sequence = "sequence"


class OldLogprobs(StrEnum):
    """Where π_old comes from: the sampler's own record, or the learner's recomputation.

    `recomputed` weighs the loss as `learning.correction` says.
    """

    sampler = "sampler"
    recomputed = "recomputed"


class FrameReader(StrEnum):
    """Who decodes videos. auto: PyAV, right and the faster one on each kind (docs/data.md).

    decord is wrong on several kinds of files: `o3rl data check` tells which of yours.
    """

    auto = "auto"
    pyav = "pyav"
    decord = "decord"


class Schedule(StrEnum):
    """Learning rate over the run's batches (not mini-batches), after warm-up."""

    constant = "constant"
    linear = "linear"
    cosine = "cosine"


class PromptStyle(StrEnum):
    """full: system prompt and instructions in words. brief: a few words, for tiny models."""

    full = "full"
    brief = "brief"


class Placement(StrEnum):
    """Where a replica is. separate: on a GPU, or a part of one, that is its own all the time.

    colocated: on the learner's only GPU, whose memory they have by turns: the engine sleeps while
    the learner learns, its optimiser's state stays in the machine's memory.
    """

    separate = "separate"
    colocated = "colocated"


class Transfer(StrEnum):
    """How weights come to the replicas.

    object_store: through the weight store, from which any replica takes them at any time. ipc: from
    GPU memory that rank 0 shares with the one engine beside it (`rollouts.placement` colocated).
    nccl: rank 0 sends to the GPUs of all replicas at once; for a pool that stays as it is, since
    the learner stands still while they take them, and for one that joins.
    """

    object_store = "object_store"
    ipc = "ipc"
    nccl = "nccl"


class Publish(StrEnum):
    """What is sent of new weights: all, or the values that changed since the last version.

    The same weights either way, bit for bit. `changes` is for bfloat16 and small learning rates,
    where few values change; rank 0 and each node keep the last version in memory, to compare with
    and to patch.
    """

    full = "full"
    changes = "changes"


class Spanning(StrEnum):
    """What becomes of rollouts that are being sampled when new weights arrive.

    keep: they go on, and read a cache that older weights made, which nobody can recompute: what the
    engine recorded is their π_old. recompute: the cache is made anew by the new weights first.
    abort: they end, and their prompts start afresh; each costs one of `loop.max_attempts`.
    """

    keep = "keep"
    recompute = "recompute"
    abort = "abort"
