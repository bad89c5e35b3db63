import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from o3rl.data.media_paths import MediaRoots
from o3rl.data.parquet import read_rows
from o3rl.data.stgr import import_file, import_records
from o3rl.media.decoder import MediaError
from o3rl.types import KeyFrame, Row, Task, Truth

ROOTS = MediaRoots({})

MCQ = {
    "id": "a1",
    "task": "General video QA MCQ",
    "source": "videor1_x",
    "question": "Which?\nA. this\nB. that",
    "answer": "B",
    "video_path": "c/v.mp4",
    "image_path": "",
    "image_size": [],
    "key_frames": [],
    "key_items": {},
}
EVIDENCE = MCQ | {
    "id": "a2",
    "task": "temporal-spatial free-form QA",
    "source": "STR_plm_rdcap",
    "answer": "A dog runs.",
    "key_frames": [
        {"idx": 2, "time": 7.5, "path": "v_2.jpg"},
        {"idx": 1, "time": 2.0, "path": "v_1.jpg"},
    ],
    "key_items": {"1": {"dog": [[0.1, 0.1, 0.3, 0.3]]}, "2": {"red car": [[0.2, 0.2, 0.4, 1.005]]}},
    "reasoning_process": (
        "<think>The <obj>dog</obj><box>[0.1, 0.1, 0.3, 0.3]</box>at<t>2.0</t>s and "
        "<obj>red car</obj><box>[0.2,0.2,0.4,1.005]</box>at<t>7.5</t>s</think>"
    ),
}
TEMPORAL = MCQ | {"id": "a3", "task": "temporal QA", "source": "timerft", "answer": "[2, 8.5]"}
BOTH = MCQ | {"id": "a4", "task": "temporal QA (MCQ)", "source": "TVG_a", "answer": "A\n[2.0, 8.5]"}
VISUAL = MCQ | {
    "id": 5,
    "task": "visual QA",
    "source": "gqa",
    "answer": "<obj>cup</obj><box>[64,48,320,240]</box>",
    "image_path": "1.jpg",
    "image_size": [640, 480],
    "reasoning_process": "The <obj>cup</obj><box>[64,48,320,241]</box> is red.",
}
FREE = MCQ | {"id": "a6", "task": "General video QA Free-form", "source": "mine", "answer": "Two."}
EVERY = [MCQ, EVIDENCE, TEMPORAL, BOTH, VISUAL, FREE]


def imported(records: list, out: Path, **options):
    return import_records(records, out, name="test", **options)


def reasons(report) -> dict[str, int]:
    return {reason: counted.count for reason, counted in report.rejected.items()}


@pytest.mark.parametrize("form", ["list", "lines"])
def test_all_six_tasks(tmp_path, form):
    source = tmp_path / "STGR.json"
    if form == "list":
        source.write_text(json.dumps(EVERY, indent=1))
    else:
        source.write_text("\n".join(map(json.dumps, EVERY)))
    report = import_file(source, tmp_path / "out")
    assert (report.read, report.rows, report.rejected) == (6, 6, {})
    assert report.by_task == {task.value: 1 for task in Task}
    assert report.by_source["gqa"] == 1
    mcq, evidence, temporal, both, visual, free = read_rows(tmp_path / "out")
    assert mcq == Row(
        "a1",
        Task.MCQ,
        "videor1_x",
        "Which?\nA. this\nB. that",
        "videor1/c/v.mp4",
        Truth("B", letter="B"),
    )
    assert evidence.media == "stgr/plm/videos/c/v.mp4"
    assert evidence.truth.key_frames == (
        KeyFrame(2.0, (("dog", ((0.1, 0.1, 0.3, 0.3),)),), "stgr/plm/kfs/v_1.jpg"),
        KeyFrame(7.5, (("red car", ((0.2, 0.2, 0.4, 1.0),)),), "stgr/plm/kfs/v_2.jpg"),
    )
    assert evidence.reasoning == (
        "The <obj>dog</obj><box>[0.1,0.1,0.3,0.3]</box>at<t>2.0</t>s and "
        "<obj>red car</obj><box>[0.2,0.2,0.4,1.0]</box>at<t>7.5</t>s"
    )
    assert (temporal.media, temporal.truth.interval) == ("timerft/c/v.mp4", (2.0, 8.5))
    assert (both.media, both.truth.letter) == ("tvg_r1/c/v.mp4", "A")
    assert visual.id == "5"
    assert (visual.media, visual.image_size) == ("gqa/1.jpg", (640, 480))
    assert visual.truth.box == pytest.approx((0.1, 0.1, 0.5, 0.5))
    # 241 / 480 = 0.502083…
    assert visual.reasoning == "The <obj>cup</obj><box>[0.1,0.1,0.5,0.50208]</box> is red."
    assert (free.media, free.truth.text) == ("c/v.mp4", "Two.")


