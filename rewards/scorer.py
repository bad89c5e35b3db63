"""The scorer: one completion against the truth of its row, by named parts. No Ray here.

Every part is always named, 0 where its task has none. Nothing that a model writes makes it raise.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from o3rl.config import RewardsConfig
from o3rl.text.boxes import ABSOLUTE, BoxConvention, box_iou
from o3rl.text.grammar import answer_of, thought_of, time_mentions
from o3rl.types import PARTS, Claim, KeyFrame, Reward, Task, Truth
from rewards.parts import answer
from rewards.parts.claims import (
    MET_IOU,
    Judged,
    Stated,
    nearest,
    recall,
    recall_key_frames,
    stated_boxes,
    stated_claims,
)
from rewards.parts.format import TEMPORAL
from rewards.parts.thinking import mentioned_times, point, sigma
from rewards.profiles import profile_of


@dataclass(slots=True)
class _Sheet:
    """What one completion has earned so far."""

    parts: dict[str, float]
    metrics: dict[str, float]
    notes: list[str]
    claims: tuple[Claim, ...] = ()


class Scorer:
    """Scores completions by one profile."""

    def __init__(self, rewards: RewardsConfig):
        self._rewards = rewards
        self._profile = profile_of(rewards)

    def score(
        self,
        task: Task | str,
        text: str,
        *,
        truth: Truth,
        progress: float,
        frame_size: tuple[int, int],
        convention: BoxConvention = ABSOLUTE,
        seen: Sequence[float] = (),
    ) -> Reward:
        """The reward of `text` at progress p in [0, 1].

        `frame_size` is that of the resized frame that the model saw, in pixels; `convention` says
        how the model writes boxes on it; `seen` are the times of the frames of a video that it saw,
        by which `strict` judges cited times (none: not known). A truth that lacks what the task
        needs gives that part 0 with a note. Metrics, where the task has it: `point_sigma1` (at
        σ = 1 s), `recall`, `recall_key_frames`, `gate_pass` (share of claims, where there are any),
        `claims`, `has_claim`. Raises ValueError for an unknown task.
        """
        task = Task(task)
        sheet = _Sheet(dict.fromkeys(PARTS, 0.0), {}, [])
        written, thought = answer_of(text), thought_of(text)
        sheet.notes += ["no answer"] if written is None else []
        sheet.notes += ["no thought"] if thought is None else []
        self._answer(sheet, task, written or "", truth, frame_size, convention)
        self._times(sheet, task, thought or "", truth, progress, seen)
        self._claims(sheet, task, thought or "", truth, frame_size, convention)
        if thought is None or written is None:
            sheet.parts["thk_spatial"] = 0.0
        sheet.parts["format"] = self._profile.format(
            task, text, seen, has_named_box=self._profile.has_named_box
        )
        total = weighted(sheet.parts, self._rewards.weights)
        return Reward(sheet.parts, total, sheet.claims, sheet.metrics, tuple(sheet.notes))

    def _answer(
        self,
        sheet: _Sheet,
        task: Task,
        written: str,
        truth: Truth,
        size: tuple[int, int],
        convention: BoxConvention,
    ) -> None:
        parts = sheet.parts
        if task in (Task.FREE_FORM, Task.TEMPORAL_SPATIAL):
            parts["ans_acc"] = self._profile.text(written, truth.text)
        if task in (Task.MCQ, Task.TEMPORAL_MCQ):
            if truth.letter is None:
                sheet.notes.append("truth has no option letter")
            elif task is Task.MCQ:
                parts["ans_acc"] = answer.option(written, truth.letter)
            else:
                parts["ans_acc"] = self._profile.marked(written, truth.letter)
        if task in TEMPORAL:
            if truth.interval is None:
                sheet.notes.append("truth has no interval")
            else:
                parts["ans_tiou"] = answer.interval(written, truth.interval)
        if task is Task.VISUAL:
            if truth.box is None:
                sheet.notes.append("truth has no box")
            else:
                boxes = self._profile.boxes(written)
                parts["ans_viou"] = answer.box(boxes, truth.box, size=size, convention=convention)

    def _times(
        self,
        sheet: _Sheet,
        task: Task,
        thought: str,
        truth: Truth,
        progress: float,
        seen: Sequence[float],
    ) -> None:
        times = mentioned_times(thought)
        if not times and time_mentions(thought):
            sheet.notes.append("a time mention is no number: none counts")
        if task in TEMPORAL and truth.interval is not None:
            inside = self._profile.segment(times, truth.interval, seen)
            sheet.parts["thk_temporal_segment"] = inside
        if task is Task.TEMPORAL_SPATIAL:
            key_times = [frame.time for frame in truth.key_frames]
            width = sigma(progress, self._rewards)
            sheet.parts["thk_temporal_point"] = self._profile.point(times, key_times, width, seen)
            sheet.metrics["sigma"] = width
            sheet.metrics["point_sigma1"] = point(times, key_times, 1.0)

    def _claims(
        self,
        sheet: _Sheet,
        task: Task,
        thought: str,
        truth: Truth,
        size: tuple[int, int],
        convention: BoxConvention,
    ) -> None:
        if task is Task.VISUAL:
            self._visual(sheet, thought, truth, size, convention)
            return
        claims, broken = stated_claims(
            thought, self._profile.lists, size=size, convention=convention
        )
        if broken:
            sheet.notes.append(f"{broken} claims do not parse")
        if task is Task.TEMPORAL_SPATIAL and truth.key_frames:
            self._spatial(sheet, claims, thought, truth)
            return
        if task is Task.TEMPORAL_SPATIAL:
            sheet.notes.append("truth has no key frames")
        sheet.claims = tuple(Claim(claim.name, claim.time, claim.boxes) for claim in claims)

    def _spatial(self, sheet: _Sheet, claims: list[Stated], thought: str, truth: Truth) -> None:
        key_frames = truth.key_frames
        sheet.notes += [
            f"key frame at {frame.time:g} s has no boxes"
            for frame in key_frames
            if not frame.objects
        ]
        judged = [self._judged(claim, key_frames) for claim in claims]
        mentions = len(time_mentions(thought))
        sheet.parts["thk_spatial"] = self._profile.spatial(judged, key_frames, mentions)
        sheet.claims = tuple(map(_shown, judged))
        _count(sheet, len(claims))
        seconds = self._rewards.gate_seconds
        sheet.metrics["recall"] = recall(claims, key_frames, seconds=seconds)
        sheet.metrics["recall_key_frames"] = recall_key_frames(claims, key_frames, seconds=seconds)
        if judged:
            passed = sum(claim.passed is not None for claim in judged)
            sheet.metrics["gate_pass"] = passed / len(judged)

    def _judged(self, claim: Stated, key_frames: tuple[KeyFrame, ...]) -> Judged:
        passed = self._profile.gate(claim.time, key_frames, self._rewards.gate_seconds)
        near = passed or nearest(claim.time, key_frames)
        return Judged(claim, passed, near, self._profile.fit(claim, near))

    def _visual(
        self,
        sheet: _Sheet,
        thought: str,
        truth: Truth,
        size: tuple[int, int],
        convention: BoxConvention,
    ) -> None:
        named = stated_boxes(self._profile.boxes(thought), size=size, convention=convention)
        ious = [0.0 if truth.box is None else box_iou(box, truth.box) for _, box in named]
        sheet.claims = tuple(
            Claim(name, 0.0, (box,), iou=iou) for (name, box), iou in zip(named, ious, strict=True)
        )
        _count(sheet, len(named))
        if truth.box is None:
            return
        distinct = {box: iou for (_, box), iou in zip(named, ious, strict=True)}
        sheet.parts["thk_spatial"] = self._profile.visual(list(distinct.values()))
        sheet.metrics["recall"] = float(max(ious, default=0.0) >= MET_IOU)


def weighted(parts: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """Σ wᵢ·rᵢ, with w = 1 where none is given."""
    return sum(weights.get(name, 1.0) * value for name, value in parts.items())


def _shown(judged: Judged) -> Claim:
    stated = judged.stated
    return Claim(
        stated.name,
        stated.time,
        stated.boxes,
        key_time=judged.nearest.time,
        distance=abs(stated.time - judged.nearest.time) if math.isfinite(stated.time) else None,
        gated=judged.passed is None,
        iou=judged.iou,
    )


def _count(sheet: _Sheet, claims: int) -> None:
    sheet.metrics["claims"] = float(claims)
    sheet.metrics["has_claim"] = float(claims > 0)
