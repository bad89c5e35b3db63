"""The settings that are a choice of words."""

from enum import StrEnum


class Profile(StrEnum):
    """Reward profiles (STGR rewards): the paper's, the released code's, and paper plus guards."""

    paper = "paper"
    released = "released"
    strict = "strict"


class Objective(StrEnum):
    """gspo: one length-normalised ratio per sequence. grpo: one ratio per token."""

    gspo = "gspo"
    grpo = "grpo"


class OldLogprobs(StrEnum):
    """Where π_old comes from: the sampler's own record, or the learner's recomputation.

    `recomputed` multiplies the loss by a detached, length-normalised, truncated importance factor
    π_recomputed/π_sampler.
    """

    sampler = "sampler"
    recomputed = "recomputed"


class Schedule(StrEnum):
    """Learning rate over the run's batches (not mini-batches), after warm-up."""

    constant = "constant"
    linear = "linear"
    cosine = "cosine"


class PromptStyle(StrEnum):
    """full: system prompt and instructions in words. brief: a few words, for tiny models."""

    full = "full"
    brief = "brief"


class Spanning(StrEnum):
    """What becomes of rollouts that are being sampled when new weights arrive.

    keep: they go on, and read a cache that older weights made, which nobody can recompute: what the
    engine recorded is their π_old. recompute: the cache is made anew by the new weights first.
    abort: they end, and their prompts start afresh; each costs one of `loop.max_attempts`.
    """

    keep = "keep"
    recompute = "recompute"
    abort = "abort"
