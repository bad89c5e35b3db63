"""The sections of the configuration: one dataclass each, its defaults, and the range of each field.

`o3rl.config` puts them together. A component receives its own section, never the whole tree. A
wrong value raises ValueError by name, value and rule. Imports nothing that takes time.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from o3rl.config.choices import (
    VLLM,
    FrameReader,
    Objective,
    OldLogprobs,
    Placement,
    Profile,
    PromptStyle,
    Publish,
    Schedule,
    Spanning,
    Transfer,
)
from o3rl.config.require import require
from o3rl.config.user_functions import names_member
from o3rl.types import PARTS, Task


def require_task_weights(weights: Mapping[str, float], name: str) -> None:
    """Raise ValueError unless `weights` are of tasks, by their names in `Task`, and 0 or more."""
    names = [task.name.lower() for task in Task]
    for task, weight in weights.items():
        require(task in names, f"{name} key", task, f"one of {', '.join(names)}")
        require(math.isfinite(weight) and weight >= 0, f"{name}.{task}", weight, "0 or more")


@dataclass
class ModelConfig:
    """The policy: a Hugging Face folder or hub name of the Qwen2.5-VL family; `tiny` is shipped."""

    path: str = "Qwen/Qwen2.5-VL-7B-Instruct"
    dtype: str = "bfloat16"  # of the forward pass; masters are float32
    prompt_style: PromptStyle = PromptStyle.full
    freeze_vision: bool = False
    lora_rank: int = 0  # 0: all parameters
    lora_alpha: int = 32
    gradient_checkpointing: bool = True

    def __post_init__(self):
        require(bool(self.path), "model.path", self.path, "a folder or a hub name")
        require(
            self.dtype in ("float32", "bfloat16"), "model.dtype", self.dtype, "float32 or bfloat16"
        )
        require(self.lora_rank >= 0, "model.lora_rank", self.lora_rank, "0 (off) or more")
        require(self.lora_alpha > 0, "model.lora_alpha", self.lora_alpha, "more than 0")


@dataclass
class DataConfig:
    """Rows in Parquet, as `o3rl data import` writes them, and where their media lie."""

    train: str = "data/stgr-rl"
    validation: str = ""  # empty: no validation
    validation_rows: int = 64
    media: str = "data/media"  # root; rows hold paths below it
    max_rows: int = 0  # 0: all
    task_weights: dict[str, float] = field(default_factory=dict)  # uses of a row an epoch; else 1

    def __post_init__(self):
        require_task_weights(self.task_weights, "data.task_weights")
        require(bool(self.train), "data.train", self.train, "a folder made by `o3rl data import`")
        require(self.validation_rows > 0, "data.validation_rows", self.validation_rows, "1 or more")
        require(self.max_rows >= 0, "data.max_rows", self.max_rows, "0 (all) or more")


@dataclass
class FramesConfig:
    """Which frames the model sees, and how large: fps up to, count from-to, pixels a frame."""

    fps: float = 2.0
    min_frames: int = 4
    max_frames: int = 16
    pixels: int = 128 * 28 * 28  # floor of a frame's area; the ceiling is 5 % above
    image_min_pixels: int = 4 * 28 * 28  # of a single image (visual QA)
    image_max_pixels: int = 256 * 28 * 28
    factor: int = 28  # sides are multiples of it
    reader: FrameReader = FrameReader.auto
    readers: int = 0  # processes that decode at the same time; 0: one for two cores, at most 8
    decode_seconds: float = 60.0  # limit per video, after which its reader is killed
    cache_mib: int = 512

    def __post_init__(self):
        require(self.fps > 0, "frames.fps", self.fps, "more than 0")
        least, most = self.min_frames, self.max_frames
        require(2 <= least <= most, "frames.min_frames", least, f"2 to frames.max_frames ({most})")
        names = "frames.min_frames, frames.max_frames"
        require(least % 2 == 0 and most % 2 == 0, names, (least, most), "even")
        require(self.factor > 0, "frames.factor", self.factor, "more than 0")
        patch = self.factor**2
        rule = f"at least one patch of {self.factor}² px"
        require(self.pixels >= patch, "frames.pixels", self.pixels, rule)
        few, many = self.image_min_pixels, self.image_max_pixels
        rule = f"{self.factor}² px to frames.image_max_pixels ({many})"
        require(patch <= few <= many, "frames.image_min_pixels", few, rule)
        require(self.readers >= 0, "frames.readers", self.readers, "0 (by the machine) or more")
        require(self.decode_seconds > 0, "frames.decode_seconds", self.decode_seconds, "> 0")
        require(self.cache_mib > 0, "frames.cache_mib", self.cache_mib, "more than 0")


@dataclass
class SamplingConfig:
    """How rollouts are sampled. T = 1 without truncation: the learner's distribution exactly."""

    group_size: int = 8
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 768
    max_prompt_tokens: int = 16384

    def __post_init__(self):
        require(
            self.group_size >= 2,
            "sampling.group_size",
            self.group_size,
            "at least 2, or advantages are all zero",
        )
        require(self.temperature > 0, "sampling.temperature", self.temperature, "more than 0")
        require(0 < self.top_p <= 1, "sampling.top_p", self.top_p, "in (0, 1]")
        require(self.max_tokens > 0, "sampling.max_tokens", self.max_tokens, "more than 0")
        require(
            self.max_prompt_tokens > 0, "sampling.max_prompt_tokens", self.max_prompt_tokens, "> 0"
        )


