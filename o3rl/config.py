"""The configuration: all sections as one tree, merged by OmegaConf, checked before anything starts.

`load` reads YAML over the defaults of `o3rl.sections` and `key=value` overrides over that. Unknown
keys, wrong types, values out of range and impossible combinations fail here by name, value and
rule, in a second and on a laptop: this module imports neither torch, Ray, vLLM nor MLflow.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from o3rl.choices import (
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
from o3rl.requirements import all_right, noted, require
from o3rl.sections import (
    WAIVABLE,
    Cluster,
    Data,
    Frames,
    Learning,
    Loop,
    Model,
    Rewards,
    Rollouts,
    Sampling,
    Sft,
    Tracking,
)

__all__ = [
    "RESOURCE_SHARE",
    "SCORER_CPUS",
    "WAIVABLE",
    "Cluster",
    "Data",
    "Frames",
    "Learning",
    "Loop",
    "Model",
    "Objective",
    "OldLogprobs",
    "Placement",
    "Profile",
    "PromptStyle",
    "Publish",
    "Rewards",
    "Rollouts",
    "Run",
    "Sampling",
    "Schedule",
    "Sft",
    "Spanning",
    "Tracking",
    "Transfer",
    "as_yaml",
    "check_combinations",
    "cpus_needed",
    "examine",
    "load",
    "require",
]

SCORER_CPUS = 0.1  # of one worker of the scorer pool
CONNECT_SECONDS = 330.0  # at most, for vLLM's engines and a rank, and for calls to be answered
RESOURCE_SHARE = 0.001  # of a node's `resource`, of which each rank or replica there takes so much


@dataclass
class Run:
    """Everything of a run. `folder` holds all that it makes."""

    name: str = "o3rl"
    folder: str = "runs/o3rl"
    seed: int = 0
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    frames: Frames = field(default_factory=Frames)
    sampling: Sampling = field(default_factory=Sampling)
    rewards: Rewards = field(default_factory=Rewards)
    learning: Learning = field(default_factory=Learning)
    rollouts: Rollouts = field(default_factory=Rollouts)
    loop: Loop = field(default_factory=Loop)
    sft: Sft = field(default_factory=Sft)
    cluster: Cluster = field(default_factory=Cluster)
    tracking: Tracking = field(default_factory=Tracking)

    def __post_init__(self):
        require(bool(self.name), "name", self.name, "a name")
        require(bool(self.folder), "folder", self.folder, "a folder")
        require(0 <= self.seed < 2**32, "seed", self.seed, "in [0, 2³²)")
        _check_finite(asdict(self))
        if all_right():  # combinations are of values that are right by themselves
            check_combinations(self)


def check_combinations(run: Run) -> None:
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
    if "wide_clip" not in learning.waive and learning.objective is Objective.gspo:
        require(
            learning.clip_high < 0.1,
            "learning.clip_high",
            learning.clip_high,
            "below 0.1 with GSPO (its paper: 4e-4): a sequence ratio hardly ever moves so far, and "
            "nothing would be clipped; learning.waive=[wide_clip] if that is meant",
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
            sampling.top_p == 1 and sampling.temperature == 1,
            "sampling.top_p, sampling.temperature",
            (sampling.top_p, sampling.temperature),
            "1 and 1: else samples come from another distribution than π_old, whatever "
            "learning.old_logprobs is: both records of it are of the whole distribution at T = 1; "
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


def _check_colocated(run: Run) -> None:
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


def _check_transfer(run: Run) -> None:
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
        (
            "rollouts.stand_in_seconds",
            rollouts.stand_in_seconds,
            not rollouts.stand_in_seconds,
            "0",
        ),
    ]
    if way is Transfer.nccl:
        most = rollouts.max_replicas
        rules += [
            ("rollouts.gpus, cluster.gpus_per_rank", gpus, whole, "1 or more each"),
            ("rollouts.max_replicas", most, most == 0, "0 (the pool stays as it is)"),
        ]
    for name, value, right, rule in rules:
        require(right, name, value, f"{rule} where rollouts.transfer is {way}")


def cpus_needed(run: Run) -> float:
    """The CPUs that the services of a training run ask Ray for."""
    learner = run.learning.ranks * run.cluster.cpus_per_rank
    sampler = run.rollouts.replicas * run.rollouts.cpus
    return learner + sampler + SCORER_CPUS * run.rewards.workers


def load(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Run:
    """Read YAML at `path` over the defaults, and `key=value` overrides over that.

    Raises ValueError with the file, the key, the value and the rule; FileNotFoundError if `path` is
    not there.
    """
    layers = [layer for _, layer in _layers(path, overrides)]
    try:
        run = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Run), *layers))
    except OmegaConfBaseException as error:
        raise ValueError(_in_words(error, path, overrides)) from error
    assert isinstance(run, Run)
    return run


def examine(path: str | Path, overrides: Sequence[str] = ()) -> tuple[Run | None, tuple[str, ...]]:
    """The run, None where it cannot be made, and all that is wrong: what `load` would raise first,
    what it would raise when that is mended, and so on.

    Raises ValueError where YAML or an override cannot be read at all, FileNotFoundError as `load`.
    """
    problems: list[str] = []
    right: list[Any] = [OmegaConf.structured(Run)]
    for where, layer in _layers(path, overrides):
        for leaf in _leaves(OmegaConf.to_container(layer, resolve=False)):
            try:
                OmegaConf.merge(right[0], leaf)
            except OmegaConfBaseException as error:
                problems.append(_in_words(error, where, ()))
            else:
                right.append(leaf)
    try:
        with noted() as wrong:
            run = OmegaConf.to_object(OmegaConf.merge(*right))
    except OmegaConfBaseException as error:  # an interpolation of what is not there
        return None, (*problems, _in_words(error, path, overrides))
    assert isinstance(run, Run)
    problems += wrong
    return (None if problems else run), tuple(problems)


def as_yaml(run: Run) -> str:
    """The whole configuration, defaults included, as YAML that `load` reads back."""
    return OmegaConf.to_yaml(OmegaConf.create(asdict(run)))


def _layers(path: str | Path | None, overrides: Sequence[str]) -> list[tuple[str, DictConfig]]:
    """The file and each override, and where it is from."""
    try:
        layers = [] if path is None else [(str(path), _from_file(Path(path)))]
        return layers + [(f"override {item!r}", _from_override(item)) for item in overrides]
    except OmegaConfBaseException as error:  # an interpolation that is none
        raise ValueError(_in_words(error, path, overrides)) from error


def _leaves(values: Any) -> Iterator[dict[str, Any]]:
    """The values one by one, each under its keys."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from ({key: inner} for inner in _leaves(value))
        else:
            yield {key: value}


