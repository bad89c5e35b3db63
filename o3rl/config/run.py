"""A whole run's configuration, and the combinations of settings that cannot work."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from o3rl.config.choices import (
    VLLM,
    Correction,
    Objective,
    OldLogprobs,
    Placement,
    Publish,
    Transfer,
    Truncated,
)
from o3rl.config.require import all_right, require
from o3rl.config.schema import (
    ClusterConfig,
    DataConfig,
    FramesConfig,
    LearningConfig,
    LoopConfig,
    ModelConfig,
    RewardsConfig,
    RolloutsConfig,
    SamplingConfig,
    SftConfig,
    TrackingConfig,
)

SCORER_CPUS = 0.1  # of one worker of the scorer pool


CONNECT_SECONDS = 330.0  # at most, for vLLM's engines and a rank, and for calls to be answered


RESOURCE_SHARE = 0.001  # of a node's `resource`, of which each rank or replica there takes so much


@dataclass
class RunConfig:
    """Everything of a run. `folder` holds all that it makes."""

    name: str = "o3rl"  # of the run; one run of a name at a time on a cluster
    folder: str = "runs/o3rl"  # for all that the run makes
    seed: int = 0  # of row order, sampling and updates
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    frames: FramesConfig = field(default_factory=FramesConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    rewards: RewardsConfig = field(default_factory=RewardsConfig)
    learning: LearningConfig = field(default_factory=LearningConfig)
    rollouts: RolloutsConfig = field(default_factory=RolloutsConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    sft: SftConfig = field(default_factory=SftConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def __post_init__(self):
        require(bool(self.name), "name", self.name, "a name")
        require(bool(self.folder), "folder", self.folder, "a folder")
        require(0 <= self.seed < 2**32, "seed", self.seed, "in [0, 2³²)")
        _check_finite(asdict(self))
        if all_right():  # combinations are of values that are right by themselves
            check_combinations(self)


def check_combinations(run: RunConfig) -> None:
    """Refuse what no single field shows: GSPO's traps, and sizes that do not divide.

    Raises ValueError by name, value and rule.
    """
    learning, loop, sampling = run.learning, run.loop, run.sampling
    require(
        loop.groups % learning.mini_batches == 0,
        "loop.groups",
        loop.groups,
        f"a multiple of learning.mini_batches ({learning.mini_batches})",
    )
    require(
        loop.groups // learning.mini_batches >= learning.ranks,
        "learning.mini_batches",
        learning.mini_batches,
        f"at most loop.groups / learning.ranks = {loop.groups // learning.ranks}: "
        "every rank needs a group of each mini-batch",
    )
    require(
        loop.truncated is not Truncated.penalised or loop.soft_tokens <= sampling.max_tokens,
        "loop.soft_tokens",
        loop.soft_tokens,
        f"at most sampling.max_tokens ({sampling.max_tokens})",
    )
    by_sequence = learning.objective in (Objective.gspo, Objective.gspo_token)
    if "wide_clip" not in learning.waive and by_sequence:
        require(
            learning.clip[1] < 0.1,
            "learning.clip_high",
            learning.clip[1],
            "below 0.1 with GSPO (its paper: 4e-4): a sequence ratio hardly ever moves so far, and "
            "nothing would be clipped; learning.waive=[wide_clip] if that is meant",
        )
    if learning.objective is Objective.gspo and learning.old_logprobs is OldLogprobs.recomputed:
        require(
            learning.correction is not Correction.token,
            "learning.correction",
            str(learning.correction),
            "sequence or none with gspo, whose loss has no terms of tokens; gspo_token has",
        )
    if "ratio_one" not in learning.waive and learning.old_logprobs is OldLogprobs.recomputed:
        require(
            learning.mini_batches > 1,
            "learning.old_logprobs",
            str(learning.old_logprobs),
            "sampler where learning.mini_batches is 1: recomputed by the same weights the ratio is "
            "always 1 and nothing is ever clipped; learning.waive=[ratio_one] if that is meant",
        )
    if "truncated_sampling" not in learning.waive:
        require(
            sampling.top_p == 1,
            "sampling.top_p",
            sampling.top_p,
            "1: else samples come from another distribution than π_old, whatever "
            "learning.old_logprobs is: both records of it are of the whole distribution; "
            "learning.waive=[truncated_sampling] if that is meant",
        )
    require(
        loop.min_group <= sampling.group_size,
        "loop.min_group",
        loop.min_group,
        f"at most sampling.group_size ({sampling.group_size})",
    )
    require(
        run.rollouts.max_model_tokens > sampling.max_tokens,
        "rollouts.max_model_tokens",
        run.rollouts.max_model_tokens,
        f"more than sampling.max_tokens ({sampling.max_tokens}), with room for the prompt",
    )
    longest = sampling.max_prompt_tokens + sampling.max_tokens
    longest = min(longest, run.rollouts.max_model_tokens)
    require(
        learning.tokens_per_pass >= longest,
        "learning.tokens_per_pass",
        learning.tokens_per_pass,
        f"{longest} or more, what sampling.max_prompt_tokens and max_tokens, and rollouts."
        "max_model_tokens allow: else what is sampled may be too long to be trained",
    )
    if run.rollouts.placement is Placement.colocated:
        _check_colocated(run)
    _check_transfer(run)
    for name, resource in (
        ("rollouts.resource", run.rollouts.resource),
        ("cluster.learner_resource", run.cluster.learner_resource),
    ):
        require(
            not resource or bool(run.cluster.address),
            name,
            resource,
            "empty where cluster.address is: the Ray that a run starts has no such resource",
        )
    if run.cluster.cpus and not run.cluster.address:
        needed = cpus_needed(run)
        require(
            run.cluster.cpus >= needed,
            "cluster.cpus",
            run.cluster.cpus,
            f"{needed:g} or more, which learner ranks, replicas and scorers ask for: else one of "
            "them is never placed",
        )


def _check_colocated(run: RunConfig) -> None:
    """One rank and one replica by turns: neither may be at work when the other is."""
    rollouts, cluster, learning = run.rollouts, run.cluster, run.learning
    gpus = (rollouts.gpus, cluster.gpus_per_rank)
    parts = min(gpus) > 0 and sum(gpus) <= 1
    offload = learning.optimizer_offload
    rules = (
        ("rollouts.gpus, cluster.gpus_per_rank", gpus, parts, "parts of one GPU"),
        ("rollouts.replicas", rollouts.replicas, rollouts.replicas == 1, "1"),
        ("rollouts.max_replicas", rollouts.max_replicas, rollouts.max_replicas <= 1, "0 or 1"),
        ("learning.ranks", learning.ranks, learning.ranks == 1, "1"),
        ("learning.optimizer_offload", offload, offload, "true"),
        ("loop.max_staleness", run.loop.max_staleness, run.loop.max_staleness == 0, "0"),
    )
    for name, value, right, rule in rules:
        require(right, name, value, f"{rule} where rollouts.placement is colocated")


def _check_transfer(run: RunConfig) -> None:
    """Weights that go from GPU to GPU: which GPUs, and a pool that stays as it is."""
    rollouts, cluster = run.rollouts, run.cluster
    way, gpus = rollouts.transfer, (rollouts.gpus, cluster.gpus_per_rank)
    if way is Transfer.object_store:
        return
    whole = min(gpus) >= 1
    placed = Placement.colocated if way is Transfer.ipc else Placement.separate
    publish, full = run.learning.publish.value, run.learning.publish is Publish.full
    limit = CONNECT_SECONDS + rollouts.load_seconds
    rules = [
        ("learning.seconds", run.learning.seconds, run.learning.seconds > limit, f"> {limit:g}"),
        ("rollouts.placement", rollouts.placement.value, rollouts.placement is placed, placed),
        ("learning.publish", publish, full, "full"),
        ("rollouts.engine", rollouts.engine, rollouts.engine == VLLM, VLLM),
    ]
    if way is Transfer.nccl:
        most = rollouts.max_replicas
        rules += [
            ("rollouts.gpus, cluster.gpus_per_rank", gpus, whole, "1 or more each"),
            ("rollouts.max_replicas", most, most == 0, "0 (the pool stays as it is)"),
        ]
    for name, value, right, rule in rules:
        require(right, name, value, f"{rule} where rollouts.transfer is {way}")


def user_code(run: RunConfig) -> dict[str, str]:
    """What a run names of the user's own, `module:name` by key."""
    named = {f"rewards.custom.{name}": target for name, target in run.rewards.custom.items()}
    return (
        named if run.rollouts.engine == VLLM else named | {"rollouts.engine": run.rollouts.engine}
    )


def cpus_needed(run: RunConfig) -> float:
    """The CPUs that the services of a training run ask Ray for."""
    learner = run.learning.ranks * run.cluster.cpus_per_rank
    sampler = run.rollouts.replicas * run.rollouts.cpus
    return learner + sampler + SCORER_CPUS * run.rewards.workers


def _check_finite(values: dict[str, Any], prefix: str = "") -> None:
    for key, value in values.items():
        if isinstance(value, dict):
            _check_finite(value, f"{prefix}{key}.")
        elif isinstance(value, float):
            require(math.isfinite(value), f"{prefix}{key}", value, "finite")
