import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from o3rl.data import json_records
from o3rl.data.json_records import BadRecord
from o3rl.data.record_files import read_records

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


@settings(deadline=None)
@given(
    records=st.lists(values, max_size=6), chunk=st.integers(1, 40), indent=st.none() | st.just(1)
)
def test_a_list_is_read_alike_in_any_chunks(records, chunk, indent, tmp_path_factory):
    path = tmp_path_factory.mktemp("json") / "list.json"
    path.write_text(json.dumps(records, indent=indent, ensure_ascii=False), encoding="utf-8")
    whole, json_records.CHUNK = json_records.CHUNK, chunk
    try:
        assert list(read_records(path)) == records
    finally:
        json_records.CHUNK = whole


@given(records=st.lists(values.filter(lambda value: not isinstance(value, list)), max_size=6))
def test_lines(records, tmp_path_factory):
    path = tmp_path_factory.mktemp("json") / "lines.jsonl"
    path.write_text("\n\n".join(map(json.dumps, records)))
    assert list(read_records(path)) == records


def test_a_bad_line_costs_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(json_records, "LONGEST", 100)
    lines = [b'{"a": 1}', b"{broken", b'{"a": "\xff"}', b'"' + b"x" * 300 + b'"', b'{"a": 2}']
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines))
    read = list(read_records(path))
    assert [value for value in read if not isinstance(value, BadRecord)] == [{"a": 1}, {"a": 2}]
    assert [(bad.reason, bad.where[:6]) for bad in read if isinstance(bad, BadRecord)] == [
        ("record is no JSON", "line 2"),
        ("record is not valid Unicode", "line 3"),
        ("record is too long", "line 4"),
    ]


def test_nesting_that_python_cannot_follow_is_a_bad_line(tmp_path):
    path = tmp_path / "deep.jsonl"
    path.write_text('{"a": ' + "[" * 100_000 + "\n" + '{"a": 1}\n')
    bad, good = read_records(path)
    assert isinstance(bad, BadRecord)
    assert good == {"a": 1}


@pytest.mark.parametrize(
    ("text", "read", "message"),
    [
        ('[{"a": 1}, {"a": 2}', 2, r"record 3.*expected '\]', found 'the end of the file'"),
        ('[{"a": 1}, {"a', 1, "record 2, near character 11"),
        ('[{"a": 1} {"a": 2}]', 1, r"expected '\]', found '\{'"),
        ('[{"a": 1},]', 1, "record 2"),
        ('[{"a": 1}] more', 1, "text follows the end"),
        ("[" * 100_000, 0, "record 1"),
    ],
)
def test_a_damaged_list_is_an_error_after_what_was_good(tmp_path, text, read, message):
    path = tmp_path / "list.json"
    path.write_text(text)
    seen = []
    with pytest.raises(ValueError, match=message):
        seen.extend(read_records(path)) if read == 0 else [
            seen.append(value) for value in read_records(path)
        ]
    assert len(seen) == read


@pytest.mark.parametrize("start", ['[{"a": broken', "[0.x", '[{"a": 1}x', "[12x"])
def test_a_damaged_record_does_not_read_the_whole_file(tmp_path, monkeypatch, start):
    monkeypatch.setattr(json_records, "CHUNK", 100)
    monkeypatch.setattr(json_records, "LONGEST", 1000)
    path = tmp_path / "list.json"
    path.write_text(start + " " * 100_000)
    records = json_records._Stream(path.open("rb"), path)
    with pytest.raises(ValueError, match="the JSON list is damaged"):
        list(records.elements())
    assert len(records._text) < 5000


@pytest.mark.parametrize("text", ["", " \n ", "[]", "\ufeff[ ]"])
def test_no_records(tmp_path, text):
    path = tmp_path / "empty.json"
    path.write_text(text, encoding="utf-8")
    assert list(read_records(path)) == []


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*nowhere"):
        list(read_records(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="no file"):
        list(read_records(tmp_path))
