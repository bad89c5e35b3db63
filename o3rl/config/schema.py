"""The sections of the configuration: one dataclass each, its defaults, and the range of each field.

`o3rl.config` puts them together. A component receives its own section, never the whole tree. A
wrong value raises ValueError by name, value and rule. Imports nothing that takes time.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from o3rl.config.bounds import Section, bound
from o3rl.config.choices import (
    VLLM,
    Advantages,
    Aggregation,
    Correction,
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
    Truncated,
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
class ModelConfig(Section):
    """The policy: a Hugging Face folder or hub name of the Qwen2.5-VL family; `tiny` is shipped."""

    # What is trained.
    path: str = bound("Qwen/Qwen2.5-VL-7B-Instruct", text="a folder or a hub name")
    # Of the forward pass; masters are float32.
    dtype: str = bound("bfloat16", among=("float32", "bfloat16"))
    prompt_style: PromptStyle = PromptStyle.full  # how much the system prompt explains
    freeze_vision: bool = False  # the tower stays as it is
    lora_rank: int = bound(0, least=0, zero="off")  # 0: all parameters
    lora_alpha: int = bound(32, above=0)  # scale of the adapters
    gradient_checkpointing: bool = True  # activations are computed twice instead of kept


@dataclass
class DataConfig(Section):
    """Rows in Parquet, as `o3rl data import` writes them, and where their media lie."""

    train: str = bound("data/stgr-rl", text="a folder made by `o3rl data import`")  # rows of RL
    validation: str = ""  # empty: no validation
    validation_rows: int = bound(64, least=1)  # rows at most a validation
    media: str = "data/media"  # root; rows hold paths below it
    max_rows: int = bound(0, least=0, zero="all")  # 0: all
    task_weights: dict[str, float] = field(default_factory=dict)  # uses of a row an epoch; else 1

    def check(self) -> None:
        """See `Section.check`."""
        require_task_weights(self.task_weights, "data.task_weights")


@dataclass
class FramesConfig(Section):
    """Which frames the model sees, and how large: fps up to, count from-to, pixels a frame."""

    fps: float = bound(2.0, above=0)  # at most so many frames a second
    min_frames: int = 4  # of a short video
    max_frames: int = 16  # of a long one
    pixels: int = 128 * 28 * 28  # floor of a frame's area; the ceiling is 5 % above
    image_min_pixels: int = 4 * 28 * 28  # of a single image (visual QA)
    image_max_pixels: int = 256 * 28 * 28  # ceiling of a single image
    factor: int = bound(28, above=0)  # sides are multiples of it
    reader: FrameReader = FrameReader.auto  # which library reads videos
    # Processes that decode at the same time; 0: one for two cores, at most 8.
    readers: int = bound(0, least=0, zero="by the machine")
    # Limit per video, after which its reader is killed.
    decode_seconds: float = bound(60.0, above=0)
    cache_mib: int = bound(512, above=0)  # of decoded frames, on the node that decodes

    def check(self) -> None:
        """See `Section.check`."""
        least, most = self.min_frames, self.max_frames
        require(2 <= least <= most, "frames.min_frames", least, f"2 to frames.max_frames ({most})")
        names = "frames.min_frames, frames.max_frames"
        require(least % 2 == 0 and most % 2 == 0, names, (least, most), "even")
        patch = self.factor**2
        rule = f"at least one patch of {self.factor}² px"
        require(self.pixels >= patch, "frames.pixels", self.pixels, rule)
        few, many = self.image_min_pixels, self.image_max_pixels
        rule = f"{self.factor}² px to frames.image_max_pixels ({many})"
        require(patch <= few <= many, "frames.image_min_pixels", few, rule)


@dataclass
class SamplingConfig(Section):
    """How rollouts are sampled. Without truncation: the learner's distribution, at any T."""

    group_size: int = bound(8, least=2, why="else advantages are all zero")  # completions a prompt
    temperature: float = bound(1.0, above=0)  # of sampling
    top_p: float = bound(1.0, above=0, most=1)  # 1: the whole distribution
    max_tokens: int = bound(768, above=0)  # of a completion
    max_prompt_tokens: int = bound(16384, above=0)  # longer prompts are set aside


