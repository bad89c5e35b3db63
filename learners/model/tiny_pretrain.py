"""Teaches the tiny model to see, as Qwen2.5-VL-7B does before anybody trains it to give evidence.

Scenes of the synthetic world are drawn directly, and each is one pass: `[frames | lesson 1 | … ]`,
every lesson attending to the frames and to itself. First still images (where is what), then clips
(in which frame, when, which way). Held-out combinations of colour, shape and path are never shown,
and the tags of thought and answer never written: those are for SFT to teach.
"""

import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from transformers import AutoModelForImageTextToText, AutoProcessor

from learners.model.muon import Muon
from learners.model.tiny import build_tiny
from o3rl.config import FramesConfig, PromptStyle
from o3rl.media.frame_plan import smart_size
from o3rl.synth.questions import lessons
from o3rl.synth.world import Scene, draw, random_picture, random_scene, split_combinations
from o3rl.text.boxes import ABSOLUTE
from o3rl.text.prompts import messages, with_boxes
from o3rl.types import FramePlan, Row, Task, Truth

FRAMES = FramesConfig(min_frames=4, max_frames=8, pixels=16 * 28 * 28)
LESSONS = 6  # of one scene in a pass
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How long and how fast: steps, scenes a step, learning rate with warm-up and linear end."""

    steps: int = 3400
    stills: int = 700  # first steps, on still images only
    scenes: int = 8  # clips; of still images twice as many
    rate: float = 4e-3
    warmup: int = 50
    decay: float = 0.4  # share of the steps at the end over which the rate falls to zero
    seed: int = 0

    def rate_at(self, step: int) -> float:
        """The learning rate of `step`, from 0."""
        left = (self.steps - step) / (self.decay * self.steps)
        return self.rate * min((step + 1) / self.warmup, 1.0, left)


class Lessons(Dataset):
    """Pass `i` of a run: tokens, pixels, mask and targets of `recipe.scenes` scenes."""

    def __init__(self, recipe: Recipe, processor: Any):
        self._recipe = recipe
        self._processor = processor
        self._combinations, _ = split_combinations()

    def __len__(self) -> int:
        return self._recipe.steps

    def __getitem__(self, step: int) -> dict[str, Any]:
        rng = Random(f"{self._recipe.seed}/{step}")
        stills = step < self._recipe.stills or rng.random() < 0.15
        count = self._recipe.scenes * (2 if stills else 1)
        packs = []
        while len(packs) < count:
            make = random_picture if stills else random_scene
            scene = make(rng, self._combinations)
            packs.append(self._pack(rng, scene))
        return collate(packs, self._processor.tokenizer.pad_token_id)

    def _pack(self, rng: Random, scene: Scene) -> dict[str, Any]:
        size = smart_size(*scene.size, FRAMES)
        times = scene.times(FRAMES.max_frames) if scene.frames > 1 else (0.0,)
        duration = scene.duration if scene.frames > 1 else 0.0
        plan = FramePlan(tuple(range(len(times))), times, size, duration)
        noise = np.random.default_rng(rng.randrange(2**32))
        frames = [_picture(scene, time, size, noise) for time in times]
        every = lessons(rng, scene)
        chosen = rng.sample(every, min(LESSONS, len(every)))
        turns = [self._turn(plan, lesson) for lesson in chosen]
        opening = turns[0][0]
        vision = self._processor.image_processor(images=frames, return_tensors="pt")
        tokens = [self._tokens(rest + answer) for _, rest, answer in turns]
        asked = [len(self._tokens(rest)) for _, rest, _ in turns]
        per_image = vision["image_grid_thw"].prod(1) // 4
        return {
            "opening": self._expand(opening, per_image.tolist()),
            "turns": tokens,
            "asked": asked,
            "pixel_values": vision["pixel_values"],
            "image_grid_thw": vision["image_grid_thw"],
        }

    def _turn(self, plan: FramePlan, lesson: tuple[str, str, Task | None]) -> tuple[str, str, str]:
        """(what all lessons of the scene share, the question's own part, the answer)."""
        question, answer, task = lesson
        row = Row("", task or Task.MCQ, "", question, "", Truth(""))
        chat = messages(row, plan, style=PromptStyle.brief, convention=ABSOLUTE)
        if task is None:
            chat[0]["content"][-1]["text"] = question
        text = self._processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        start = text.rindex(question)
        said = with_boxes(answer, plan.size, convention=ABSOLUTE)
        return text[:start], text[start:], f"{said}<|im_end|>"

    def _tokens(self, text: str) -> list[int]:
        return self._processor.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _expand(self, opening: str, per_image: list[int]) -> list[int]:
        pad = self._processor.image_token_id
        counts = iter(per_image)
        out: list[int] = []
        for token in self._tokens(opening):
            out += [token] * (next(counts) if token == pad else 1)
        return out


def collate(packs: list[dict[str, Any]], pad: int) -> dict[str, Any]:
    """Pad packs to one length L: ids, targets [B, L]; mask [B, 1, L, L]; what positions need."""
    lengths = [len(p["opening"]) + sum(map(len, p["turns"])) for p in packs]
    longest = max(lengths)
    ids = torch.full((len(packs), longest), pad)
    targets = torch.full((len(packs), longest), -100)
    mask = torch.eye(longest, dtype=torch.bool).repeat(len(packs), 1, 1)
    after = torch.zeros(len(packs), longest, dtype=torch.long)  # place in the turn, from 1
    for b, pack in enumerate(packs):
        opening = len(pack["opening"])
        ids[b, :opening] = torch.tensor(pack["opening"])
        mask[b, :opening, :opening] = torch.ones(opening, opening, dtype=torch.bool).tril()
        at = opening
        for turn, asked in zip(pack["turns"], pack["asked"], strict=True):
            end = at + len(turn)
            ids[b, at:end] = torch.tensor(turn)
            targets[b, at + asked - 1 : end - 1] = torch.tensor(turn[asked:])
            mask[b, at:end, :opening] = True
            mask[b, at:end, at:end] = torch.ones(len(turn), len(turn), dtype=torch.bool).tril()
            after[b, at:end] = torch.arange(1, len(turn) + 1)
            at = end
    return {
        "ids": ids,
        "targets": targets,
        "mask": mask[:, None],
        "after": after,
        "openings": [len(p["opening"]) for p in packs],
        "pixel_values": torch.cat([p["pixel_values"] for p in packs]),
        "image_grid_thw": torch.cat([p["image_grid_thw"] for p in packs]),
    }


def pretrain(
    out: Path, recipe: Recipe, *, start: Path | None = None, resume: bool = False
) -> Iterator[dict[str, float]]:
    """Train into the folder `out`; yields the metrics of each step: loss, token accuracy, rate.

    From random weights, or from the model in the folder `start`. The state is saved every 500 steps
    and at the end; `resume` goes on from there, and raises ValueError if there is nothing saved.
    """
    state = out / "state.pt"
    if resume and not state.is_file():
        raise ValueError(f"{out} has no state.pt to go on from; its training ended or never began")
    if not resume:
        if start is None:
            build_tiny(out, seed=recipe.seed)
        else:
            shutil.copytree(start, out, dirs_exist_ok=True)
    processor = AutoProcessor.from_pretrained(out)
    model = AutoModelForImageTextToText.from_pretrained(out, dtype=torch.float32)
    model.train()
    optimizers = build_optimizers(model)
    first = 0
    if resume:
        saved = torch.load(state, weights_only=True)
        model.load_state_dict(saved["model"])
        for optimizer, kept in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        first = saved["step"]
    indices = range(first, recipe.steps)
    batches = DataLoader(
        Lessons(recipe, processor),
        batch_size=None,
        sampler=indices,  # pyright: ignore[reportArgumentType]
        num_workers=1,
        prefetch_factor=4,
    )
    for step, batch in zip(indices, batches, strict=True):
        for group in (g for optimizer in optimizers for g in optimizer.param_groups):
            group["lr"] = recipe.rate_at(step)
        loss, right = _loss(model, batch)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if (step + 1) % 500 == 0 or step + 1 == recipe.steps:
            model.save_pretrained(out)
            torch.save(
                {
                    "model": model.state_dict(),
                    "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                    "step": step + 1,
                },
                state,
            )
        yield {
            "step": step + 1,
            "loss": loss.item(),
            "accuracy": right,
            "rate": recipe.rate_at(step),
            "norm": float(norm),
        }
    state.unlink()
    legs = [*_legs(start), asdict(recipe)]
    (out / "pretrain.json").write_text(json.dumps({"recipes": legs}, indent=1) + "\n")


def _legs(start: Path | None) -> list[dict[str, Any]]:
    """The recipes by which the model at `start` was made."""
    written = start / "pretrain.json" if start else None
    return json.loads(written.read_text())["recipes"] if written and written.is_file() else []


def build_optimizers(model: torch.nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside, AdamW for embeddings, norms and biases.

    At this size Muon needs about a third of AdamW's steps to find the picture.
    """
    named = dict(model.named_parameters())
    inner = {n: p for n, p in named.items() if p.ndim == 2 and "embed_tokens" not in n}
    rest = [p for n, p in named.items() if n not in inner]
    return [
        Muon(inner.values()),
        torch.optim.AdamW(rest, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def _loss(model: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, float]:
    ids, after = batch["ids"], batch["after"]
    pad_id = model.config.image_token_id
    opening = torch.zeros_like(ids, dtype=torch.bool)
    for b, length in enumerate(batch["openings"]):
        opening[b, :length] = True
    kinds = (ids == pad_id).int()
    positions, _ = model.model.get_rope_index(
        ids,
        mm_token_type_ids=kinds,
        image_grid_thw=batch["image_grid_thw"],
        attention_mask=opening.long(),
    )
    reach = (positions * opening).amax((0, 2))  # the opening's last position, per scene
    positions = torch.where(opening, positions, reach[None, :, None] + after)
    hidden = model.model(
        input_ids=ids,
        attention_mask={"full_attention": batch["mask"]},
        position_ids=positions,
        mm_token_type_ids=kinds,
        pixel_values=batch["pixel_values"],
        image_grid_thw=batch["image_grid_thw"],
        use_cache=False,
    ).last_hidden_state
    taught = batch["targets"] >= 0
    logits = model.lm_head(hidden[taught])
    truth = batch["targets"][taught]
    right = (logits.argmax(-1) == truth).float().mean().item()
    return torch.nn.functional.cross_entropy(logits, truth), right


def _picture(
    scene: Scene, time: float, size: tuple[int, int], noise: np.random.Generator
) -> Image.Image:
    """A frame as decoding gives it: resized, with a little of a codec's noise."""
    pixels = np.asarray(draw(scene, time).resize(size, Image.Resampling.BICUBIC), np.float32)
    rough = pixels + noise.normal(0, 3.0, pixels.shape)
    return Image.fromarray(rough.clip(0, 255).astype(np.uint8))
