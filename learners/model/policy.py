"""The policy as the learner holds it: an ordinary Hugging Face model and its processor.

Loading is `from_pretrained` of a path or hub name, for the tiny model as for the 7B. Adapters are
injected in place, so the policy stays the plain model class; what leaves the learner (`export`)
has them merged, under the plain names.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import LoraConfig
from torch import nn
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, ProcessorMixin

from o3rl.config import ModelConfig

ADAPTED = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


def load_policy(model: ModelConfig) -> PreTrainedModel:
    """The model in its forward dtype, with `requires_grad` set on just what is trained.

    With `lora_rank` only the adapters of the language model train; with `freeze_vision` the vision
    tower does not. Float32 masters are the optimiser's. Adapters start from torch's random state.
    """
    policy = AutoModelForImageTextToText.from_pretrained(
        model.path, dtype=getattr(torch, model.dtype)
    )
    if model.freeze_vision:
        vision_tower(policy).requires_grad_(False)
    if model.lora_rank:
        policy.add_adapter(
            LoraConfig(r=model.lora_rank, lora_alpha=model.lora_alpha, target_modules=ADAPTED)
        )
    if model.gradient_checkpointing:
        policy.gradient_checkpointing_enable({"use_reentrant": False})
    return policy.train()


def load_processor(model: ModelConfig) -> ProcessorMixin:
    """Tokenizer, chat template and image processor of the model's folder or hub name."""
    return AutoProcessor.from_pretrained(model.path)


def vision_tower(policy: PreTrainedModel) -> nn.Module:
    """The module that turns pixels into image tokens."""
    return policy.get_submodule("model.visual")


def is_vision_frozen(policy: PreTrainedModel) -> bool:
    """Whether nothing of the vision tower is trained."""
    return not any(parameter.requires_grad for parameter in vision_tower(policy).parameters())


def trained_parameters(policy: nn.Module) -> list[nn.Parameter]:
    """What the optimiser owns, in the model's order."""
    return [parameter for parameter in policy.parameters() if parameter.requires_grad]


@contextmanager
def without_adapters(policy: PreTrainedModel) -> Iterator[None]:
    """The model as it was before its adapters learned anything."""
    policy.disable_adapters()
    try:
        yield
    finally:
        policy.enable_adapters()