@dataclass
class RewardsConfig(Section):
    """The reward: profile, weights of its parts, the curriculum, the pool that computes it."""

    profile: Profile = Profile.paper  # which reading of the paper, see docs/rewards.md
    weights: dict[str, float] = field(default_factory=dict)  # by part name; 1 where not named
    sigma_start: float = 4.0  # seconds
    sigma_end: float = 1.0  # seconds
    # Share of the run after which σ stays at its end.
    sigma_end_at: float = bound(0.75, least=0, most=1)
    gate_seconds: float = bound(3.0, above=0)  # τ
    gate: bool = True  # boxes count only where their time is right
    workers: int = bound(1, least=1)  # processes that score
    seconds: float = bound(10.0, above=0)  # limit per completion
    custom: dict[str, str] = field(default_factory=dict)  # own parts: name → module:function
    custom_errors: int = bound(3, least=1)  # distinct exceptions of custom parts that end the run

    def check(self) -> None:
        """See `Section.check`."""
        most, least = self.sigma_start, min(self.weights.values(), default=0.0)
        rule = f"in (0, rewards.sigma_start = {most}]"
        require(0 < self.sigma_end <= most, "rewards.sigma_end", self.sigma_end, rule)
        require(least >= 0, "rewards.weights", self.weights, "0 or more each")
        for name, target in self.custom.items():
            key = f"rewards.custom.{name}"
            require(name not in PARTS, key, target, f"named unlike a built-in part ({name} is one)")
            require(names_member(target), key, target, "module:function")
        known = [*PARTS, *self.custom]
        for name, weight in self.weights.items():
            require(
                name in known, f"rewards.weights.{name}", weight, f"the weight of one of {known}"
            )


CLIPS = {  # below and above 1, where `learning.clip_low` and `clip_high` are null
    Objective.gspo: (3e-4, 4e-4),
    Objective.gspo_token: (3e-4, 4e-4),
    Objective.grpo: (0.2, 0.2),
    Objective.cispo: (1.0, 4.0),  # no bound below; above as ScaleRL's
}
MOST_CISPO = 10.0
WAIVABLE = {"clip_noise", "wide_clip", "ratio_one", "truncated_sampling"}


@dataclass
class LearningConfig(Section):
    """The update: objective, clip, optimiser, how a batch is cut, how its ranks share it."""

    objective: Objective = Objective.gspo  # see docs/objectives.md
    clip_low: float | None = None  # 1 − this: the least ratio; null: as the objective has it
    clip_high: float | None = None  # 1 + this: the largest; null: as the objective has it
    aggregation: Aggregation = Aggregation.sequence_mean  # of losses of tokens and sequences
    waive: list[str] = field(default_factory=list)  # rules of WAIVABLE broken on purpose
    # Β of the k3 penalty to the starting model; 0: no reference model is kept.
    kl: float = bound(0.0, least=0, zero="off")
    old_logprobs: OldLogprobs = OldLogprobs.sampler  # whose record of π_old
    correction: Correction = Correction.sequence  # of a recomputed π_old, to the sampler's
    mini_batches: int = bound(4, least=1)  # updates a batch
    rate: float = bound(1e-6, above=0)  # at its highest
    schedule: Schedule = Schedule.cosine  # of the rate over a run
    warmup: int = bound(0, least=0)  # batches
    weight_decay: float = bound(0.01, least=0)  # of matrices, by AdamW; norms and biases have none
    beta1: float = bound(0.9, least=0, below=1)  # AdamW's
    beta2: float = bound(0.999, least=0, below=1)  # AdamW's
    eps: float = bound(1e-8, above=0)  # AdamW's
    max_grad_norm: float = bound(1.0, above=0)  # larger gradients are scaled down to it
    max_skipped: int = bound(8, least=1)  # steps in a row without a finite gradient: the end
    ranks: int = bound(1, least=1)  # processes that learn together
    zero: int = bound(2, among=(2, 3))  # stage of ZeRO
    optimizer_offload: bool = False  # AdamW and its states on the host
    # The longest [prompt + completions] run through the model at once.
    tokens_per_pass: int = bound(17152, above=0)
    # Of logits held at once, in float32; as much again for their softmax.
    logits_mib: int = bound(512, above=0)
    publish: Publish = Publish.full  # whole weights, or what changed
    permute_advantages: bool = False  # a control: shuffled over the batch they must teach nothing
    seconds: float = bound(1800.0, above=0)  # limit for one update

    def check(self) -> None:
        """See `Section.check`."""
        cuts = self.objective is Objective.cispo  # weights: 1 below is no bound
        rule = f"in (0, {MOST_CISPO:g}] or null" if cuts else "in (0, 1) or null"
        for name, value in (("clip_low", self.clip_low), ("clip_high", self.clip_high)):
            right = value is None or (0 < value <= MOST_CISPO if cuts else 0 < value < 1)
            require(right, f"learning.{name}", value, rule)
        unknown = sorted(set(self.waive) - WAIVABLE)
        require(not unknown, "learning.waive", unknown, f"of {sorted(WAIVABLE)}")

    @property
    def clip(self) -> tuple[float, float]:
        """How far below and above 1 a ratio counts."""
        low, high = CLIPS[self.objective]
        return self.clip_low or low, self.clip_high or high