def test_the_report_lies_beside_the_rows(tmp_path):
    imported([*EVERY, 7], tmp_path)
    written = json.loads((tmp_path / "import.json").read_text())
    assert (written["source"], written["read"], written["rows"]) == ("test", 7, 6)
    assert written["rejected"] == {
        "record is no object": {"count": 1, "example": "record 7: record is no object: 7"}
    }
    assert written["mended"]["reasoning boxes cut at the frame's edge"]["count"] == 1
    assert written["mended"]["reasoning's own tags of thought or answer taken away"] == {
        "count": 1,
        "example": "id 'a2'",
    }
    assert written["mended"]["true box cut at the frame's edge"] == {
        "count": 1,
        "example": "id 'a2'",
    }


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (None, "record is no object"),
        ([], "record is no object"),
        ({}, "unknown task"),
        (MCQ | {"id": None}, "no id"),
        (MCQ | {"id": True}, "no id"),
        (MCQ | {"task": ["x"]}, "unknown task"),
        (MCQ | {"question": " "}, "no question"),
        (MCQ | {"source": 3}, "no source"),
        (MCQ | {"answer": "Bee"}, "answer is no option letter"),
        (MCQ | {"video_path": None}, "no video_path"),
        (MCQ | {"video_path": "../v.mp4"}, "path leaves the media root"),
        (MCQ | {"video_path": "a/../../v.mp4"}, "path leaves the media root"),
        (MCQ | {"video_path": "/etc/passwd"}, "path leaves the media root"),
        (MCQ | {"video_path": "a\0b"}, "path leaves the media root"),
        (MCQ | {"question": "\ud800"}, "record is not valid Unicode"),
        (MCQ | {"reasoning_process": 3}, "reasoning is no text"),
        (TEMPORAL | {"answer": "at the end"}, "answer has no interval"),
        (EVIDENCE | {"key_frames": []}, "no key frames"),
        (EVIDENCE | {"key_items": {"1": {"dog": [[0, 0, 1, 1]]}}}, "key_items lacks idx"),
        (EVIDENCE | {"reasoning_process": "<box>[1,2,30,40]</box>"}, None),
        (EVIDENCE | {"reasoning_process": "<box>[0,0,1]</box>"}, None),
        (EVIDENCE | {"reasoning_process": "<box>x</box>"}, None),
        (EVIDENCE | {"reasoning_process": "<box>[0,0,1,1]"}, "reasoning has an unpaired box"),
        (MCQ | {"reasoning_process": "<think>a"}, "reasoning has an unpaired or repeated tag"),
        (VISUAL | {"image_path": ""}, "no image_path"),
        (VISUAL | {"image_size": None}, "no image_size"),
        (VISUAL | {"image_size": [1e300, 1e300]}, None),
        (VISUAL | {"answer": "a cup", "reasoning_process": None}, "answer has no box"),
    ],
)
def test_a_bad_record_costs_itself(tmp_path, record, reason):
    report = imported([record, FREE], tmp_path)
    assert report.rows == 1
    assert sum(reasons(report).values()) == 1
    if reason is not None:
        assert reasons(report) == {reason: 1}
    (counted,) = report.rejected.values()
    assert counted.example.startswith("record 1")


def test_duplicates_are_rejected_but_a_mended_retry_is_not(tmp_path):
    report = imported([MCQ | {"answer": "?"}, MCQ, MCQ], tmp_path)
    assert report.rows == 1
    assert reasons(report) == {"answer is no option letter": 1, "id was there before": 1}


def test_ids_that_sources_share_lose_no_row(tmp_path):
    shared = [FREE | {"id": 1, "source": source} for source in ("gqa", "timerft", "", "timerft")]
    report = imported(shared, tmp_path)
    assert [row.id for row in read_rows(tmp_path)] == ["1", "timerft/1", "/1"]
    assert report.mended["id is another source's too: the source put before it"].count == 2
    assert reasons(report) == {"id was there before": 1}


