"""V-STaR's scores: how the five texts are read, by us and as published, and what is measured.

As published, means are over rows with a what answer and the accuracy is over all; `ours` counts
every row everywhere, compares seconds as numbers and converts boxes to pixels of the video.
"""

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from o3rl.benchmarks import reading
from o3rl.benchmarks.runner import Row, Scores, Scoring
from o3rl.text.boxes import box_iou, convention_of, interval_iou
from o3rl.text.grammar import answer_of

WHAT, WHEN_1, WHERE_1 = "answer_vqa", "answer_temporal_pre", "answer_spatial_pre"
WHERE_2, WHEN_2 = "answer_spatial_pre_2", "answer_temporal_pre_2"
CHAINS = ((WHEN_1, WHERE_1, ""), (WHEN_2, WHERE_2, "_2"))
RECALLS, PRECISIONS = (0.3, 0.5, 0.7), (0.1, 0.3, 0.5, 0.7, 0.9)
RIGHT, HIGHEST = 2, 3  # judge scores: right from 2 on
SHORT, MEDIUM = 60, 180  # seconds
COMBINED_TIME, COMBINED_BOX = 0.3, 0.1
CORNERS = ("xmin", "ymin", "xmax", "ymax")

_NEEDED = ("vid", "question", "answer", "timestamps", "bboxes", "fps", "width", "height",
           "frame_count", "temporal_question", "spatial_question",
           "spatial_question_2")  # fmt: skip


def check_row(row: Row, where: str) -> None:
    """ValueError unless all that is asked and scored is there and of its kind."""
    missing = [key for key in _NEEDED if key not in row] if isinstance(row, dict) else _NEEDED
    if missing:
        raise ValueError(f"{where}: {', '.join(missing)} missing; it must be a row of V-STaR")
    numbers = [*row["timestamps"], row["fps"], row["frame_count"]]
    numbers += [box[key] for box in row["bboxes"] for key in ("timestamp", *CORNERS)]
    if len(row["timestamps"]) != 2 or not all(isinstance(x, int | float) for x in numbers):
        raise ValueError(f"{where}: timestamps, bboxes, fps and frame_count must be numbers")
    if row["fps"] <= 0:
        raise ValueError(f"{where}: fps is {row['fps']}; it must be above 0")


def length_of(row: Row) -> float:
    """Seconds, rounded to two digits as published: the borders of Short and Long are on these."""
    return round(row["frame_count"] / row["fps"], 2)


_WHOLE_NUMBERS = re.compile(r"\b\d+(?:\.\d+)?\b")
_CLOCK = re.compile(r"(?<!\d)\d++:\d+")
_FENCE = re.compile(r"```json\s*+(?<=\n)([\[{])")
_FENCE_END = {
    mark: re.compile(rf"{re.escape(mark)}\s*+(?<=\n)```", re.DOTALL) for mark in ("]", "}")
}
_CLOSING = {"[": "]", "{": "}"}


@dataclass(frozen=True, slots=True)
class Parser:
    """How one party reads the texts of what, when and where."""

    what: Callable[[str], str]
    when: Callable[[str], list[float]]
    where: Callable[[str], Any]  # by second; as far as published, whatever JSON says


def official_when(text: str) -> list[float]:
    """Both numbers of a text that has exactly two; else none."""
    found = _WHOLE_NUMBERS.findall(text)
    return [float(number) for number in found] if len(found) == 2 else []


def released_when(text: str) -> list[float]:
    """Open-o3's: the answer's inside, m:ss replaced wherever its text stands, then as above."""
    tagged = answer_of(text)
    text = text if tagged is None else tagged
    for clock in dict.fromkeys(_CLOCK.findall(text)):
        minutes, seconds = clock.split(":")
        if len(clock) > 4000:  # beyond what Python reads as an integer
            return []
        text = text.replace(clock, f"<t>{int(minutes) * 60 + int(seconds)}</t>s")
    return official_when(text)


def official_where(text: str) -> Any:
    """The JSON of the first fence, or of the widest […] or {…}, as published; None: hopeless."""
    written = _fenced(text) or _widest(text)
    if written is None:
        return None
    written = written.replace("'", '"')
    try:
        return _by_second(json.loads(written))
    except (ValueError, RecursionError, TypeError, LookupError):
        pass  # published: whatever goes wrong, brackets are mended and it is tried again
    try:
        return json.loads(_mended(written))  # a list stays one, and scores 0
    except (ValueError, RecursionError):
        return None


def released_where(text: str) -> Any:
    """Open-o3's: the same within the answer."""
    tagged = answer_of(text)
    return official_where(text if tagged is None else tagged)


def _fenced(text: str) -> str | None:
    ended: dict[str, bool] = {}
    for match in _FENCE.finditer(text):
        mark = _CLOSING[match[1]]
        if ended.get(mark):
            continue
        end = _FENCE_END[mark].search(text, match.end())
        if end is not None:
            return text[match.start(1) : end.start() + 1]
        ended[mark] = True
    return None


