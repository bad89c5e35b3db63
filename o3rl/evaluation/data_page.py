"""The page of `o3rl data check`: counts, reasons with examples, and rows as a model sees them.

A sampled row shows its frames, key frames among them as in training, with the true boxes; its
interval and key frames on a time line; and for SFT rows the reasoning with its claims drawn.
"""

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from o3rl.data.check import Check
from o3rl.data.statistics import ALL, SERIES
from o3rl.evaluation.cards import frames_card
from o3rl.evaluation.evidence import Entry, Pair, crops, key_shots, pairs, timeline
from o3rl.evaluation.html import environment, policy
from o3rl.evaluation.passages import passages
from o3rl.files import write_text
from o3rl.media.decoder import MediaError
from o3rl.media.reader import MediaReader
from o3rl.text.boxes import ABSOLUTE
from o3rl.text.grammar import raw_boxes, raw_claims
from o3rl.types import Claim, Reward, Row, Task

log = logging.getLogger(__name__)

MAX_TEXT = 8_000  # characters of a question, an answer or a reasoning that are shown
MAX_LISTED = 40  # lines of a table of reasons or sources


def sampled(rows: Iterable[Row], reader: MediaReader) -> Iterator[Entry]:
    """Rows with their frames as in training; one whose media cannot be read is left out."""
    for row in rows:
        try:
            planned = reader.plan(row, training=True)
            frames = reader.read(planned)
        except MediaError as error:
            log.warning("row %s is not shown: %s", row.id, error)
            continue
        reward = Reward({}, 0.0, tuple(_claims(row)))
        yield Entry(row, planned.plan, frames, _thought(row), reward, row.source or "no source")


def write_check_page(path: Path, check: Check, entries: Sequence[Entry]) -> None:
    """Write the report as one HTML file that asks no network."""
    html = (
        environment()
        .get_template("check.html")
        .render(
            title=f"Check of {Path(check.source).name}",
            check=check,
            facts=_facts(check),
            sections=_sections(check),
            series=SERIES,
            spreads=_spreads(check),
            cards=[card(place, entry) for place, entry in enumerate(entries)],
            tasks=_tasks(entries),
            csp=policy(),
        )
    )
    write_text(path, html)


def _facts(check: Check) -> list[tuple[str, str]]:
    facts = [("rows", f"{check.rows:,}"), ("rejected", f"{rejected_of(check):,}")]
    if check.media is not None:
        facts += [
            ("media", f"{check.media.files:,}"),
            ("cannot be read", f"{check.media.files - check.media.readable:,}"),
            ("rows without media", f"{check.media.rows_without:,}"),
        ]
    facts.append(("duplicates", f"{sum(each.count for each in check.duplicates.values()):,}"))
    for name, found in check.benchmarks.items():
        facts.append((f"videos shared with {name}", f"{found.videos:,}"))
    return facts


def rejected_of(check: Check) -> int:
    """Records that made no row."""
    return sum(each.count for each in check.rejected.values())


def _sections(check: Check) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Tables of (words, count, example) under a heading; only those that hold something."""
    tables: list[tuple[str, list[tuple[str, str, str]]]] = [
        ("Rejected", [(r, f"{c.count:,}", c.example) for r, c in check.rejected.items()]),
        ("Doubted", [(r, f"{c.count:,}", c.example) for r, c in check.doubted.items()]),
        ("For SFT only", [(r, f"{c.count:,}", c.example) for r, c in check.sft_only.items()]),
        ("Mended", [(r, f"{c.count:,}", c.example) for r, c in check.mended.items()]),
        ("Duplicates", [(r, f"{c.count:,}", c.example) for r, c in check.duplicates.items()]),
    ]
    if check.media is not None:
        tables += [
            (
                "Media that cannot be read",
                [
                    (reason, f"{bad.files:,}", f"{bad.example} ({bad.rows:,} rows need such)")
                    for reason, bad in check.media.bad.items()
                ],
            ),
            (
                "Evidence that does not fit its media",
                [(r, f"{c.count:,}", c.example) for r, c in check.media.doubts.items()],
            ),
        ]
    tables += [
        (
            "Shared with benchmarks",
            [
                (name, f"{o.videos:,}", f"{o.rows:,} rows; {', '.join(o.examples)}")
                for name, o in check.benchmarks.items()
                if o.videos
            ],
        ),
        ("Sources", [(source or "none", f"{n:,}", "") for source, n in check.by_source.items()]),
    ]
    return [(words, lines[:MAX_LISTED]) for words, lines in tables if lines]


def _spreads(check: Check) -> list[tuple[str, int, dict[str, Any]]]:
    """(task, rows, spread by series), of all tasks last."""
    return [
        (task, check.rows if task == ALL else check.by_task[task], dict(found))
        for task, found in check.stats.items()
    ]


def _tasks(entries: Sequence[Entry]) -> dict[str, int]:
    found = [entry.row.task for entry in entries]
    return {task.value: found.count(task) for task in Task if task in found}


def card(place: int, entry: Entry) -> dict[str, Any]:
    """What the template needs of one row."""
    row, claims = entry.row, entry.reward.claims
    parted = passages(entry.text[:MAX_TEXT], claims, is_image=row.task is Task.VISUAL)
    return frames_card(f"r{place + 1}", place, entry) | {
        "question": row.question[:MAX_TEXT],
        "answer": row.truth.text[:MAX_TEXT],
        "pairs": _pairs(entry),
        "timeline": timeline(entry),
        "passages": parted,
        "crops": crops(entry),
        "cited": {number for passage in parted for number in passage.claims},
        "objects_are": ("True objects", "boxes"),
        "objects": [
            (f"{key.time:g} s", name, len(boxes))
            for key in row.truth.key_frames
            for name, boxes in key.objects
        ],
    }


def _pairs(entry: Entry) -> tuple[Pair, ...]:
    """Large pictures: what the reasoning claims, or the key frames, or the image."""
    if entry.reward.claims or entry.row.task is Task.VISUAL:
        return pairs(entry, convention=ABSOLUTE)
    return tuple(Pair(shot) for shot in key_shots(entry))


def _thought(row: Row) -> str:
    """The reasoning as a thought, by whose tags a page finds its claims."""
    return f"<think>{row.reasoning}</think>" if row.reasoning else ""


def _claims(row: Row) -> Iterator[Claim]:
    """The claims of an SFT row's reasoning, whose boxes are normalised; for an image its boxes."""
    said = row.reasoning or ""
    if row.task is Task.VISUAL:
        for raw in raw_boxes(said):
            yield Claim(raw.name, 0.0, (_box(raw.numbers),))
        return
    for raw in raw_claims(said):
        try:
            time = float(raw.time)
        except ValueError:
            continue
        boxes = tuple(_box(each.numbers) for each in raw_boxes(raw.boxes))
        true = [key.time for key in row.truth.key_frames]
        nearest = min(true, key=lambda key: abs(key - time), default=None)
        yield Claim(raw.name, time, boxes, key_time=nearest)


def _box(numbers: str) -> tuple[float, float, float, float]:
    """Import has let pass only lists of four numbers."""
    x1, y1, x2, y2 = map(float, json.loads(numbers))
    return x1, y1, x2, y2
