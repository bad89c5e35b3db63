"""The configuration: all sections as one tree, merged by OmegaConf, checked before anything starts.

Nothing here imports torch, Ray, vLLM or MLflow.
"""

from o3rl.config.choices import (
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
from o3rl.config.load import as_yaml, examine, load
from o3rl.config.require import require
from o3rl.config.run import RESOURCE_SHARE, SCORER_CPUS, Run, check_combinations, cpus_needed
from o3rl.config.schema import (
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
