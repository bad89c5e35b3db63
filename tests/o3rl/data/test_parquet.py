from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from o3rl.data import parquet
from o3rl.data.parquet import fingerprint, read_rows, read_tasks, write_rows
from o3rl.types import KeyFrame, Row, Task, Truth

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
number = st.floats(allow_nan=False, allow_infinity=False)
box = st.tuples(number, number, number, number)
objects = st.lists(st.tuples(text, st.lists(box, max_size=3).map(tuple)), max_size=3).map(tuple)
key_frame = st.builds(
    KeyFrame,
    time=st.floats(0, allow_nan=False, allow_infinity=False),
    objects=objects,
    path=st.none() | text,
)
truth = st.builds(
    Truth,
    text=text,
    letter=st.none() | text,
    interval=st.none() | st.tuples(number, number),
    box=st.none() | box,
    key_frames=st.lists(key_frame, max_size=3).map(tuple),
)
side = st.integers(1, 2**40)
row = st.builds(
    Row,
    id=text,
    task=st.sampled_from(Task),
    source=text,
    question=text,
    media=text,
    truth=truth,
    image_size=st.none() | st.tuples(side, side),
    reasoning=st.none() | text,
    part=st.none() | st.tuples(number, number),
)


def plain(number: int, task: Task = Task.FREE_FORM) -> Row:
    return Row(f"r{number}", task, "s", "What?", "v.mp4", Truth(f"answer {number}"))


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(rows=st.lists(row, min_size=1, max_size=8))
def test_round_trip_is_exact(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    assert write_rows(rows, folder) == len(rows)
    assert list(read_rows(folder)) == rows


def test_a_data_set_without_parts_reads_as_whole_videos(tmp_path):
    write_rows([plain(0)], tmp_path)
    [file] = tmp_path.glob("task=*/*.parquet")
    older = pq.read_table(file, partitioning=None).drop_columns("part")
    pq.write_table(older, file)
    assert list(read_rows(tmp_path)) == [plain(0)]


def test_rows_over_several_groups_and_files_keep_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "ROWS_PER_GROUP", 4)
    monkeypatch.setattr(parquet, "ROWS_PER_FILE", 8)
    tasks = list(Task)
    rows = [plain(i, tasks[i * i % 3]) for i in range(50)]
    assert write_rows(iter(rows), tmp_path) == 50
    assert list(read_rows(tmp_path)) == rows
    first = read_rows(tmp_path, limit=7)
    assert list(first) == first[:] == rows[:7]
    assert (first[-1], first[2:4], first.tasks) == (rows[6], rows[2:4], [r.task for r in rows[:7]])
    assert len(list(tmp_path.glob("task=*/*.parquet"))) > 4
    assert {path.name for path in tmp_path.iterdir()} == {f"task={t.name}" for t in tasks[:2]}


def test_files_are_typed_compressed_and_versioned(tmp_path):
    write_rows([plain(0)], tmp_path)
    file = pq.ParquetFile(tmp_path / "task=FREE_FORM" / "part-00000.parquet")
    assert file.schema_arrow.metadata[b"o3rl.schema"] == b"1"
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    assert file.schema_arrow.field("key_frames").type == parquet.SCHEMA.field("key_frames").type


def test_a_new_data_set_replaces_the_old_one(tmp_path):
    write_rows([plain(0, Task.MCQ), plain(1)], tmp_path)
    (tmp_path / "import.json").write_text("{}")
    write_rows([plain(2)], tmp_path)
    assert list(read_rows(tmp_path)) == [plain(2)]
    assert (tmp_path / "import.json").exists()


def test_a_failed_write_leaves_the_old_data_set(tmp_path):
    write_rows([plain(0)], tmp_path)

    def failing():
        yield plain(1)
        raise RuntimeError("source broke")

    with pytest.raises(RuntimeError, match="source broke"):
        write_rows(failing(), tmp_path)
    assert list(read_rows(tmp_path)) == [plain(0)]
    write_rows([plain(2)], tmp_path)
    assert list(read_rows(tmp_path)) == [plain(2)]


