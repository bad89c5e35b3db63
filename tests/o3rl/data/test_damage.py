"""1,000 damaged rows, 40 damaged videos: each is counted by a reason, and none stops anything."""

import asyncio
import json
from collections import Counter

import pytest

from o3rl.config import FramesConfig
from o3rl.data.parquet import read_rows
from o3rl.data.row_order import RowOrder
from o3rl.data.stgr import import_file
from o3rl.loop.prompt_source import PromptSource
from o3rl.media.decoder import MediaError
from o3rl.media.probe import Medium, probe_all
from o3rl.media.reader import MediaReader
from o3rl.persistence.ledger import SKIPPED, Ledger
from o3rl.types import Failure, FailureKind, Row, Task, Truth
from tests.data.damage import VIDEO_DAMAGE, damaged_records, damaged_videos
from tests.o3rl.data.test_stgr import EVERY, FREE, MCQ

GOOD = [record | {"id": f"good-{i}-{record['id']}"} for i in range(4) for record in EVERY]
NO_OBJECTS = [b"{", b"}{", b'{"id": ', b'{"id": "\xff\xfe"}', b"not json", b'{"id": 1,}',
              b"\x00\x01", b"{'id': 1}", b"[" * 50_000, b'{"a":' * 50_000, b'"cut', b"nul", b"--1",
              b'{"id": 1} {"id": 2}']  # fmt: skip


@pytest.mark.parametrize("form", ["list", "lines"])
def test_of_a_thousand_damaged_rows_each_is_counted(tmp_path, form):
    lines = (8 * NO_OBJECTS)[:100] if form == "lines" else []
    damaged = damaged_records(EVERY, 1000 - len(lines), seed=0)
    records = [json.dumps(record).encode() for record in [*GOOD, *damaged]]
    records[5:5] = lines
    # Deeper than Python can follow, of which a list too must lose no more than this one.
    records.append(b'{"id": "deep", "answer": ' + b"[" * 20_000 + b"]" * 20_000 + b"}")
    source = tmp_path / "damaged.json"
    source.write_bytes(
        b"\n".join(records) if form == "lines" else b"[" + b",\n".join(records) + b"]"
    )
    report = import_file(source, tmp_path / "out")
    assert report.read == len(GOOD) + 1001
    assert [row.id for row in read_rows(tmp_path / "out")] == [row["id"] for row in GOOD]
    assert sum(counted.count for counted in report.rejected.values()) == 1001
    assert report.rejected["record is nested too deeply"].count >= 1
    assert len(report.rejected) > 25
    assert all(counted.example for counted in report.rejected.values())
    written = json.loads((tmp_path / "out" / "import.json").read_text())
    assert {reason: each["count"] for reason, each in written["rejected"].items()} == {
        reason: counted.count for reason, counted in report.rejected.items()
    }


@pytest.mark.parametrize("depth", [300, 900, 990, 3000])
def test_nested_junk_anywhere_costs_its_record(tmp_path, depth):
    nested = "[" * depth + "]" * depth
    records = [
        json.dumps(MCQ | {key: "NESTED"}).replace('"NESTED"', nested)
        for key in ("id", "task", "question", "answer", "source", "video_path")
    ]
    source = tmp_path / "nested.json"
    source.write_text(f"[{','.join([*records, json.dumps(FREE)])}]")
    report = import_file(source, tmp_path / "out")
    assert (report.read, report.rows) == (7, 1)


def test_a_number_that_python_refuses_costs_its_record(tmp_path):
    source = tmp_path / "huge.json"
    huge = json.dumps(MCQ | {"answer": 0}).replace('"answer": 0', f'"answer": {"9" * 5000}')
    source.write_text(f"[{huge},{json.dumps(FREE)}]")
    report = import_file(source, tmp_path / "out")
    assert {reason: each.count for reason, each in report.rejected.items()} == {
        "answer is no text": 1
    }


@pytest.fixture(scope="module")
def forty(videos, tmp_path_factory):
    """A media root with two good and forty damaged videos, and the kind of each of these."""
    root = tmp_path_factory.mktemp("media")
    good = (videos / "good.mp4").read_bytes()
    for name in ("a.mp4", "b.mp4"):
        (root / name).write_bytes(good)
    return root, dict(damaged_videos(good, root, 40, seed=0))


def test_of_forty_damaged_videos_each_has_a_reason(forty):
    root, kinds = forty
    assert len(kinds) == 40
    assert set(kinds.values()) == set(VIDEO_DAMAGE)
    media = [Medium(name, False) for name in ["a.mp4", *kinds, "b.mp4"]]
    found = {probe.medium.path: probe for probe in probe_all(root, media, seconds=20)}
    assert len(found) == 42
    assert (found["a.mp4"].reason, found["b.mp4"].frames) == ("", 40)
    by_kind = {
        kind: {found[n].reason for n, k in kinds.items() if k == kind} for kind in VIDEO_DAMAGE
    }
    unreadable = {"no readable video", "frames cannot be decoded", "fewer frames than planned"}
    for kind in ("truncated", "random bytes", "wrong codec", "huge header", "zeros", "text"):
        assert by_kind.pop(kind) <= unreadable, kind
    assert by_kind == {
        "empty": {"empty"},
        "folder": {"not a file"},
        "link out of the root": {"not a file"},
        "link to nothing": {"missing"},
        "link to itself": {"path cannot be resolved"},
        "missing": {"missing"},
    }


def test_an_epoch_with_forty_damaged_videos_ends_with_each_in_the_ledger(forty):
    root, kinds = forty
    names = ["a.mp4", *kinds, "b.mp4"]
    rows = [Row(name, Task.FREE_FORM, "", "What?", name, Truth("a")) for name in names]
    reader = MediaReader(root, FramesConfig(pixels=28 * 28, decode_seconds=20))

    class Media:
        async def prepare(self, row: Row, *, training: bool):
            try:
                planned = reader.plan(row, training=training)
                reader.read(planned)
            except MediaError as error:
                return Failure(None, None, error.reason, FailureKind.FILE)
            return planned.plan, planned.key

    async def epoch():
        order = RowOrder([row.task for row in rows], 0)
        source = PromptSource(rows, order, Media(), ledger, planned=3)
        while len(ledger.rows_of(0)) < len(rows):
            await source.next()

    ledger = Ledger()
    try:
        asyncio.run(epoch())
    finally:
        reader.close()
    entries = [entry for entry in ledger.entries() if entry.epoch == 0]
    assert sorted(entry.row for entry in entries) == sorted(names)
    skipped = {entry.row: entry.reason for entry in entries if entry.outcome == SKIPPED}
    assert skipped.keys() == kinds.keys()
    assert all(skipped.values())
    assert Counter(skipped.values())["missing"] == sum(
        kind in ("missing", "link to nothing") for kind in kinds.values()
    )
