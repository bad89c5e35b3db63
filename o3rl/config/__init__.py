"""The configuration: all sections as one tree, merged by OmegaConf, checked before anything starts.

Nothing here imports torch, Ray, vLLM or MLflow.
"""

from o3rl.config.choices import (
    VLLM,
    Advantages,
    Aggregation,
    Correction,
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
from o3rl.config.load import as_yaml, examine, load
from o3rl.config.require import require
from o3rl.config.run import (
    RESOURCE_SHARE,
    SCORER_CPUS,
    RunConfig,
    check_combinations,
    cpus_needed,
    user_code,
)
from o3rl.config.schema import (
    WAIVABLE,
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

__all__ = [
    "RESOURCE_SHARE",
    "SCORER_CPUS",
    "VLLM",
    "WAIVABLE",
    "Advantages",
    "Aggregation",
    "ClusterConfig",
    "Correction",
    "DataConfig",
    "FramesConfig",
    "LearningConfig",
    "LoopConfig",
    "ModelConfig",
    "Objective",
    "OldLogprobs",
    "Placement",
    "Profile",
    "PromptStyle",
    "Publish",
    "RewardsConfig",
    "RolloutsConfig",
    "RunConfig",
    "SamplingConfig",
    "Schedule",
    "SftConfig",
    "Spanning",
    "TrackingConfig",
    "Transfer",
    "Truncated",
    "as_yaml",
    "check_combinations",
    "cpus_needed",
    "examine",
    "load",
    "require",
    "user_code",
]
