"""A run over a fake asker: calls, rows that fail, and going on after a kill."""

import asyncio
import json
from dataclasses import replace

import pytest
from golden_values import golden

from o3rl.benchmarks.registry import BENCHMARKS, benchmark_named, scorer_named
from o3rl.benchmarks.runner import Call, Runner, Scoring, Shown, chat, load_rows, read_list, result

VSTAR, TVG = benchmark_named("vstar"), benchmark_named("TVGBench")
ROWS = [stored["row"] for stored in golden("vstar_scores")["rows"][:4]]


async def frames(path, *_):
    if path.stat().st_size == 0:
        raise ValueError("no frames")
    return Shown(("one", "two"), (0.0, 2.5), (64, 48))


class Asker:
    """Says the name of what was asked, and fails as often as told."""

    def __init__(self, failures=0, forbidden="\0"):
        self.asked, self.failures, self.forbidden = [], failures, forbidden

    async def ask(self, messages, images, _):
        text = messages[-1]["content"][-1]["text"]
        self.asked.append((text, list(images)))
        if self.failures or self.forbidden in text:
            self.failures -= self.failures > 0
            raise OSError("busy")
        return ["12 to 18"]


def media(folder, rows, empty=()):
    for row in rows:
        path = folder / "deep" / f"{row['vid']}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"" if row["vid"] in empty else b"x")
    return folder


def run(tmp_path, asker, rows=ROWS, model="m"):
    runner = Runner(VSTAR, asker, frames, tmp_path / "media", tmp_path / "log.jsonl", model)
    advanced = []
    records = asyncio.run(runner.run(rows, lambda: advanced.append(1)))
    assert len(advanced) == len(rows)
    return records


def test_every_call_is_asked_and_stored(tmp_path):
    media(tmp_path / "media", ROWS)
    asker = Asker()
    records = run(tmp_path, asker)
    assert len(asker.asked) == 5 * len(ROWS)
    assert [record["row"] for record in records] == ROWS
    assert set(records[0]["texts"]) == {call.name for call in VSTAR.calls(ROWS[0], True)}
    assert records[0]["input_size"] == [64, 48]
    found = result("V-STaR", 2094, records, VSTAR.score(records, Scoring()), settings={})
    assert found["counts"] == {"expected": 2094, "given": 4, "subset": True, "read": 4,
                               "without_reply": {}}  # fmt: skip
    json.dumps(found, allow_nan=False)


def test_what_fails_is_a_row_with_a_reason(tmp_path):
    media(tmp_path / "media", ROWS[1:], empty=[ROWS[1]["vid"]])
    asker = Asker(forbidden=ROWS[2]["temporal_question"])
    records = run(tmp_path, asker)
    assert records[0]["reason"] == "video missing"
    assert records[1]["reason"] == "video unreadable: no frames"
    assert records[2]["reason"] == "call answer_temporal_pre failed 3 times"
    assert set(records[2]["texts"]) == {"answer_vqa", "answer_spatial_pre", "answer_spatial_pre_2"}
    assert records[3]["reason"] == ""
    found = result("V-STaR", 2094, records, VSTAR.score(records, Scoring()), settings={})
    assert found["counts"]["without_reply"]["video missing"] == 1
    assert found["named"][0] == f"{ROWS[0]['vid']}: video missing"
    assert found["overall"]["rows"] == 4


def test_a_call_is_asked_again_a_few_times(tmp_path):
    media(tmp_path / "media", ROWS[:1])
    records = run(tmp_path, Asker(failures=2), ROWS[:1])
    assert records[0]["reason"] == ""


def test_a_killed_run_goes_on(tmp_path):
    media(tmp_path / "media", ROWS[:3])
    first = run(tmp_path, Asker())
    log = tmp_path / "log.jsonl"
    lines = [line for line in log.read_text().splitlines() if line]
    kept = [line for line in lines if json.loads(line)["number"] != 1]
    log.write_text("\n".join(kept) + '\n{"number": 1, "abo')  # as a kill leaves it
    media(tmp_path / "media", ROWS[3:])  # the missing video has come
    asker = Asker()
    again = run(tmp_path, asker)
    assert len(asker.asked) == 5 * 2  # the row that was cut, and the one that had no video
    assert again[:3] == first[:3]
    assert again[3]["reason"] == ""
    for rows, model in ((ROWS[1:], "m"), (ROWS, "another")):
        with pytest.raises(ValueError, match=r"the log of other rows or settings \(m, thinking"):
            run(tmp_path, asker, rows, model)