def _widest(text: str) -> str | None:
    last = {opening: text.rfind(closing) for opening, closing in _CLOSING.items()}
    for match in re.finditer(r"[\[{]", text):
        if match.start() < last[match[0]]:
            return text[match.start() : last[match[0]] + 1]
    return None


def _by_second(value: Any) -> Any:
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return {key: box for item in value for key, box in item.items()}
    if isinstance(value, list):
        return {str(pair[0]): pair[1] for pair in value}
    return value


def _mended(text: str) -> str:
    for opening, closing in _CLOSING.items():
        lacking = text.count(opening) - text.count(closing)
        text = opening * max(0, -lacking) + text + closing * max(0, lacking)
    return text


PARSERS = {
    "official": Parser(str, official_when, official_where),
    "open_o3": Parser(lambda text: text if (tagged := answer_of(text)) is None else tagged,
                      released_when, released_where),
    "ours": Parser(reading.answer_part, lambda text: list(reading.read_interval(text) or ()),
                   reading.boxes_by_second),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Chain:
    """Measures of one row in one chain."""

    tiou: float
    viou: float
    precision: tuple[float, ...]  # by threshold of PRECISIONS


@dataclass(frozen=True, slots=True)
class Measured:
    """Measures of one row. `counted`: it has a what answer; `score` is −1 where none is valid."""

    number: int
    counted: bool
    score: int
    chains: tuple[Chain, Chain]


def score(records: Sequence[Row], scoring: Scoring) -> Scores:
    """All figures, as fractions. `ours` also gives `all_rows`, the same by the published parser."""
    for number, each in enumerate(records):
        check_row(each.get("row") or {}, f"reply {number}")
        texts = each.get("texts") or {}
        if not isinstance(texts, dict) or not all(isinstance(x, str) for x in texts.values()):
            raise ValueError(f"reply {number}: texts is {texts!r:.80}; it must hold text by text")
    measured, rows = _measure(records, scoring)
    all_rows = scoring.by == "ours"
    figures: dict[str, Any] = {"overall": _figures(measured, all_rows, overall=True)}
    for name, key in (("duration", _duration), ("domain", _domain)):
        groups: dict[str, list[Measured]] = {}
        for each, stored in zip(measured, records, strict=True):
            groups.setdefault(key(stored["row"]), []).append(each)
        figures[name] = {group: _figures(each, all_rows) for group, each in groups.items()}
    if all_rows:
        published, _ = _measure(records, Scoring("official"))
        figures["all_rows"] = _figures(published, True)
    return Scores(figures, rows)


def _measure(
    records: Sequence[Row], scoring: Scoring
) -> tuple[list[Measured], list[dict[str, Any]]]:
    parser = PARSERS[scoring.by]
    measured, rows = [], []
    for number, stored in enumerate(records):
        row, texts = stored["row"], stored.get("texts") or {}
        what = parser.what(texts[WHAT]) if texts.get(WHAT) else ""
        said: dict[str, Any] = {WHAT: what, "counted": bool(what)}
        chains = []
        for when, where, suffix in CHAINS:
            times = parser.when(texts[when]) if texts.get(when) else []
            boxes = parser.where(texts[where]) if texts.get(where) else None
            pixels = _in_pixels(boxes, stored, scoring) if scoring.by == "ours" else boxes
            fits = spatial(row["bboxes"], pixels, by_number=scoring.by == "ours")
            chain = Chain(temporal(row["timestamps"], times), *fits)
            chains.append(chain)
            said |= {f"answer_temporal{suffix}": times, f"answer_spatial{suffix}": boxes}
            said |= {f"temporal_IoU{suffix}": chain.tiou, f"spatial_mIoU{suffix}": chain.viou}
            said[f"AP{suffix}"] = list(chain.precision)
        judged = _judged(stored.get("judge_score"), scoring) if what else -1
        measured.append(Measured(number, bool(what), judged, (chains[0], chains[1])))
        found = (*(said[f"answer_temporal{x}"] or said[f"answer_spatial{x}"] for x in ("", "_2")),)
        rows.append(said | {"judge_score": judged, "read": bool(what or any(found))})
    return measured, rows


def _judged(value: object, scoring: Scoring) -> int:
    """A stored judge score; −1 where there is none, or, by our rules, none of 0 to 3."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return -1
    if not math.isfinite(value) or value != int(value):
        return -1
    value = int(value)
    return value if scoring.by != "ours" or 0 <= value <= HIGHEST else -1


def temporal(truth: Sequence[float], times: Sequence[float]) -> float:
    """tIoU over the hull; 0 unless two numbers."""
    return interval_iou((truth[0], truth[1]), (times[0], times[1])) if len(times) == 2 else 0.0


def spatial(
    truth: Sequence[Row], boxes: Any, *, by_number: bool
) -> tuple[float, tuple[float, ...]]:
    """vIoU, and the share of annotated boxes with IoU >= t for each of PRECISIONS.

    A second is found by its number, or, as published, by the text of the file's number.
    """
    ious = []
    for box in truth:
        key = box["timestamp"] if by_number else str(box["timestamp"])
        said = boxes.get(key) if isinstance(boxes, dict) else None
        ious.append(_best_iou([box[name] for name in CORNERS], said))
    if not ious:
        return 0.0, (0.0,) * len(PRECISIONS)
    shares = tuple(sum(iou >= least for iou in ious) / len(ious) for least in PRECISIONS)
    return _mean(ious), shares


def _best_iou(truth: Sequence[float], said: Any) -> float:
    """Of several boxes the best; as published a box of four that are no numbers zeroes them all."""
    if not isinstance(said, list) or not said:
        return 0.0
    boxes = [said] if isinstance(said[0], int | float) and len(said) == 4 else said
    boxes = [box for box in boxes if isinstance(box, list | tuple) and len(box) == 4]
    if not all(isinstance(value, int | float) for box in boxes for value in box):
        return 0.0
    return max((box_iou(truth, box) for box in boxes), default=0.0)


def _in_pixels(boxes: reading.Boxes | None, stored: Row, scoring: Scoring) -> reading.Boxes:
    """Boxes in pixels of the video, from the coordinates of the model's family."""
    if not scoring.convention or not boxes:
        return boxes or {}
    if "input_size" not in stored:
        raise ValueError(
            f"a reply to {stored['row']['vid']} has no input_size (width and height that the model "
            f"saw); boxes of {scoring.convention} cannot be converted without it"
        )
    convention, row = convention_of(scoring.convention), stored["row"]
    sides = (row["width"], row["height"]) * 2
    return {
        second: [
            tuple(x * side for x, side in zip(convention.read(box, stored["input_size"]), sides,
                                              strict=True))
            for box in each
        ]
        for second, each in boxes.items()
    }  # fmt: skip


def _duration(row: Row) -> str:
    length = length_of(row)
    return "Short" if length < SHORT else "Medium" if length < MEDIUM else "Long"


def _domain(row: Row) -> str:
    return row.get("domain", "unknown")


def _figures(rows: Sequence[Measured], all_rows: bool, *, overall: bool = False) -> dict[str, Any]:
    """Of one group. As published, means are over rows with a what answer, Acc overall over all."""
    seen = rows if all_rows else [row for row in rows if row.counted]
    total = len(rows) if overall else len(seen)
    accuracy = sum(row.score >= RIGHT for row in seen) / total if total else 0.0
    figures: dict[str, Any] = {
        "rows": len(rows),
        "counted": sum(row.counted for row in rows),
        "avg_all_score": _mean([max(row.score, 0) for row in seen]),
        "avg_valid_score": _mean([row.score for row in seen if row.score >= 0]),
        "accuracy": accuracy,
    }
    for chain in (0, 1):
        figures[f"chain{chain + 1}"] = _chain_figures(seen, chain, accuracy, total, listed=overall)
    for name, of in (("mAM", "AM"), ("mLGM", "LGM")):
        figures[name] = (figures["chain1"][of] + figures["chain2"][of]) / 2
    return figures


def _chain_figures(
    rows: Sequence[Measured], chain: int, accuracy: float, total: int, *, listed: bool
) -> dict[str, Any]:
    measures = [row.chains[chain] for row in rows]
    tiou, viou = (_mean([getattr(m, name) for m in measures]) for name in ("tiou", "viou"))
    figures: dict[str, Any] = {
        **{f"R1@{t}": _mean([m.tiou >= t for m in measures]) for t in RECALLS},
        "m_tIoU": tiou,
        **{f"AP@{t}": _mean([m.precision[i] for m in measures]) for i, t in enumerate(PRECISIONS)},
        "m_vIoU": viou,
        "AM": arithmetic_mean(accuracy, tiou, viou),
        "LGM": logarithmic_geometric_mean(accuracy, tiou, viou),
    }
    right = {row.number for row in rows if row.score >= RIGHT}
    timed = {row.number for row in rows if row.chains[chain].tiou >= COMBINED_TIME}
    placed = {row.number for row in rows if row.chains[chain].viou >= COMBINED_BOX}
    for name, met in (
        ("vqa_temp", right & timed),
        ("vqa_spat", right & placed),
        ("temp_spat", timed & placed),
        ("vqa_temp_spat", right & timed & placed),
    ):
        figures[name] = len(met) / total if total else 0.0
        if listed:
            figures[f"{name}_rows"] = sorted(met)
    return figures


def arithmetic_mean(*shares: float) -> float:
    """AM of accuracy, m_tIoU and m_vIoU."""
    return sum(shares) / len(shares)


def logarithmic_geometric_mean(*shares: float) -> float:
    """LGM: −Σ ln(1 − x) / 3; infinite where a share is 1."""
    return -sum(math.log(1 - x) if x < 1 else -math.inf for x in shares) / len(shares)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0
