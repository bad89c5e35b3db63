"""The page of a build: counts by reason, costs, and rows that were kept and dropped, with pictures.

A card shows what the annotator said on the frames of a training prompt, and the verdict on each of
its boxes.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from o3rl.annotation.annotation import Annotation, record_of
from o3rl.annotation.build import STAGES, Build, BuildReport
from o3rl.annotation.passes import Record
from o3rl.data.media_paths import MediaRoots
from o3rl.data.stgr import Counted, RowError, row_of
from o3rl.evaluation.data_page import card, sampled
from o3rl.evaluation.html import environment, policy
from o3rl.files import write_text
from o3rl.media.decoder import MediaError
from o3rl.media.reader import MediaReader
from o3rl.text.answers import TruthError
from o3rl.types import Row

LONGEST_KIND = 60  # characters of a kind of card


def write_build_page(
    path: Path,
    build: Build,
    report: BuildReport,
    videos: Sequence[Record],
    reader: MediaReader,
    *,
    pictures: int,
) -> None:
    """Write it: at most `pictures` rows of those that were kept, and of each stage's dropped."""
    cards = list(_cards(build, videos, reader, pictures))
    kinds = [each["task"] for each in cards]
    html = (
        environment()
        .get_template("build.html")
        .render(
            title=f"Build of {build.out.name}",
            facts=_facts(report),
            stopped=report.stopped,
            sections=build_sections(report),
            cards=cards,
            tasks={kind: kinds.count(kind) for kind in dict.fromkeys(kinds)},
            csp=policy(),
        )
    )
    write_text(path, html)


def _cards(
    build: Build, videos: Sequence[Record], reader: MediaReader, pictures: int
) -> Iterator[dict[str, Any]]:
    after = build.after(videos)
    chosen: list[tuple[str, Record]] = [("kept", item) for item in after["agree"][:pictures]]
    items: Sequence[Record] = videos
    for name in STAGES:
        dropped = [
            (f"dropped: {outcome.reason}", outcome.record)
            for outcome in build.passes[name].dropped(items)
            if "annotation" in outcome.record
        ]
        chosen += dropped[:pictures]
        items = after[name]
    for place, (kind, item) in enumerate(chosen):
        row = _row(item)
        for entry in sampled([row] if row else [], reader):
            yield card(place, entry) | {
                "task": kind[:LONGEST_KIND],
                "objects_are": ("What became of each box", "verdict"),
                "objects": [
                    (f"{box['time']:.1f} s", box["name"], box["verdict"])
                    for box in item.get("boxes", ())
                ],
            }


def _row(item: Record) -> Row | None:
    """The row that the annotation would make; None where it makes none."""
    annotation = Annotation.model_validate(item["annotation"])
    try:
        return row_of(record_of(item["id"], item["video"], annotation), MediaRoots({}))
    except (RowError, TruthError, MediaError):
        return None


def _facts(report: BuildReport) -> list[tuple[str, str]]:
    tokens = sum(each["prompt_tokens"] for each in report.costs.values())
    written = sum(each["completion_tokens"] for each in report.costs.values())
    return [
        ("videos", f"{report.videos:,}"),
        ("rows", f"{report.imported.rows:,}"),
        ("left for the next run", f"{sum(left_of(report)):,}"),
        ("tokens in", f"{tokens:,}"),
        ("tokens out", f"{written:,}"),
    ]


def build_sections(report: BuildReport) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Tables of (words, count, example) under a heading; only those that hold something."""
    tables: list[tuple[str, list[tuple[str, str, str]]]] = []
    for (name, stage), left in zip(report.stages.items(), left_of(report), strict=True):
        lines = [("went on", f"{stage.kept:,}", f"of {stage.items:,}")]
        lines += _lines("dropped: ", stage.dropped)
        lines += [("left for the next run", f"{left:,}", "")] if left else []
        tables.append((f"Pass: {name}", lines + _lines("left: ", stage.left)))
    costs = [
        (
            f"{name}: answers",
            f"{spent['answers']:,}",
            f"{spent['unusable']:,} of no use; tokens: {spent['prompt_tokens']:,} in, "
            f"{spent['completion_tokens']:,} out",
        )
        for name, spent in report.costs.items()
    ]
    boxes = [(verdict, f"{count:,}", "") for verdict, count in report.boxes.items()]
    tables += [("Boxes", boxes), ("Costs", costs)]
    tables.append(("Rejected as rows", _lines("", report.imported.rejected)))
    tables.append(("Doubted as rows", _lines("", report.imported.doubted)))
    return [(words, lines) for words, lines in tables if lines]


def left_of(report: BuildReport) -> list[int]:
    """How many items each stage left for the next run, those that it never came to included."""
    return [
        stage.items - stage.kept - sum(each.count for each in stage.dropped.values())
        for stage in report.stages.values()
    ]


def _lines(words: str, counts: Mapping[str, Counted]) -> list[tuple[str, str, str]]:
    return [(f"{words}{reason}", f"{c.count:,}", c.example) for reason, c in counts.items()]