@dataclass
class RewardsConfig:
    """The reward: profile, weights of its parts, the curriculum, the pool that computes it."""

    profile: Profile = Profile.paper
    weights: dict[str, float] = field(default_factory=dict)  # by part name; 1 where not named
    sigma_start: float = 4.0  # seconds
    sigma_end: float = 1.0
    sigma_end_at: float = 0.75  # share of the run after which σ stays at its end
    gate_seconds: float = 3.0  # τ
    gate: bool = True
    workers: int = 1
    seconds: float = 10.0  # limit per completion
    custom: dict[str, str] = field(default_factory=dict)  # own parts: name → module:function
    custom_errors: int = 3  # distinct exceptions of custom parts that end the run

    def __post_init__(self):
        require(
            0 < self.sigma_end <= self.sigma_start,
            "rewards.sigma_end",
            self.sigma_end,
            f"in (0, rewards.sigma_start = {self.sigma_start}]",
        )
        require(0 <= self.sigma_end_at <= 1, "rewards.sigma_end_at", self.sigma_end_at, "in [0, 1]")
        require(self.gate_seconds > 0, "rewards.gate_seconds", self.gate_seconds, "more than 0")
        require(self.workers >= 1, "rewards.workers", self.workers, "1 or more")
        require(self.seconds > 0, "rewards.seconds", self.seconds, "more than 0")
        require(self.custom_errors >= 1, "rewards.custom_errors", self.custom_errors, "1 or more")
        weights = self.weights
        least = min(weights.values(), default=0.0)
        require(least >= 0, "rewards.weights", weights, "0 or more each")
        self._check_names()

    def _check_names(self) -> None:
        for name, target in self.custom.items():
            key = f"rewards.custom.{name}"
            require(name not in PARTS, key, target, f"named unlike a built-in part ({name} is one)")
            require(names_member(target), key, target, "module:function")
        known = [*PARTS, *self.custom]
        for name, weight in self.weights.items():
            require(
                name in known, f"rewards.weights.{name}", weight, f"the weight of one of {known}"
            )


WAIVABLE = {"wide_clip", "ratio_one", "truncated_sampling"}


@dataclass
class LearningConfig:
    """The update: objective, clip, optimiser, how a batch is cut, how its ranks share it."""

    objective: Objective = Objective.gspo
    clip_low: float = 3e-4
    clip_high: float = 4e-4
    waive: list[str] = field(default_factory=list)  # rules of WAIVABLE broken on purpose
    kl: float = 0.0  # β of the k3 penalty to the starting model; 0: no reference model is kept
    old_logprobs: OldLogprobs = OldLogprobs.sampler
    mini_batches: int = 4
    rate: float = 1e-6
    schedule: Schedule = Schedule.cosine
    warmup: int = 0  # batches
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    ranks: int = 1
    zero: int = 2
    optimizer_offload: bool = False
    tokens_per_pass: int = 17152  # the longest [prompt + completions] run through the model at once
    logits_mib: int = 512  # of logits held at once, in float32; as much again for their softmax
    publish: Publish = Publish.full
    permute_advantages: bool = False  # a control: shuffled over the batch they must teach nothing
    seconds: float = 1800.0  # limit for one update

    def __post_init__(self):
        for name in ("clip_low", "clip_high"):
            value = getattr(self, name)
            require(0 < value < 1, f"learning.{name}", value, "in (0, 1)")
        require(self.kl >= 0, "learning.kl", self.kl, "0 (off) or more")
        require(self.mini_batches >= 1, "learning.mini_batches", self.mini_batches, "1 or more")
        require(self.rate > 0, "learning.rate", self.rate, "more than 0")
        require(self.warmup >= 0, "learning.warmup", self.warmup, "0 or more")
        require(self.weight_decay >= 0, "learning.weight_decay", self.weight_decay, "0 or more")
        require(self.max_grad_norm > 0, "learning.max_grad_norm", self.max_grad_norm, "more than 0")
        require(self.ranks >= 1, "learning.ranks", self.ranks, "1 or more")
        require(self.zero in (2, 3), "learning.zero", self.zero, "2 or 3")
        require(self.tokens_per_pass > 0, "learning.tokens_per_pass", self.tokens_per_pass, "> 0")
        require(self.logits_mib > 0, "learning.logits_mib", self.logits_mib, "more than 0")
        require(self.seconds > 0, "learning.seconds", self.seconds, "more than 0")
        unknown = sorted(set(self.waive) - WAIVABLE)
        require(not unknown, "learning.waive", unknown, f"of {sorted(WAIVABLE)}")