def _in_words(error: Exception, where: str | Path | None, overrides: Sequence[str]) -> str:
    """Where, which key, what: in one line."""
    key = getattr(error, "full_key", None) or "configuration"
    said = [item for item in overrides if f"{item.split('=')[0]}.".startswith(f"{key}.")]
    where = f"override {said[-1]!r}" if said else where or "the command line"
    return f"{where}: {key}: {str(error).splitlines()[0]}"


def _from_file(path: Path) -> DictConfig:
    if not path.is_file():
        raise FileNotFoundError(
            f"no configuration at {path}; `o3rl configs` lists the shipped ones"
        )
    try:
        layer = OmegaConf.load(path)
    except (YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML: {_in_one_line(error)}") from error
    except OSError as error:  # OmegaConf's word for a file that holds one value, too
        raise ValueError(f"{path} cannot be read: {error}; it must hold key: value") from error
    if not isinstance(layer, DictConfig):
        raise ValueError(f"{path} holds a list; it must hold key: value")
    _check_sections(layer, str(path))
    return layer


def _from_override(item: str) -> DictConfig:
    if "=" not in item:
        raise ValueError(f"override {item!r} must read key=value, such as loop.steps=100")
    try:
        empty = not item.partition("=")[2]
        layer = OmegaConf.from_dotlist([f"{item}''" if empty else item])
    except YAMLError as error:
        raise ValueError(f"override {item!r} is no YAML: {_in_one_line(error)}") from error
    _check_sections(layer, f"override {item!r}")
    return layer


def _check_sections(layer: DictConfig, where: str) -> None:
    """A section given as a plain value, which OmegaConf refuses without its name."""
    sections = {each.name for each in fields(Run) if is_dataclass(each.default_factory)}
    for key, value in OmegaConf.to_container(layer, resolve=False).items():  # pyright: ignore
        if key in sections and not isinstance(value, dict):
            raise ValueError(f"{where}: {key} is {value!r}; it must be a section of key: value")


def _check_finite(values: dict[str, Any], prefix: str = "") -> None:
    for key, value in values.items():
        if isinstance(value, dict):
            _check_finite(value, f"{prefix}{key}.")
        elif isinstance(value, float):
            require(math.isfinite(value), f"{prefix}{key}", value, "finite")


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())