def test_media_that_cannot_be_had(tmp_path):
    root = tmp_path / "media"
    (root / "gqa").mkdir(parents=True)
    (root / "gqa" / "1.jpg").write_bytes(b"x")
    (root / "timerft" / "c").mkdir(parents=True)
    (root / "timerft" / "c" / "v.mp4").write_bytes(b"")
    (tmp_path / "elsewhere.mp4").write_bytes(b"x")
    (root / "tvg_r1" / "c").mkdir(parents=True)
    (root / "tvg_r1" / "c" / "v.mp4").symlink_to(tmp_path / "elsewhere.mp4")
    (root / "stgr/plm/videos/c").mkdir(parents=True)
    (root / "stgr/plm/videos/c/v.mp4").write_bytes(b"x")
    (root / "c" / "v.mp4").mkdir(parents=True)
    report = imported(EVERY, tmp_path / "out", media=root)
    # A link out of the root is its owner's own.
    assert [row.id for row in read_rows(tmp_path / "out")] == ["a2", "a4", "5"]
    assert reasons(report) == {"media missing": 1, "media empty": 1, "media not a file": 1}
    assert report.mended["key frame's image cannot be had: the video's is taken"].count == 2
    with pytest.raises(ValueError, match=r"media root .*nowhere is no folder"):
        imported(EVERY, tmp_path / "out", media=tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("source", "media", "key_frame"),
    [
        ("STR_plm_rdcap", "stgr/plm/videos/x", "stgr/plm/kfs/x"),
        ("STR_vidstg", "stgr/temporal_grounding/videos/x", "stgr/temporal_grounding/kfs/x"),
        ("TVG_1", "tvg_r1/x", "tvg_r1/x"),
        ("timerft", "timerft/x", "timerft/x"),
        ("timerft2", "x", "x"),
        ("TreeVGR", "treevgr/x", "treevgr/x"),
        ("gqa", "gqa/x", "gqa/x"),
        ("videoespresso_train_video", "videoespresso/videos/x", "videoespresso/kfs/x"),
        ("videor1", "videor1/x", "videor1/x"),
        ("videor1_clevrer", "videor1/x", "videor1/x"),
        ("", "x", "x"),
    ],
)
def test_published_map(source, media, key_frame):
    assert ROOTS.media(source, "x") == media
    assert ROOTS.key_frame(source, "x") == key_frame


def test_own_map_goes_first():
    roots = MediaRoots({"gqa": "pictures", "STR_*": "all/{v,k}", "*new": "."})
    assert roots.media("gqa", "x") == "pictures/x"
    assert roots.key_frame("STR_plm_1", "x") == "all/k/x"
    assert roots.media("brandnew", "a/./x") == "a/x"
    assert roots.media("TreeVGR", "x") == "treevgr/x"


@pytest.mark.parametrize("root", ["/data", "../data", "a/../..", "{a,b", "{a,b,c}", "x/{../..,k}"])
def test_a_wrong_map_fails_by_name(tmp_path, root):
    with pytest.raises(ValueError, match=r"'gqa' is .*below the media root"):
        imported(EVERY, tmp_path, source_map={"gqa": root})


def test_paths_below_a_source_cannot_leave_it():
    with pytest.raises(MediaError, match="leaves the media root"):
        ROOTS.media("gqa", "../timerft/v.mp4")


def test_a_damaged_list_keeps_the_old_data_set(tmp_path):
    source, out = tmp_path / "a.json", tmp_path / "out"
    imported([MCQ], out)
    source.write_text(json.dumps(EVERY)[:-20])
    with pytest.raises(ValueError, match="damaged in record 6"):
        import_file(source, out)
    assert [row.id for row in read_rows(out)] == ["a1"]


def test_an_import_without_a_row_keeps_the_old_data_set_and_its_report(tmp_path):
    assert imported([MCQ | {"answer": "?"}], tmp_path).rows == 0
    assert json.loads((tmp_path / "import.json").read_text())["rows"] == 0
    imported([MCQ], tmp_path)
    assert imported([MCQ | {"answer": "?"}], tmp_path).rows == 0
    assert [row.id for row in read_rows(tmp_path)] == ["a1"]
    assert json.loads((tmp_path / "import.json").read_text())["rows"] == 1


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(EVERY),
            st.dictionaries(st.sampled_from([*EVIDENCE]), junk, max_size=3),
            st.lists(st.sampled_from([*MCQ]), max_size=2),
        ),
        max_size=40,
    )
)
def test_every_damaged_record_is_accepted_or_counted(tmp_path_factory, changes):
    records = []
    for record, changed, dropped in changes:
        records.append({k: v for k, v in (record | changed).items() if k not in dropped})
    out = tmp_path_factory.mktemp("out")
    report = imported(records, out)
    assert report.read == len(records) == report.rows + sum(reasons(report).values())
    if report.rows:
        assert len(read_rows(out)) == report.rows
