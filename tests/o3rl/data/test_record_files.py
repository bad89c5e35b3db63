"""The same records out of every kind of file."""

import csv
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from o3rl.data.json_records import BadRecord
from o3rl.data.parquet import read_rows
from o3rl.data.record_files import read_records
from o3rl.data.stgr import import_file
from tests.o3rl.data.test_stgr import EVERY, EVIDENCE, MCQ

THREE = [MCQ, MCQ | {"id": "b"}, EVIDENCE]


def as_lines(records) -> str:
    return "\n".join(map(json.dumps, records))


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(THREE),
        json.dumps(THREE, indent=2),
        json.dumps({"data": THREE}),
        json.dumps({"data": THREE}, indent=2),
        json.dumps({"info": {"n": 3, "of": [1]}, "version": "1", "rows": THREE}, indent=1),
        json.dumps({"train": THREE[:2], "val": THREE[2:]}, indent=1),
        '{"data": [\n' + ",\n".join(map(json.dumps, THREE)) + "\n]}",
        as_lines(THREE),
        "\n".join(json.dumps(record, indent=1) for record in THREE),
        "\ufeff" + as_lines(THREE),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_json(tmp_path, text, packed):
    path = tmp_path / "rows.json"
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    assert list(read_records(path)) == THREE


def test_one_record_in_an_envelope_is_a_record(tmp_path):
    path = tmp_path / "one.json"
    path.write_text('{"data": [\n' + json.dumps(MCQ) + "\n]}")
    assert list(read_records(path)) == [MCQ]


def test_a_first_line_that_is_damaged_costs_itself(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": "cut", "task": "temp\n' + as_lines(THREE))
    bad, *good = read_records(path)
    assert isinstance(bad, BadRecord)
    assert good == THREE


def test_a_cut_envelope_is_an_error(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"data": THREE}, indent=1)[:-30])
    with pytest.raises(ValueError, match="damaged in record 3"):
        list(read_records(path))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_csv(tmp_path, packed, ending):
    path = tmp_path / f"rows.{ending}{'.gz' if packed else ''}"
    names = list(MCQ | EVIDENCE)
    open_as = gzip.open if packed else open
    with open_as(path, "wt", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t" if ending == "tsv" else ",")
        writer.writerow(names)
        for record in EVERY:
            cells = (record.get(name, "") for name in names)
            writer.writerow([c if isinstance(c, str | int) else json.dumps(c) for c in cells])
    report = import_file(path, tmp_path / "out")
    assert (report.rows, report.rejected) == (6, {})
    import_file(_written(tmp_path / "rows.json", EVERY), tmp_path / "same")
    assert list(read_rows(tmp_path / "out")) == list(read_rows(tmp_path / "same"))


@pytest.mark.parametrize("nested", [True, False], ids=["structs", "text"])
def test_parquet(tmp_path, nested):
    """As `pandas` or `datasets` write them: structs have every key that any row has, as nulls."""
    records = [record | {"id": str(record["id"])} for record in EVERY]
    other = EVIDENCE | {
        "id": "a7", "key_frames": [{"idx": 9, "time": 1.0, "path": ""}],
        "key_items": {"9": {"cat": [[0.1, 0.1, 0.3, 0.3]]}},
        "reasoning_process": None,
    }  # fmt: skip
    records.append(other)
    if not nested:
        for name in ("key_frames", "key_items", "image_size"):
            records = [record | {name: json.dumps(record[name])} for record in records]
    else:
        records = [record | {"key_items": record["key_items"] or None} for record in records]
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "rows.parquet")
    report = import_file(tmp_path / "rows.parquet", tmp_path / "out")
    assert (report.rows, report.rejected) == (7, {})
    rows = {row.id: row for row in read_rows(tmp_path / "out")}
    assert [name for name, _ in rows["a7"].truth.key_frames[0].objects] == ["cat"]
    assert len(rows["a2"].truth.key_frames) == 2


def test_damaged_files_are_told(tmp_path):
    path = tmp_path / "rows.json.gz"
    path.write_bytes(gzip.compress(as_lines(THREE).encode())[:-20])
    with pytest.raises(ValueError, match="damaged gzip"):
        list(read_records(path))
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "good.parquet")
    path = tmp_path / "rows.parquet"
    path.write_bytes((tmp_path / "good.parquet").read_bytes()[:-30])
    with pytest.raises(ValueError, match="damaged Parquet"):
        list(read_records(path))


def test_a_csv_line_with_too_many_cells_costs_itself(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('id,task\n1,"a, b"\n2,a,b\n3,c\n')
    first, bad, third = read_records(path)
    assert (first, third) == ({"id": "1", "task": "a, b"}, {"id": "3", "task": "c"})
    assert isinstance(bad, BadRecord)


def _written(path, records):
    path.write_text(json.dumps(records))
    return path