def test_chats_have_a_line_for_each_frame_and_the_picture_last():
    call = Call("response", "What?", system="Be kind.", picture="x.png")
    system, user = chat(call, (0.0, 2.54))
    assert system == {"role": "system", "content": "Be kind."}
    texts = [part.get("text", part["type"]) for part in user["content"]]
    assert texts == ["Frame 1 at 0.0s: ", "image", "Frame 2 at 2.5s: ", "image", "image", "What?"]


@pytest.mark.parametrize("think", [True, False])
def test_the_five_questions_of_a_row(think):
    row = ROWS[0] | {"timestamps": [2.5, 4.9], "fps": 30, "frame_count": 1000}
    what, when_1, where_1, where_2, when_2 = VSTAR.calls(row, think)
    assert row["question"] in what.text
    assert ("<obj>object_name</obj>" in what.text) is think
    assert "This video is 33.33 seconds long." in when_1.text
    assert ("From <t>start_time</t>s" in when_1.text) is think
    assert "[3, 4]" in where_1.text
    assert '{"3": [x1, y1, x2, y2],...}' in where_1.text
    assert f"output {len(row['bboxes'])} bbox(es)" in where_2.text
    assert f"resolution of {row['width']}x{row['height']}" in when_2.text
    assert f"There are {len(row['bboxes'])} bounding boxes" in when_2.text
    assert all(isinstance(call.text, str) for call in (when_1, when_2))


def test_an_interval_without_a_whole_second_is_asked_all_the_same():
    row = ROWS[0] | {"timestamps": [2.2, 2.8]}
    assert "[2]" in VSTAR.calls(row, True)[2].text


@pytest.mark.parametrize("name", BENCHMARKS)
def test_sizes_are_asserted_unless_a_subset_is_meant(name, tmp_path):
    benchmark = replace(BENCHMARKS[name], read=lambda _: [{}] * 3)
    sizes = {"vstar": 2094, "tvgbench": 800, "videomme": 2700, "worldsense": 3172, "videommmu": 900}
    assert benchmark.size == sizes[name]
    with pytest.raises(ValueError, match=f"holds 3 rows; .* has {sizes[name]}"):
        load_rows(benchmark, tmp_path)
    assert len(load_rows(benchmark, tmp_path, subset=True)) == 3


def test_names_are_known_however_they_are_written():
    for name in ("V-STaR", "vstar", "v_star", "VSTAR"):
        assert benchmark_named(name) is VSTAR
    assert benchmark_named("tvg") is TVG
    assert scorer_named("Video-MME")[:2] == ("Video-MME", 2700)
    assert scorer_named("voting")[:2] == ("voting", None)
    with pytest.raises(ValueError, match="vstar, tvgbench, videomme, worldsense, videommmu"):
        benchmark_named("mmbench")
    with pytest.raises(ValueError, match="scoring is 'theirs'"):
        Scoring("theirs")


def test_files_that_are_no_list_are_told(tmp_path):
    file = tmp_path / "replies.json"
    for text, words in (("{", "no JSON"), ("{}", "no JSON list"), ("[5]", "row 0: 5")):
        file.write_text(text)
        with pytest.raises(ValueError, match=words):
            read_list(file)


def test_a_picture_outside_of_the_media_folder_is_not_shown(tmp_path):
    media(tmp_path / "media", ROWS[:1])
    (tmp_path / "secret.png").write_bytes(b"x")
    asker = Asker()
    runner = Runner(VSTAR, asker, frames, tmp_path / "media", tmp_path / "log.jsonl", "m")
    call = Call("response", "What?", picture="../secret.png")
    shown = Shown(("one",), (0.0,), (64, 48))
    assert asyncio.run(runner._call(call, shown)) is None
    assert asker.asked == []