@dataclass
class RolloutsConfig(Section):
    """The pool of rollout replicas, one engine each."""

    engine: str = VLLM  # or a class of yours, module:Class, with what `actors.engine.engine` offers
    replicas: int = bound(1, least=1)  # to begin with
    min_replicas: int = 1  # fewer end the run
    max_replicas: int = 0  # 0: the number changes by `o3rl scale` only; else by who waits for whom
    scale_after: int = bound(3, least=1)  # steps in a row that ask for it
    cpus: float = bound(1.0, above=0)  # per replica
    gpus: float = bound(1.0, least=0)  # per replica; 0 on a machine without
    resource: str = ""  # Ray's name for what only nodes for replicas have; empty: any node
    placement: Placement = Placement.separate  # GPUs of their own, or shared with the learner
    transfer: Transfer = Transfer.object_store  # of weights to replicas
    tensor_parallel: int = bound(1, least=1)  # GPUs that share one engine
    memory_share: float = bound(0.85, above=0, below=1)  # of a GPU, weights included
    kv_cache_gib: int = bound(1, above=0)  # on CPU
    max_model_tokens: int = bound(20480, above=0)  # of prompt and completion
    max_batched_tokens: int = bound(4096, above=0)  # in one pass of the engine
    # At once in an engine; the rest wait in it, oldest first.
    max_sequences: int = bound(256, above=0)
    enforce_eager: bool = False  # without CUDA graphs
    start_seconds: float = bound(900.0, above=0)  # limit for the start of one
    seconds: float = bound(600.0, above=0)  # limit for one group
    load_seconds: float = bound(300.0, above=0)  # limit for one weight update
    spanning: Spanning = Spanning.keep  # what becomes of completions that began under older weights
    # For the prompts of a replica that leaves; then tried elsewhere.
    leave_seconds: float = bound(60.0, above=0)

    def check(self) -> None:
        """See `Section.check`."""
        replicas, least, most = self.replicas, self.min_replicas, self.max_replicas
        rule = f"1 to rollouts.replicas ({replicas})"
        require(1 <= least <= replicas, "rollouts.min_replicas", least, rule)
        rule = f"0 (fixed), or rollouts.replicas ({replicas}) or more"
        require(most == 0 or most >= replicas, "rollouts.max_replicas", most, rule)
        own = self.engine == VLLM or names_member(self.engine)
        require(own, "rollouts.engine", self.engine, f"{VLLM} or module:Class")
        count, most = self.max_sequences, self.max_batched_tokens
        require(count <= most, "rollouts.max_sequences", count, f"up to max_batched_tokens, {most}")


