"""TRL's side of `python -m tests.peers.trl`: steps of its GRPOTrainer with sequence-level ratios.

The setting is ours as near as it goes: same weights, prompts, group, lengths, float32, AdamW, one
update a batch, no KL, checkpointing. Generation is the trainer's own, by transformers; a reward
that costs nothing. Import this only where TRL is installed.
"""

from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from datasets import Dataset  # pyright: ignore[reportMissingImports]
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl import GRPOConfig, GRPOTrainer  # pyright: ignore[reportMissingImports]

from cluster.bench.fixtures import build_prompts, prompt_chat, rewards_of
from cluster.bench.random_models import Shape
from tests.peers.trl import StepSeconds


class _Timed(GRPOTrainer):
    """Notes how long sampling and scoring took, before each step's learning."""

    def __init__(self, **arguments: Any):
        self.seconds_prepared: list[float] = []
        super().__init__(**arguments)

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        started = perf_counter()
        found = super()._prepare_inputs(generation_batch)
        self.seconds_prepared.append(perf_counter() - started)
        return found


class _Whole(TrainerCallback):
    """Notes how long whole steps took."""

    def __init__(self):
        self.seconds: list[float] = []
        self._started = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._started = perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(perf_counter() - self._started)


def trl_steps(
    folder: Path, shape: Shape, *, repeats: int, micro_batch: int, out: Path
) -> list[StepSeconds]:
    """Seconds of `repeats` steps of one group, after one that is not counted.

    `micro_batch` completions go through the model at once; what the trainer writes goes to `out`.
    """
    whole = _Whole()
    passes = shape.group // micro_batch
    trainer = _Timed(
        model=AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32),
        reward_funcs=_reward,
        args=GRPOConfig(
            output_dir=str(out),
            max_steps=repeats + 1,
            per_device_train_batch_size=micro_batch,
            gradient_accumulation_steps=passes,
            num_generations=shape.group,
            max_completion_length=shape.completion,
            generation_kwargs={"min_new_tokens": shape.completion},
            importance_sampling_level="sequence",
            loss_type="grpo",
            beta=0.0,
            learning_rate=1e-6,
            optim="adamw_torch",
            gradient_checkpointing=True,
            gradient_checkpointing_kwargs={"use_reentrant": False},
            bf16=False,
            use_cpu=True,
            shuffle_dataset=False,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=_dataset(folder, shape, repeats + 1),
        processing_class=AutoProcessor.from_pretrained(folder, padding_side="left"),
        callbacks=[whole],
    )
    trainer.remove_callback(PrinterCallback)  # standard output is the report's
    trainer.train()
    name = "completions/min_length"
    lengths = {entry[name] for entry in trainer.state.log_history if name in entry}
    assert lengths == {float(shape.completion)}, lengths
    prepared = [
        sum(trainer.seconds_prepared[first : first + passes])
        for first in range(0, len(trainer.seconds_prepared), passes)
    ]
    steps = zip(whole.seconds, prepared, strict=True)
    return [StepSeconds(seconds, seconds - before) for seconds, before in steps][1:]


def _reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return rewards_of(completion_ids)


def _dataset(folder: Path, shape: Shape, count: int) -> Any:
    return Dataset.from_list(
        [
            {"prompt": prompt_chat(prompt), "images": [Image.fromarray(frame) for frame in frames]}
            for prompt, frames in build_prompts(folder, shape.prompt, count)
        ]
    )
