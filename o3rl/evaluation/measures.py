"""Numbers of an evaluation: means over responses, intervals by resampling rows.

Every main number is a ratio of two sums over rows (what was scored, and how often that was
possible), so that one bootstrap serves all. What no response can tell is None, never NaN. Rewards
are read as scored, at p = 1; nothing is scored here.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from o3rl.text.grammar import answer_of
from o3rl.types import Reward, Row, Task, makes_claim, without_format

RIGHT_IOU = 0.5  # from which an interval or a box counts as right in `accuracy`
RESAMPLES = 1000
DRAWS_AT_ONCE = 2_000_000  # bounds the bootstrap's memory

TEMPORAL = (Task.TEMPORAL, Task.TEMPORAL_MCQ)
ARTICLES = {"a", "an", "the"}

HEADLINES = (
    "total",
    "total_without_format",
    "temporal_iou",
    "box_iou",
    "accuracy",
    "format",
    "recall",
    "recall_key_frames",
)
CLAIMS = ("share", "time_proximity", "gated_box_iou", "gate_pass")


@dataclass(frozen=True, slots=True)
class Scored:
    """One response to one row, scored at p = 1.

    >>> Scored(row, "<think>…", Reward({"ans_acc": 1.0, "format": 1.0}, total=2.0))
    """

    row: Row
    text: str
    reward: Reward


def summary(
    scored_by_row: Sequence[Sequence[Scored]],
    *,
    seed: int,
    weights: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """What `report.json` holds of one evaluation; an inner sequence has the responses of one row.

    - `rows`, `responses`; `rows_failed`: rows without a response, which count nowhere else
    - `total`, `total_without_format` (mean reward), `parts` by name (unweighted; a part that a task
      lacks counts 0 there), `format`
    - `temporal_iou`: of the answers of the temporal tasks
    - `box_iou`: mean IoU of a response's claims, before the gate, over the responses of
      temporal-spatial and visual rows that make a claim
    - `accuracy`: share of right answers, see `is_right`
    - `recall`: share of the true boxes that were cited, over rows that have such;
      `recall_key_frames`: of the key frames, over temporal-spatial rows
    - `claims`: over temporal-spatial responses: `share` that makes a claim; over those that do,
      `time_proximity` (point reward at σ = 1 s), `gated_box_iou` (spatial part), `gate_pass`
    - `by_task`: rows, total, total_without_format, accuracy
    - `intervals`: 95 % bootstrap intervals [low, high] over rows, by the same names

    `weights` are those of the reward's parts (1 where not named). Raises ValueError if no row has a
    response.
    """
    rows = [responses for responses in scored_by_row if responses]
    if not rows:
        raise ValueError(f"nothing to measure: none of {len(scored_by_row)} rows has a response")
    format_weight = (weights or {}).get("format", 1.0)
    measures = [[_measures(one, format_weight) for one in responses] for responses in rows]
    names = list(dict.fromkeys(name for row in measures for one in row for name in one))
    sums, counts = _sums(measures, names)
    values = dict(zip(names, (sums.sum(0) / counts.sum(0)).tolist(), strict=True))
    bounds = dict(zip(names, _bootstrap(sums, counts, seed=seed), strict=True))
    return {
        "rows": len(rows),
        "rows_failed": len(scored_by_row) - len(rows),
        "responses": sum(len(responses) for responses in rows),
        **{name: values.get(name) for name in HEADLINES},
        "parts": _parts([one for responses in rows for one in responses]),
        "claims": {name: values.get(f"claims/{name}") for name in CLAIMS},
        "by_task": _by_task(rows, format_weight),
        "intervals": bounds,
    }


def is_right(scored: Scored) -> bool:
    """Whether the answer counts as right in `accuracy`.

    MCQ: the letter. Temporal: tIoU ≥ 0.5, with choices the letter too. Visual: IoU ≥ 0.5.
    Free-form and temporal-spatial: the same words, see `normalised`.
    """
    parts = scored.reward.parts
    match scored.row.task:
        case Task.MCQ:
            return parts["ans_acc"] >= 1.0
        case Task.TEMPORAL:
            return parts["ans_tiou"] >= RIGHT_IOU
        case Task.TEMPORAL_MCQ:
            return parts["ans_tiou"] >= RIGHT_IOU and parts["ans_acc"] >= 1.0
        case Task.VISUAL:
            return parts["ans_viou"] >= RIGHT_IOU
        case Task.FREE_FORM | Task.TEMPORAL_SPATIAL:
            return normalised(answer_of(scored.text) or "") == normalised(scored.row.truth.text)


def normalised(text: str) -> str:
    """Words in lower case without punctuation, articles and repeated blanks; any script.

    >>> normalised("The  red Square.")
    'red square'
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    marked = (" " if unicodedata.category(sign)[0] in "PSZC" else sign for sign in folded)
    return " ".join(word for word in "".join(marked).split() if word not in ARTICLES)


