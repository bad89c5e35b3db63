"""Scoring a file: `o3rl score FILE.jsonl --profile P --out OUT.jsonl`.

A line holds `task`, `completion`, `answer`, `progress`, and where the task has them `key_frames`,
`key_items`, `image_size`, `image_size_refine`. As at scoring time in the released code,
`image_size` is the size of the resized frame for video rows; for visual QA it is the original
image's, and `image_size_refine` the resized image's. Boxes are in pixels of the resized frame or
image.
"""

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from o3rl.config import Profile, RewardsConfig
from o3rl.text.answers import TruthError, parse_interval
from o3rl.text.truth import (
    parse_answer_box,
    parse_objects,
    parse_size,
    parse_time,
    parse_truth,
)
from o3rl.types import Interval, KeyFrame, Reward, Task, Truth
from rewards.scorer import Scorer


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the lines of a file: `bad` ones by number (from 1) and reason."""

    scored: int
    bad: tuple[tuple[int, str], ...]


def score_file(source: Path, out: Path, *, profile: str) -> Counts:
    """Write one line for each good line of `source`: `line`, `parts`, `total`, `claims`, more.

    A bad line is counted and left out; blank lines are skipped. `out` is replaced when all is
    written, so it may be `source`. Raises ValueError for an unknown profile, OSError if a file
    cannot be read or written.
    """
    names = [known.value for known in Profile]
    if profile not in names:
        raise ValueError(f"profile is {profile!r}; it must be one of {names}")
    scorer = Scorer(RewardsConfig(profile=Profile(profile)))
    scored, bad = 0, []
    aside = out.with_name(f".{out.name}.writing")
    with source.open("rb") as lines, aside.open("w", encoding="utf-8") as results:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                reward = score_record(_record(line), scorer, profile=Profile(profile))
            except ValueError as error:
                bad.append((number, str(error)))
                continue
            results.write(json.dumps({"line": number, **as_record(reward)}) + "\n")
            scored += 1
    aside.replace(out)
    return Counts(scored, tuple(bad))


def score_record(record: Mapping[str, Any], scorer: Scorer, *, profile: Profile) -> Reward:
    """The reward of one line. Raises ValueError with what is missing or wrong.

    `released` takes rows that import would reject, as its code does: the part is 0, with a note.
    """
    task = Task(_needed(record, "task", str))
    progress = _needed(record, "progress", int | float)
    if isinstance(progress, bool) or not 0 <= progress <= 1:
        raise ValueError(f"progress is {progress!r}; it must be a number in [0, 1]")
    truth_of = _lenient_truth if profile is Profile.released else _strict_truth
    return scorer.score(
        task,
        _needed(record, "completion", str),
        truth=truth_of(task, record),
        progress=float(progress),
        frame_size=_frame_size(task, record),
    )


def as_record(reward: Reward) -> dict[str, Any]:
    """The reward as JSON; numbers that JSON lacks (a claimed time of `nan`) become null."""
    claims = [
        {("object" if name == "name" else name): value for name, value in asdict(claim).items()}
        for claim in reward.claims
    ]
    return {
        "parts": reward.parts,
        "total": reward.total,
        "claims": _finite(claims),
        "metrics": reward.metrics,
        "notes": list(reward.notes),
    }


def _record(line: bytes) -> Mapping[str, Any]:
    try:
        record = json.loads(line)
    except RecursionError:
        raise ValueError("no JSON object: nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"no JSON object: {error}") from None
    if not isinstance(record, dict):
        raise ValueError(f"no JSON object but {type(record).__name__}")
    return record


def _needed(record: Mapping[str, Any], name: str, kind: Any) -> Any:
    if not isinstance(record.get(name), kind):
        raise ValueError(f"{name} is {record.get(name)!r:.100}; it must be there, of type {kind}")
    return record[name]


def _frame_size(task: Task, record: Mapping[str, Any]) -> tuple[int, int]:
    """The size that the model saw; without boxes to compare, any will do."""
    if task is Task.VISUAL:
        return _pixels(record, "image_size_refine")
    if task is Task.TEMPORAL_SPATIAL:
        return _pixels(record, "image_size")
    with suppress(ValueError):
        return _pixels(record, "image_size")
    return (1, 1)


def _pixels(record: Mapping[str, Any], name: str) -> tuple[int, int]:
    try:
        width, height = parse_size(record.get(name))
    except TruthError as error:
        raise ValueError(f"{name} is {record.get(name)!r:.100}: {error.reason}") from None
    return int(width), int(height)


def _strict_truth(task: Task, record: Mapping[str, Any]) -> Truth:
    return parse_truth(
        task,
        _needed(record, "answer", str),
        key_frames=record.get("key_frames"),
        key_items=record.get("key_items"),
        image_size=record.get("image_size"),
    )


def _lenient_truth(task: Task, record: Mapping[str, Any]) -> Truth:
    """What of the truth can be used, evidence in the file's order and unclipped."""
    answer = _needed(record, "answer", str)
    letter, interval, *_ = [*answer.split("\n", 2), ""]
    if task is Task.MCQ:
        return Truth(answer, letter=answer.strip())
    if task is Task.TEMPORAL_MCQ:
        return Truth(
            answer, letter=letter.strip(), interval=_or_none(_published_interval, interval)
        )
    if task is Task.TEMPORAL:
        return Truth(answer, interval=_or_none(_published_interval, answer))
    if task is Task.VISUAL:
        return Truth(answer, box=_or_none(parse_answer_box, answer, record.get("image_size")))
    if task is Task.TEMPORAL_SPATIAL:
        return Truth(answer, key_frames=_lenient_key_frames(record))
    return Truth(answer)


def _lenient_key_frames(record: Mapping[str, Any]) -> tuple[KeyFrame, ...]:
    frames, items = record.get("key_frames"), record.get("key_items")
    frames = frames if isinstance(frames, list) else []
    items = items if isinstance(items, dict) else {}
    try:
        times = [parse_time(frame) for frame in frames]
    except TruthError:  # the released code raises in both parts
        return ()
    boxes = [_or_none(parse_objects, items.get(str(frame.get("idx")))) for frame in frames]
    return tuple(KeyFrame(time, objects or ()) for time, objects in zip(times, boxes, strict=True))


def _published_interval(text: str) -> Interval:
    """`[s, e]` as JSON alone."""
    try:
        return parse_interval(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise TruthError("answer has no interval", text) from error


def _or_none(parse: Any, *values: Any) -> Any:
    try:
        return parse(*values)
    except TruthError:
        return None


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
