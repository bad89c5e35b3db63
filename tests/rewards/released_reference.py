"""The published reward code as STGR.md tells it, read literally: slow, and in nothing like ours.

Its regular expressions stand here as they are told; ROUGE is the `rouge_score` package's own.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from rouge_score.rouge_scorer import RougeScorer

ROUGE = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
CLAIM = re.compile(r"<obj>(.*?)</obj>((?:<box>\[.*?\]</box>)+)at<t>(.*?)</t>s", re.DOTALL)
SPATIAL, VISUAL = "temporal-spatial free-form QA", "visual QA"
TEMPORAL = ("temporal QA", "temporal QA (MCQ)")


def parts_of(case: Mapping[str, Any]) -> dict[str, float]:
    """All seven parts of a case of the golden files; one that raises is 0."""
    answer = re.search(r"<answer>\s*(.*?)\s*</answer>", case["completion"], re.DOTALL)
    thought = re.search(r"<think>(.*?)</think>", case["completion"], re.DOTALL)
    given = {
        "answer": answer[1].strip() if answer else "",
        "thought": thought[1] if thought else "",
        "both": answer is not None and thought is not None,
    }
    return {name: _or_0(part, case, given) for name, part in PARTS.items()}


def _or_0(part: Callable[..., float], case: Mapping[str, Any], given: Mapping[str, Any]) -> float:
    try:
        return part(case, given)
    except Exception:  # as the published code's caller: whatever it was, the part is 0
        return 0.0


def _accuracy(case, given) -> float:
    task, answer = case["task"], given["answer"]
    if task == "General video QA MCQ":
        return _option(answer, case["answer"].strip())
    if task == "temporal QA (MCQ)":
        if "Correct Option:" not in answer:
            return 0.0
        return _option(answer.split("Correct Option:")[1].strip(), case["answer"].split("\n")[0])
    if task in ("General video QA Free-form", SPATIAL):
        scores = ROUGE.score(case["answer"], answer).values()
        return min(1.0, max(0.0, sum(score.fmeasure for score in scores) / 3))
    return 0.0


def _option(said: str, letter: str) -> float:
    return float(said in (letter, f"{letter}.", f"({letter})", f"[{letter}]"))


def _interval(case, given) -> float:
    if case["task"] not in TEMPORAL:
        return 0.0
    said = re.search(r"<t>(\d+\.?\d*)</t>s to <t>(\d+\.?\d*)</t>s", given["answer"])
    if said is None:
        return 0.0
    (start, end), (first, last) = map(float, said.groups()), _true_interval(case)
    hull = max(end, last) - min(start, first)
    if end < start or hull == 0:
        return 0.0
    return _finite(max(0.0, min(end, last) - max(start, first)) / hull)


def _true_interval(case) -> list[float]:
    return json.loads(case["answer"].split("\n")[-1])


def _first_box(case, given) -> float:
    if case["task"] != VISUAL:
        return 0.0
    said = re.search(r"<box>(\[.*?\])</box>", given["answer"])
    return 0.0 if said is None else _iou(_four(json.loads(said[1])), _true_box(case))


def _true_box(case) -> list[float]:
    written = re.search(r"<box>(\[.*?\])</box>", case["answer"])
    assert written is not None
    (width, height), (new_width, new_height) = case["image_size"], case["image_size_refine"]
    scales = [new_width / width, new_height / height] * 2
    return [side * scale for side, scale in zip(json.loads(written[1]), scales, strict=True)]


def _four(value: object) -> list[float]:
    """The four numbers; none where it is no list of four that can be cast."""
    try:
        assert isinstance(value, list)
        numbers = [float(number) for number in value]
    except (AssertionError, TypeError, ValueError, OverflowError):
        return []
    return numbers if len(numbers) == 4 else []


def _iou(box: list[float], true: list[float]) -> float:
    if not box or not all(map(math.isfinite, box)) or box[2] < box[0] or box[3] < box[1]:
        return 0.0
    width = max(0.0, min(box[2], true[2]) - max(box[0], true[0]))
    height = max(0.0, min(box[3], true[3]) - max(box[1], true[1]))
    union = _area(box) + _area(true) - width * height
    return _finite(width * height / union) if union > 0 else 0.0


def _area(box: list[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _point(case, given) -> float:
    if case["task"] != SPATIAL:
        return 0.0
    p = case["progress"]
    sigma = 4 * (1 - p) if p < 3 / 4 else 1.0
    times = [float(time) for time in re.findall(r"<t>([\d.]+)</t>s", given["thought"])]
    near = [min(abs(time - frame["time"]) for frame in case["key_frames"]) for time in times]
    return sum(math.exp(-(d / sigma) * (d / sigma) / 2) for d in near) / len(times)


def _segment(case, given) -> float:
    if case["task"] not in TEMPORAL:
        return 0.0
    start, end = _true_interval(case)
    times = [float(time) for time in re.findall(r"<t>([\d.]+)</t>s", given["thought"])]
    return sum(start <= time <= end for time in times) / len(times)


def _spatial(case, given) -> float:
    if not given["both"]:
        return 0.0
    if case["task"] == VISUAL:
        return _best_of_thought(case, given)
    if case["task"] != SPATIAL:
        return 0.0
    claims = [_claim(*said) for said in CLAIM.findall(given["thought"])]
    parsed = [claim for claim in claims if claim is not None]
    return sum(_fit(time, boxes, case) for time, boxes in parsed) / len(parsed)


def _best_of_thought(case, given) -> float:
    best, true = 0.0, _true_box(case)
    for written in re.findall(r"<box>(\[.*?\])</box>", given["thought"]):
        try:
            best = max(best, _iou(_four(json.loads(written)), true))
        except ValueError:
            continue
    return best


def _claim(name: str, run: str, time: str) -> tuple[float, list[list[float]]] | None:
    del name
    try:
        seconds = float(time)
        boxes = [_four(json.loads(written)) for written in re.findall(r"\[.*?\]", run)]
    except ValueError:
        return None
    return seconds, boxes


def _fit(time: float, boxes: list[list[float]], case) -> float:
    near = [frame for frame in case["key_frames"] if frame["time"] - time < 1.0]
    chosen, least = None, math.inf
    for frame in near:
        if abs(frame["time"] - time) < least:
            chosen, least = frame, abs(frame["time"] - time)
    if chosen is None:
        return 0.0
    sides = case["image_size"] * 2
    means = []
    for true_boxes in case["key_items"][str(chosen["idx"])].values():
        scaled = [[n * s for n, s in zip(true, sides, strict=True)] for true in true_boxes]
        best = [max((_iou(box, true) for box in boxes), default=0.0) for true in scaled]
        means.append(sum(best) / len(best))
    return max(means)


def _format(case, given) -> float:
    text, thought, task = case["completion"], given["thought"], case["task"]
    if not given["both"]:
        return 0.0
    tags = [(text, tag) for tag in ("think", "answer")]
    tags += [(thought, tag) for tag in ("obj", "t", "box")]
    if any(where.count(f"<{tag}>") != where.count(f"</{tag}>") for where, tag in tags):
        return 0.0
    all_three = all(tag in thought for tag in ("<obj>", "<t>", "<box>"))
    named = re.search(r"<obj>(\w+)</obj><box>(\[.*?\])</box>", text) is not None
    if "General video QA" in task:
        return 1.0
    if task in TEMPORAL:
        return 1.0 if thought.count("<t>") >= 2 else 0.5
    return 1.0 if all_three or (task == VISUAL and named) else 0.5


PARTS: dict[str, Callable[..., float]] = {
    "ans_acc": _accuracy,
    "ans_tiou": _interval,
    "ans_viou": _first_box,
    "thk_temporal_point": _point,
    "thk_temporal_segment": _segment,
    "thk_spatial": _spatial,
    "format": _format,
}