@dataclass
class LoopConfig(Section):
    """How long, how large, how old: a batch is `groups` prompts, and a step trains one batch."""

    groups: int = bound(64, least=1)  # prompts a batch
    steps: int = bound(0, least=0, zero="by epochs")  # 0: as many as `epochs` need
    epochs: int = bound(1, least=1)  # over the rows, where steps is 0
    min_group: int = bound(2, least=2, why="one has no spread")  # surviving siblings a group needs
    advantages: Advantages = Advantages.scaled  # from a group's rewards
    # Groups without spread, one after another, that give their place in a batch to the next prompt.
    refill_zero_spread: int = bound(0, least=0, zero="they are trained")
    truncated: Truncated = Truncated.scored  # what a completion without an end is worth
    soft_tokens: int = bound(128, least=1)  # the last of sampling.max_tokens: dear, if penalised
    max_attempts: int = bound(3, least=1)  # per prompt, before it is set aside and reported
    # Versions; 0: synchronous, and reproducible.
    max_staleness: int = bound(1, least=0, most=16, zero="synchronous")
    # That the learner waits for what would grow too old.
    straggler_seconds: float = bound(60.0, above=0)
    validate_every: int = bound(50, least=0, zero="never")  # steps; 0: never
    checkpoint_every: int = bound(100, least=1)  # steps
    keep_checkpoints: int = bound(2, least=1)  # older ones are removed

    def check(self) -> None:
        """See `Section.check`."""
        require(
            self.max_staleness > 0 or self.refill_zero_spread <= 1,
            "loop.refill_zero_spread",
            self.refill_zero_spread,
            "0 or 1 with loop.max_staleness=0: with more, whose place a prompt takes would depend "
            "on which group is ready first, and the run could not be repeated",
        )


@dataclass
class SftConfig(Section):
    """The cold start: rows with reasoning, assistant tokens only."""

    start: str = ""  # the model it starts from; empty: model.path
    rows: str = "data/stgr-sft"  # a folder made by `o3rl data import`
    task_weights: dict[str, float] = field(default_factory=dict)  # as data.task_weights
    epochs: int = bound(1, least=1)  # where steps is 0
    steps: int = bound(0, least=0, zero="by epochs")  # 0: by epochs
    batch: int = bound(8, least=1)  # rows a step, over all ranks
    rate: float = bound(1e-6, above=0)  # at its highest
    schedule: Schedule = Schedule.linear  # of the rate
    warmup: int = bound(0, least=0)  # steps
    weight_decay: float = bound(0.0, least=0)  # of matrices, by AdamW
    max_grad_norm: float = bound(5.0, above=0)  # larger gradients are scaled down to it
    # There is no engine beside it; 0: as cluster.cpus_per_rank.
    cpus_per_rank: float = bound(0.0, least=0)
    checkpoint_every: int = bound(500, least=0, zero="never")  # steps; 0: never
    keep_checkpoints: int = bound(2, least=1)  # older ones are removed

    def check(self) -> None:
        """See `Section.check`."""
        require_task_weights(self.task_weights, "sft.task_weights")


@dataclass
class ClusterConfig(Section):
    """Which Ray: empty starts one on this machine, `auto` or an address joins one."""

    address: str = ""  # empty: a Ray of the run's own
    cpus: int = bound(0, least=0, zero="all")  # of a local Ray; 0: what the machine has
    gpus_per_rank: float = bound(1.0, least=0)  # 0 on a machine without
    cpus_per_rank: float = bound(1.0, above=0)  # of a learning rank
    learner_resource: str = ""  # Ray's name for what only nodes for ranks have; empty: any node
    start_seconds: float = bound(300.0, above=0)  # limit for placement and for the learner group
    # For a word of the media actor, a bucket of the weight store.
    service_seconds: float = bound(120.0, above=0)
    controller_restarts: int = bound(3, least=0, zero="never")  # with no new checkpoint in between
    # Without an answer, after which it is started again.
    controller_seconds: float = bound(120.0, above=0)


@dataclass
class TrackingConfig(Section):
    """MLflow: where its server or database is; the experiment; how many rollouts a table shows."""

    uri: str = ""  # empty: SQLite in the run's folder
    experiment: str = "o3rl"  # its name in MLflow
    run_id: str = ""  # of the MLflow run that RL goes on with; empty: one of its own
    rollouts: int = bound(8, least=0)  # per logged step, in the table and on the evidence page
    pages_every: int = bound(20, least=1)  # steps
    model: bool = False  # whether the final model is copied there too