def _measures(scored: Scored, format_weight: float) -> dict[str, float]:
    """Each main number that this response has a say in, by name."""
    reward, task, truth = scored.reward, scored.row.task, scored.row.truth
    out = {
        "total": reward.total,
        "total_without_format": without_format(reward, format_weight),
        "accuracy": float(is_right(scored)),
        "format": reward.parts["format"],
    }
    if task in TEMPORAL:
        out["temporal_iou"] = reward.parts["ans_tiou"]
    if (truth.key_frames or truth.box) and "recall" in reward.metrics:
        out["recall"] = reward.metrics["recall"]
    if "recall_key_frames" in reward.metrics:
        out["recall_key_frames"] = reward.metrics["recall_key_frames"]
    if makes_claim(reward) and task in (Task.TEMPORAL_SPATIAL, Task.VISUAL):
        out["box_iou"] = sum(claim.iou for claim in reward.claims) / len(reward.claims)
    if task is Task.TEMPORAL_SPATIAL:
        out["claims/share"] = float(makes_claim(reward))
    if task is Task.TEMPORAL_SPATIAL and makes_claim(reward):
        out["claims/time_proximity"] = reward.metrics["point_sigma1"]
        out["claims/gated_box_iou"] = reward.parts["thk_spatial"]
        out["claims/gate_pass"] = sum(not c.gated for c in reward.claims) / len(reward.claims)
    return out


def _sums(
    measures: Sequence[Sequence[Mapping[str, float]]], names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Sum and count of each number by row: two arrays [rows, names]."""
    column = {name: index for index, name in enumerate(names)}
    sums = np.zeros((len(measures), len(names)))
    counts = np.zeros_like(sums)
    for index, responses in enumerate(measures):
        for response in responses:
            for name, value in response.items():
                sums[index, column[name]] += value
                counts[index, column[name]] += 1
    return sums, counts


def _bootstrap(sums: np.ndarray, counts: np.ndarray, *, seed: int) -> list[list[float]]:
    """2.5 % and 97.5 % quantile of each ratio when as many rows are drawn with replacement.

    Draws without any response to a number (which has few) leave that number out.
    """
    rows = len(sums)
    random = np.random.default_rng(seed)
    at_once = max(1, DRAWS_AT_ONCE // rows)
    ratios = []
    for start in range(0, RESAMPLES, at_once):
        draws = min(at_once, RESAMPLES - start)
        picked = random.multinomial(rows, np.full(rows, 1 / rows), size=draws)
        drawn = picked @ counts
        ratios.append(np.where(drawn > 0, picked @ sums / np.maximum(drawn, 1), np.nan))
    bounds = np.nanquantile(np.concatenate(ratios), (0.025, 0.975), axis=0)
    return [[float(low), float(high)] for low, high in bounds.T]


def _parts(responses: Sequence[Scored]) -> dict[str, float]:
    names = sorted({name for one in responses for name in one.reward.parts})
    return {
        name: sum(one.reward.parts.get(name, 0.0) for one in responses) / len(responses)
        for name in names
    }


def _by_task(rows: Sequence[Sequence[Scored]], format_weight: float) -> dict[str, dict[str, Any]]:
    out = {}
    for task in Task:
        mine = [responses for responses in rows if responses[0].row.task is task]
        responses = [one for row in mine for one in row]
        if responses:
            out[str(task)] = {
                "rows": len(mine),
                "total": _mean([one.reward.total for one in responses]),
                "total_without_format": _mean(
                    [without_format(one.reward, format_weight) for one in responses]
                ),
                "accuracy": _mean([float(is_right(one)) for one in responses]),
            }
    return out


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