@dataclass
class RolloutsConfig:
    """The pool of rollout replicas, one engine each."""

    engine: str = VLLM  # or a class of yours, module:Class, with what `actors.engine.engine` offers
    replicas: int = 1  # to begin with
    min_replicas: int = 1
    max_replicas: int = 0  # 0: the number changes by `o3rl scale` only; else by who waits for whom
    scale_after: int = 3  # steps in a row that ask for it
    cpus: float = 1.0
    gpus: float = 1.0  # per replica; 0 on a machine without
    resource: str = ""  # Ray's name for what only nodes for replicas have; empty: any node
    placement: Placement = Placement.separate
    transfer: Transfer = Transfer.object_store  # of weights to replicas
    tensor_parallel: int = 1
    memory_share: float = 0.85  # of a GPU, weights included
    kv_cache_gib: int = 1  # on CPU
    max_model_tokens: int = 20480
    max_batched_tokens: int = 4096
    max_sequences: int = 256  # at once in an engine; the rest wait in it, oldest first
    enforce_eager: bool = False
    start_seconds: float = 900.0
    seconds: float = 600.0  # limit for one group
    load_seconds: float = 300.0  # limit for one weight update
    spanning: Spanning = Spanning.keep
    leave_seconds: float = 60.0  # for the prompts of a replica that leaves; then tried elsewhere

    def __post_init__(self):
        require(self.replicas >= 1, "rollouts.replicas", self.replicas, "1 or more")
        require(
            1 <= self.min_replicas <= self.replicas,
            "rollouts.min_replicas",
            self.min_replicas,
            f"1 to rollouts.replicas ({self.replicas})",
        )
        require(
            self.max_replicas == 0 or self.max_replicas >= self.replicas,
            "rollouts.max_replicas",
            self.max_replicas,
            f"0 (fixed), or rollouts.replicas ({self.replicas}) or more",
        )
        require(self.scale_after >= 1, "rollouts.scale_after", self.scale_after, "1 or more")
        require(self.cpus > 0, "rollouts.cpus", self.cpus, "more than 0")
        require(self.gpus >= 0, "rollouts.gpus", self.gpus, "0 or more")
        require(self.tensor_parallel >= 1, "rollouts.tensor_parallel", self.tensor_parallel, ">= 1")
        require(0 < self.memory_share < 1, "rollouts.memory_share", self.memory_share, "in (0, 1)")
        own = self.engine == VLLM or names_member(self.engine)
        require(own, "rollouts.engine", self.engine, f"{VLLM} or module:Class")
        for name in ("kv_cache_gib", "max_model_tokens", "max_batched_tokens", "max_sequences"):
            value = getattr(self, name)
            require(value > 0, f"rollouts.{name}", value, "more than 0")
        count, most = self.max_sequences, self.max_batched_tokens
        require(count <= most, "rollouts.max_sequences", count, f"up to max_batched_tokens, {most}")
        for name in ("start_seconds", "seconds", "load_seconds", "leave_seconds"):
            value = getattr(self, name)
            require(value > 0, f"rollouts.{name}", value, "more than 0")


@dataclass
class LoopConfig:
    """How long, how large, how old: a batch is `groups` prompts, and a step trains one batch."""

    groups: int = 64  # prompts a batch
    steps: int = 0  # 0: as many as `epochs` need
    epochs: int = 1
    min_group: int = 2  # surviving siblings a group needs
    max_attempts: int = 3  # per prompt, before it is set aside and reported
    max_staleness: int = 1  # versions; 0: synchronous, and reproducible
    straggler_seconds: float = 60.0  # that the learner waits for what would grow too old
    validate_every: int = 50  # steps; 0: never
    checkpoint_every: int = 100
    keep_checkpoints: int = 2

    def __post_init__(self):
        for name in ("groups", "epochs", "max_attempts", "keep_checkpoints"):
            value = getattr(self, name)
            require(value >= 1, f"loop.{name}", value, "1 or more")
        require(self.steps >= 0, "loop.steps", self.steps, "0 (by epochs) or more")
        least = self.min_group
        require(least >= 2, "loop.min_group", least, "2 or more: one has no spread")
        require(
            0 <= self.max_staleness <= 16,
            "loop.max_staleness",
            self.max_staleness,
            "0 (synchronous) to 16 versions",
        )
        seconds = self.straggler_seconds
        require(seconds > 0, "loop.straggler_seconds", seconds, "more than 0")
        require(self.validate_every >= 0, "loop.validate_every", self.validate_every, "0 or more")
        every = self.checkpoint_every
        require(every >= 1, "loop.checkpoint_every", every, "1 or more")


