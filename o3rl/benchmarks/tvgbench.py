"""TVGBench: when an event happens, in 800 clips, scored as Time-R1 publishes it.

The published reader takes the last `x to y` or `x and y` of the text, and its loader leaves out
rows whose video is missing. `ours` reads as a careful reader would and keeps such rows at 0.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from o3rl.benchmarks import reading, runner
from o3rl.benchmarks.runner import MISSING, Call, Row, Scores, Scoring
from o3rl.text.boxes import interval_iou
from o3rl.types import Interval

RECALLS = (0.3, 0.5, 0.7)  # strictly above
GROUPS = ("dataset_name", "qsemtype")

_TARGET = re.compile(r"(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)")
_JOINED = re.compile(r"(?<!\d)(\d++\.?\d*+) (?:to|and) (\d++\.?\d*+)")
_ASK = (
    'To accurately pinpoint the event "{}" in the video, determine the precise time period of the '
    "event.\n\nOutput your thought process within the <think> </think> tags, including analysis "
    "with either specific time ranges (xx.xx to xx.xx) in <timestep> </timestep> tags.\n\nThen, "
    "provide the start and end times (in seconds, precise to {}) in the format {} within the "
    "<answer> </answer> tags. For example: {}."
)
_PLAIN = ("two decimal places", '"start time to end time"', '"12.54 to 17.83"')
_RELEASED = ("one decimal place", "'From start_times to end_times'", "'From 12.5s to 17.8s'")


def read_rows(path: Path) -> list[Row]:
    """The rows of `tvgbench.json`. ValueError names the row that is none."""
    rows = runner.read_list(path)
    for number, row in enumerate(rows):
        target_of(row, f"{path}, row {number}")
    return rows


def target_of(row: Row, where: str) -> Interval:
    """The true interval in seconds from the clip's start. ValueError if the row has none."""
    match = _TARGET.fullmatch(str(row.get("answer", "")).strip()) if "question" in row else None
    if match is None or "path" not in row:
        raise ValueError(
            f"{where}: {row!r:.200} is no row of TVGBench (path, question, answer 'start-end')"
        )
    return float(match[1]), float(match[2])


def span_of(row: Row) -> Interval | None:
    """The clip within its source video, in seconds; None: the whole of it."""
    start, end = row.get("start"), row.get("end")
    return None if start is None or end is None else (float(start), float(end))


def calls(row: Row, think: bool) -> tuple[Call, ...]:
    """Time-R1's question; `think` takes Open-o3's form of the answer."""
    return (Call("output_text", _ASK.format(row["question"], *(_RELEASED if think else _PLAIN))),)


def record(row: Row, texts: Mapping[str, str], reason: str) -> Row:
    """A row as it is stored and scored."""
    text = texts.get("output_text", "")
    missing = reason == MISSING
    return {"row": row, "output_text": text, "video_missing": missing, "reason": reason}


def official_interval(text: str) -> Interval | None:
    """The last `number to number` or `number and number`, one blank each side, anywhere."""
    last = None
    for last in _JOINED.finditer(text):  # noqa: B007
        pass
    return None if last is None else (float(last[1]), float(last[2]))


def score(records: Sequence[Row], scoring: Scoring) -> Scores:
    """Figures in per cent; `aggregates` has them by how texts are read and missing videos kept."""
    targets = [target_of(each.get("row") or {}, f"reply {i}") for i, each in enumerate(records)]
    for i, each in enumerate(records):
        if not isinstance(each.get("output_text") or "", str):
            raise ValueError(f"reply {i}: output_text is no text: {each['output_text']!r:.80}")
    missing = [bool(each.get("video_missing")) for each in records]
    readers = {"texts": official_interval, "given": reading.read_interval}
    ours = scoring.by == "ours"
    rows, ious = [], {}
    for name, read in readers.items():
        said = [read(each.get("output_text") or "") for each in records]
        ious[name] = [
            interval_iou(pair, target) if pair else 0.0
            for pair, target in zip(said, targets, strict=True)
        ]
        if (name == "given") == ours:
            rows = [
                _row(
                    i,
                    records[i],
                    targets[i],
                    said[i],
                    0.0 if ours and missing[i] else ious[name][i],
                )
                for i in range(len(records))
            ]
    aggregates = {
        f"{name}{kept}": figures(values)
        for name, each in ious.items()
        for kept, values in (
            ("", each),
            ("_missing_skipped", [x for x, no in zip(each, missing, strict=True) if not no]),
            ("_missing_kept", [0.0 if no else x for x, no in zip(each, missing, strict=True)]),
        )
    }
    main = aggregates["given_missing_kept" if ours else "texts_missing_skipped"]
    groups = {f"by_{name}": _by(name, records, rows) for name in GROUPS} if ours else {}
    return Scores({**main, **groups, "aggregates": aggregates}, rows, per_cent=True)


def figures(ious: Sequence[float]) -> dict[str, Any]:
    """mIoU, R1 at each threshold (strictly above) and their mean, in per cent."""
    said = {"mIoU": float(np.mean(ious)) * 100 if ious else 0.0}
    said |= {
        f"R1@{t}": sum(iou > t for iou in ious) / len(ious) * 100.0 if ious else 0.0
        for t in RECALLS
    }
    return {**said, "avg": sum(said.values()) / len(said), "rows": len(ious)}


def _row(number: int, stored: Row, target: Interval, said: Interval | None, iou: float) -> Row:
    source = PurePosixPath(str(stored["row"].get("source", "row"))).stem
    return {
        "qid": f"{re.sub('[.-]', '_', source)}_{number}",
        "target": list(target),
        "parsed": [None, None] if said is None else list(said),
        "iou": iou,
        "hit": [int(iou > threshold) for threshold in RECALLS],
        "read": said is not None,
    }


def _by(name: str, records: Sequence[Row], rows: Sequence[Row]) -> dict[str, Any]:
    groups: dict[str, list[float]] = {}
    for stored, row in zip(records, rows, strict=True):
        about = stored["row"].get(name) or stored["row"].get("bins", {}).get("dataset", "unknown")
        groups.setdefault(str(about), []).append(row["iou"])
    return {group: figures(ious) for group, ious in groups.items()}


BENCHMARK = runner.Benchmark(
    name="TVGBench",
    size=800,
    sampling=runner.Sampling(frames=64, pixels=512 * 512, max_tokens=1024),
    read=read_rows,
    video=lambda row: row["path"],
    calls=calls,
    record=record,
    score=score,
    span=span_of,
)
