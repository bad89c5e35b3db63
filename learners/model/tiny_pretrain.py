"""Teaches the tiny model to see, as Qwen2.5-VL-7B does before anybody trains it to give evidence.

Scenes of the synthetic world are drawn directly. First the vision tower alone learns what is where
(`tiny_sight`); it is kept from then on. Then the language model learns to look: each scene is one
segment `[frames | lesson 1 | … ]`, every lesson attending to the frames and to itself; stills
before clips, one frame before two, four and eight, what a frame shows and which frames show a thing
before any task. Held-out combinations of colour, shape and path are never shown, and the tags of
thought and answer never written: those are for SFT to teach.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import AutoModelForImageTextToText, AutoProcessor

from learners.model.muon import Muon
from learners.model.tiny import build
from learners.model.tiny_gaze import Watched, gaze_loss, use
from learners.model.tiny_lessons import Glances, Lessons, Recipe
from learners.model.tiny_sight import PATCH, Heads, see

SAVED = 50  # steps between two saves
GAZE = 0.3  # weight of where to look, beside what to say


def pretrain(
    out: Path, recipe: Recipe, *, start: Path | None = None, resume: bool = False
) -> Iterator[dict[str, float]]:
    """Train into the folder `out`; yields the metrics of each step: loss, accuracy, rate.

    From random weights, or from the model in the folder `start`, which sees already. The state is
    saved every 50 steps and at the end; `resume` goes on from there, and raises ValueError if
    there is nothing saved.
    """
    state = out / "state.pt"
    if resume and not state.is_file():
        raise ValueError(f"{out} has no state.pt to go on from; its training ended or never began")
    if not resume:
        if start is None:
            build(out, seed=recipe.seed)
        else:
            shutil.copytree(start, out, dirs_exist_ok=True)
    model = AutoModelForImageTextToText.from_pretrained(out, dtype=torch.float32)
    model.train()
    saved = torch.load(state, weights_only=True) if resume else None
    if start is None and not (saved and saved["stage"] == "language"):
        yield from _sight(model, recipe, state, saved)
        model.save_pretrained(out)
        saved = None
    yield from _language(model, recipe, out, saved)
    state.unlink()
    legs = [*_legs(start), asdict(recipe)]
    (out / "pretrain.json").write_text(json.dumps({"recipes": legs}, indent=1) + "\n")


def _legs(start: Path | None) -> list[dict[str, Any]]:
    """The recipes by which the model at `start` was made."""
    written = start / "pretrain.json" if start else None
    return json.loads(written.read_text())["recipes"] if written and written.is_file() else []


def _sight(
    model: Any, recipe: Recipe, state: Path, saved: dict[str, Any] | None
) -> Iterator[dict[str, float]]:
    torch.manual_seed(recipe.seed)
    tower = model.model.visual
    pupil = torch.nn.ModuleDict(
        {"tower": tower, "heads": Heads(model.config.vision_config.out_hidden_size)}
    )
    course = _Course("sight", pupil, recipe, recipe.sight, state, saved)
    for step, (patches, cells, size) in course.batches(Glances(recipe)):
        tokens = see(tower, patches, size).flatten(0, 1)
        loss, right = pupil["heads"](tokens, cells.flatten(0, 1))
        told = course.learn(step, loss)
        yield told | {"accuracy": sum(right) / len(right), "done": step + 1}


def _language(
    model: Any, recipe: Recipe, out: Path, saved: dict[str, Any] | None
) -> Iterator[dict[str, float]]:
    processor = AutoProcessor.from_pretrained(out)
    pupil = model.model.language_model
    use(model)
    course = _Course("language", pupil, recipe, recipe.steps, out / "state.pt", saved)
    for step, batch in course.batches(Lessons(recipe, processor)):
        loss, gaze, right = lesson_loss(model, batch)
        told = course.learn(step, loss + GAZE * gaze) | {"loss": loss.item(), "gaze": gaze.item()}
        yield told | {"accuracy": right, "done": recipe.sight + step + 1}
        if (step + 1) % SAVED == 0 or step + 1 == recipe.steps:
            model.save_pretrained(out)


class _Course:
    """One stage of training: its optimizers, its rate, and what is saved to go on from."""

    def __init__(
        self,
        stage: str,
        pupil: torch.nn.Module,
        recipe: Recipe,
        steps: int,
        state: Path,
        saved: dict[str, Any] | None,
    ):
        self._stage, self._pupil, self._recipe = stage, pupil, recipe
        self._steps, self._state, self._first = steps, state, 0
        self._optimizers = build_optimizers(pupil)
        if saved is not None:
            pupil.load_state_dict(saved["pupil"])
            for optimizer, kept in zip(self._optimizers, saved["optimizers"], strict=True):
                optimizer.load_state_dict(kept)
            self._first = saved["step"]

    def batches(self, data: Dataset) -> Iterator[tuple[int, Any]]:
        """Step and batch of every step that is left, made ahead by a process of its own."""
        indices = range(self._first, self._steps)
        batches = DataLoader(
            data,
            batch_size=None,
            sampler=indices,  # pyright: ignore[reportArgumentType]
            num_workers=1,
            prefetch_factor=4,
        )
        return zip(indices, batches, strict=True)

    def learn(self, step: int, loss: Tensor) -> dict[str, float]:
        """One update by the gradient of `loss`."""
        rate = self._recipe.rate_at(step, self._steps)
        for group in (g for optimizer in self._optimizers for g in optimizer.param_groups):
            group["lr"] = rate
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self._pupil.parameters(), 1.0)
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if (step + 1) % SAVED == 0 or step + 1 == self._steps:
            self._save(step + 1)
        return {"step": step + 1, "loss": loss.item(), "rate": rate, "norm": float(norm)}

    def _save(self, step: int) -> None:
        saved = {
            "stage": self._stage,
            "pupil": self._pupil.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "step": step,
        }
        torch.save(saved, self._state.with_suffix(".part"))
        self._state.with_suffix(".part").replace(self._state)


def build_optimizers(pupil: torch.nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside, AdamW for embeddings, norms and biases.

    At this size Muon needs about a third of AdamW's steps to find the picture.
    """
    named = dict(pupil.named_parameters())
    inner = {n: p for n, p in named.items() if p.ndim == 2 and "embed_tokens" not in n}
    rest = [p for n, p in named.items() if n not in inner]
    return [
        Muon(inner.values()),
        torch.optim.AdamW(rest, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def lesson_loss(model: Any, batch: dict[str, Any]) -> tuple[Tensor, Tensor, float]:
    """Cross entropy of a batch's answers, that of where they look, share of right tokens.

    The tower is run without gradients: it has learned what it is to tell.
    """
    inner, ids = model.model, batch["ids"]
    with torch.no_grad():
        seen = see(inner.visual, batch["patches"], batch["size"])
        shown = ids == model.config.image_token_id
        positions = _positions(inner, batch, shown)
    watched: Watched = {}
    embedded = inner.get_input_embeddings()(ids).masked_scatter(shown[..., None], seen)
    hidden = inner.language_model(
        inputs_embeds=embedded,
        position_ids=positions,
        use_cache=False,
        shared_prefix=batch["layout"],
        watched=watched,
    ).last_hidden_state
    taught = batch["targets"] >= 0
    logits = model.lm_head(hidden[taught])
    truth = batch["targets"][taught]
    right = (logits.argmax(-1) == truth).float().mean().item()
    weights = batch["weights"][taught]
    said = torch.nn.functional.cross_entropy(logits, truth, reduction="none") @ weights
    return said / weights.sum(), gaze_loss(watched, batch, shown[0]), right


def _positions(inner: Any, batch: dict[str, Any], shown: Tensor) -> Tensor:
    """M-RoPE positions [3, 1, L]; each lesson goes on from the end of its opening."""
    ids, (wide, high) = batch["ids"], batch["size"]
    grid = [[1, high // PATCH, wide // PATCH]]
    positions = torch.zeros(3, *ids.shape, dtype=torch.long)
    for span, frames in zip(batch["layout"], batch["frames"], strict=True):
        opening = slice(span.start, span.prompt_end)
        places, _ = inner.get_rope_index(
            ids[:, opening],
            mm_token_type_ids=shown[:, opening].int(),
            image_grid_thw=torch.tensor(grid * frames),
        )
        positions[:, :, opening] = places
        turns = slice(span.prompt_end, span.end)
        positions[:, :, turns] = places.max() + batch["after"][:, turns]
    return positions