@dataclass
class SftConfig:
    """The cold start: rows with reasoning, assistant tokens only."""

    start: str = ""  # the model it starts from; empty: model.path
    rows: str = "data/stgr-sft"
    task_weights: dict[str, float] = field(default_factory=dict)  # as data.task_weights
    epochs: int = 1
    steps: int = 0  # 0: by epochs
    batch: int = 8  # rows a step, over all ranks
    rate: float = 1e-6
    schedule: Schedule = Schedule.linear
    warmup: int = 0  # steps
    weight_decay: float = 0.0
    max_grad_norm: float = 5.0
    cpus_per_rank: float = 0.0  # there is no engine beside it; 0: as cluster.cpus_per_rank
    checkpoint_every: int = 500  # steps; 0: never
    keep_checkpoints: int = 2

    def __post_init__(self):
        require_task_weights(self.task_weights, "sft.task_weights")
        require(self.cpus_per_rank >= 0, "sft.cpus_per_rank", self.cpus_per_rank, "0 or more")
        require(self.epochs >= 1, "sft.epochs", self.epochs, "1 or more")
        require(self.steps >= 0, "sft.steps", self.steps, "0 (by epochs) or more")
        require(self.batch >= 1, "sft.batch", self.batch, "1 or more")
        require(self.rate > 0, "sft.rate", self.rate, "more than 0")
        require(self.warmup >= 0, "sft.warmup", self.warmup, "0 or more")
        require(self.weight_decay >= 0, "sft.weight_decay", self.weight_decay, "0 or more")
        require(self.max_grad_norm > 0, "sft.max_grad_norm", self.max_grad_norm, "more than 0")
        every, keep = self.checkpoint_every, self.keep_checkpoints
        require(every >= 0, "sft.checkpoint_every", every, "0 (never) or more")
        require(keep >= 1, "sft.keep_checkpoints", keep, "1 or more")


@dataclass
class ClusterConfig:
    """Which Ray: empty starts one on this machine, `auto` or an address joins one."""

    address: str = ""
    cpus: int = 0  # of a local Ray; 0: what the machine has
    gpus_per_rank: float = 1.0
    cpus_per_rank: float = 1.0
    learner_resource: str = ""  # Ray's name for what only nodes for ranks have; empty: any node
    start_seconds: float = 300.0  # limit for placement and for the learner group
    service_seconds: float = 120.0  # for a word of the media actor, a bucket of the weight store
    controller_restarts: int = 3  # with no new checkpoint in between
    controller_seconds: float = 120.0  # without an answer, after which it is started again

    def __post_init__(self):
        require(self.cpus >= 0, "cluster.cpus", self.cpus, "0 (all) or more")
        require(self.gpus_per_rank >= 0, "cluster.gpus_per_rank", self.gpus_per_rank, "0 or more")
        require(self.cpus_per_rank > 0, "cluster.cpus_per_rank", self.cpus_per_rank, "more than 0")
        for name in ("start_seconds", "service_seconds", "controller_seconds"):
            value = getattr(self, name)
            require(value > 0, f"cluster.{name}", value, "more than 0")
        restarts = self.controller_restarts
        require(restarts >= 0, "cluster.controller_restarts", restarts, "0 (never) or more")


@dataclass
class TrackingConfig:
    """MLflow: where its server or database is; the experiment; how many rollouts a table shows."""

    uri: str = ""  # empty: SQLite in the run's folder
    experiment: str = "o3rl"
    run_id: str = ""  # of the MLflow run that RL goes on with; empty: one of its own
    rollouts: int = 8  # per logged step, in the table and on the evidence page
    pages_every: int = 20  # steps
    model: bool = False  # whether the final model is copied there too

    def __post_init__(self):
        require(self.rollouts >= 0, "tracking.rollouts", self.rollouts, "0 or more")
        require(self.pages_every >= 1, "tracking.pages_every", self.pages_every, "1 or more")