def test_no_rows_leave_the_old_data_set(tmp_path):
    write_rows([plain(0)], tmp_path)
    assert write_rows([], tmp_path) == 0
    assert list(read_rows(tmp_path)) == [plain(0)]
    assert [path.name for path in tmp_path.iterdir()] == ["task=FREE_FORM"]


@pytest.mark.parametrize("moves", range(4))
def test_killed_while_the_new_one_takes_its_place_both_are_there(tmp_path, monkeypatch, moves):
    """Two folders of each: the old ones go aside, the new ones come; `moves` of these are made."""
    write_rows([plain(0, Task.MCQ), plain(1)], tmp_path)
    rename, made = Path.rename, iter(range(4))

    def killed(path: Path, to: Path) -> None:
        if next(made) == moves:
            raise KeyboardInterrupt
        rename(path, to)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            write_rows([plain(2, Task.MCQ), plain(3)], tmp_path)
    for name in ("MCQ", "FREE_FORM"):
        assert len(list(tmp_path.rglob(f"task={name}/*.parquet"))) == 2
    with pytest.raises(ValueError, match=r"cut short.*\.old"):
        read_rows(tmp_path)
    write_rows([plain(4)], tmp_path)
    assert list(read_rows(tmp_path)) == [plain(4)]


def test_a_row_that_utf8_cannot_hold_is_named(tmp_path):
    with pytest.raises(ValueError, match="'r\\\\udc80'"):
        write_rows([Row("r\udc80", Task.MCQ, "", "", "", Truth("A"))], tmp_path)


def test_clear_errors(tmp_path):
    with pytest.raises(ValueError, match=r"no data set at .*nowhere.*o3rl data import"):
        read_rows(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"holds no data set.*o3rl data import"):
        read_rows(tmp_path)
    assert write_rows([], tmp_path) == 0
    with pytest.raises(ValueError, match=r"holds no data set.*o3rl data import"):
        read_rows(tmp_path)
    folder = tmp_path / "task=MCQ"
    folder.mkdir()
    pq.write_table(parquet.SCHEMA.empty_table(), folder / "part-00000.parquet")
    with pytest.raises(ValueError, match=r"has no rows.*o3rl data import"):
        read_rows(tmp_path)
    (folder / "part-00000.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(ValueError, match=r"no readable Parquet.*o3rl data import"):
        read_rows(tmp_path)
    newer = parquet.SCHEMA.empty_table().replace_schema_metadata({b"o3rl.schema": b"2"})
    pq.write_table(newer, folder / "part-00000.parquet")
    with pytest.raises(ValueError, match=r"schema version 2.*reads 1.*o3rl data import"):
        read_rows(tmp_path)
    pq.write_table(pa.table({"a": [1]}), folder / "part-00000.parquet")
    with pytest.raises(ValueError, match="schema version none"):
        read_rows(tmp_path)


def test_tasks_are_those_of_the_rows(tmp_path):
    rows = [replace(plain(i), task=Task.MCQ if i % 3 else Task.VISUAL) for i in range(7)]
    write_rows(rows, tmp_path)
    for limit in (0, 2, 4, 9):
        expected = [row.task for row in read_rows(tmp_path, limit=limit)]
        assert read_tasks(tmp_path, limit=limit) == expected
    assert expected == [row.task for row in rows]


def test_fingerprint_tells_data_sets_apart(tmp_path):
    for name, rows in [("a", [plain(0)]), ("b", [plain(0)]), ("c", [plain(1)])]:
        write_rows(rows, tmp_path / name)
    assert len(fingerprint(tmp_path / "a")) == 16
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b")
    assert fingerprint(tmp_path / "a") != fingerprint(tmp_path / "c")
    with pytest.raises(ValueError, match="no data set"):
        fingerprint(tmp_path / "nowhere")
