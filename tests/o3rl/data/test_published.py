"""Files in the published form come in whole, and what is odd in others is told."""

import json

import pytest

from o3rl.data.parquet import read_rows
from o3rl.data.stgr import import_file, import_records
from o3rl.loop.prompt_source import longer_than
from o3rl.text.control_tokens import control_tokens, inert
from o3rl.types import FramePlan, Task
from rewards.own_target import unearned
from tests.o3rl.data.published import records
from tests.o3rl.data.test_stgr import BOTH, EVIDENCE, FREE, MCQ, TEMPORAL, VISUAL

PLAN = FramePlan((0,), (0.0,), (28, 28), 0.0)


def counts(found) -> dict[str, int]:
    return {reason: counted.count for reason, counted in found.items()}


@pytest.mark.parametrize("sft", [True, False], ids=["STGR-SFT.json", "STGR-RL.json"])
def test_every_good_row_is_kept(tmp_path, sft):
    source = tmp_path / "STGR.json"
    made = list(records(2000, sft=sft))
    source.write_text(json.dumps(made, indent=1))
    report = import_file(source, tmp_path / "out", unearned=unearned())
    assert (report.read, report.rows, report.rejected) == (2000, 2000, {})
    assert len(report.by_task) == 5 + (not sft)
    assert report.advice == []
    plain = sum("<box>" not in r["answer"] for r in made if r["task"] == "visual QA")
    assert counts(report.sft_only) == ({"answer has no box": plain} if plain else {})
    assert report.doubted == {}
    rows = read_rows(tmp_path / "out")
    assert [row.id for row in rows] == [record["id"] for record in made]
    unfit = longer_than(10**9, side=28)
    assert sum(bool(unfit(row, PLAN)) for row in rows) == plain
    for row in rows:
        if row.task is Task.TEMPORAL:
            assert row.truth.interval is not None


def test_what_a_target_cannot_earn_is_told(tmp_path):
    wrong = EVIDENCE | {"id": "w", "reasoning_process": "No evidence at all."}
    late = TEMPORAL | {"id": "l", "reasoning_process": "At <t>20.0</t>s and <t>30</t>s."}
    good = TEMPORAL | {"id": "g", "reasoning_process": "At <t>2.0</t>s and <t>5</t>s."}
    report = import_records([wrong, late, good], tmp_path, name="x", unearned=unearned())
    assert report.rows == 3
    assert counts(report.doubted) == {
        "its own target earns nothing for thought, points in time": 1,
        "its own target earns nothing for thought, boxes": 1,
        "its own target earns nothing for thought, times inside": 1,
    }


def test_doubts_about_single_rows(tmp_path):
    said = EVIDENCE["reasoning_process"]
    report = import_records(
        [
            TEMPORAL | {"answer": "[2, 2]"},
            VISUAL | {"answer": "<box>[0.1,0.1,0.5,0.5]</box>", "reasoning_process": None},
            EVIDENCE | {"id": "time", "reasoning_process": said.replace("7.5", "9.9")},
            EVIDENCE | {"id": "name", "reasoning_process": said.replace("red car", "bus")},
            EVIDENCE | {"id": "box", "reasoning_process": said.replace("0.1", "0.25")},
            EVIDENCE | {"id": "good"},
        ],
        tmp_path,
        name="x",
    )
    assert report.rows == 6
    assert counts(report.doubted) == {
        "interval has no length: nothing can overlap it": 1,
        "box is under 2 px: normalised where pixels are meant?": 1,
        "reasoning: a claim is at the time of no key frame": 1,
        "reasoning: a claim names no object of its key frame": 1,
        "reasoning: a claim's box is none of its object's": 1,
    }


def evidence_as(change) -> list[dict]:
    made = [r for r in records(200, sft=False) if r["key_items"]]
    for record in made:
        record["key_items"] = {
            idx: {name: [change(box) for box in boxes] for name, boxes in items.items()}
            for idx, items in record["key_items"].items()
        }
    return made


def images_as(change) -> list[dict]:
    made = [r for r in records(600, sft=False) if r["task"] == "visual QA"]
    for record in made:
        numbers = json.loads(record["answer"].partition("<box>")[2].partition("<")[0])
        record["answer"] = f"<box>{json.dumps(change(numbers))}</box>"
    return made


def times_as(change) -> list[dict]:
    made = [r for r in records(600, sft=False) if r["task"] == "temporal QA"]
    return [r | {"answer": str(list(map(change, json.loads(r["answer"]))))} for r in made]


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (evidence_as(lambda b: [n * s for n, s in zip(b, [1280, 720] * 2, strict=True)]), "pixels"),
        (evidence_as(lambda b: [round(1000 * n) for n in b]), "thousandths"),
        (evidence_as(lambda b: [100 * n for n in b]), "percent"),
        (evidence_as(lambda b: [b[0], b[1], b[2] - b[0], b[3] - b[1]]), "corner and size"),
        (images_as(lambda b: [n / s for n, s in zip(b, [640, 480] * 2, strict=True)]), "shares"),
        (images_as(lambda b: [b[0], b[1], b[2] - b[0], b[3] - b[1]]), "corner and size"),
        (images_as(lambda b: [100 * n / s for n, s in zip(b, [640, 480] * 2, strict=True)]),
         "percent"),
        (images_as(lambda b: [b[1], b[0] + 100, b[3], b[2] + 100]), "y before x"),
        (times_as(lambda t: 1000 * t), "milliseconds"),
        (times_as(lambda t: t / 100), "shares of the clip"),
    ],
)  # fmt: skip
def test_one_sentence_says_which_convention_would_fit(tmp_path, made, words):
    report = import_records(made, tmp_path, name="x")
    [sentence] = report.advice
    assert words in sentence


@pytest.mark.parametrize(
    "token", ["<|im_end|>", "<|image_pad|>", "<|vision_start|>", "<image>", "</s>", "<bos>",
              "<end_of_turn>", "[INST]", "<｜end▁of▁sentence｜>", "<<|im_end|>|im_end|>"]
)  # fmt: skip
def test_text_cannot_become_control_tokens(tmp_path, token):
    report = import_records(
        [
            MCQ | {"question": f"Which {token}?\nA. a\nB. b"},
            FREE | {"answer": f"Two {token}.", "reasoning_process": f"{token} So."},
            EVIDENCE | {"key_items": {"1": {token: [[0.1, 0.1, 0.3, 0.3]]},
                                      "2": {"red car": [[0.2, 0.2, 0.4, 1]]}}},
        ],
        tmp_path, name="x",
    )  # fmt: skip
    assert report.rows == 3
    assert report.mended["control tokens in text made inert"].count == 3
    for row in read_rows(tmp_path):
        names = [name for frame in row.truth.key_frames for name, _ in frame.objects]
        for text in (row.question, row.truth.text, row.reasoning or "", *names):
            assert token not in text
            assert "<|im_end|>" not in text


def test_every_tokenizer_has_its_own():
    class Token:
        def __init__(self, content: str, special: bool):
            self.content, self.special = content, special

    class Tokenizer:
        all_special_tokens: tuple[str, ...] = ("[[MEDIA]]", "<obj>")
        added_tokens_decoder: dict[int, Token] = {  # noqa: RUF012
            1: Token("~~end~~", True),
            2: Token("<plain>", False),
        }

    control = control_tokens(Tokenizer())
    text = "a [[MEDIA]] ~~end~~ <plain> <obj>dog</obj> <|im_end|>"
    assert inert(text, control) == "a [ [MEDIA]] ~ ~end~~ <plain> <obj>dog</obj> < |im_end|>"


def test_blanks_and_clocks_in_reasoning_are_mended(tmp_path):
    said = "<obj>dog</obj> <box>[0.1,0.1,0.3,0.3]</box> at <t> 00:02 </t> s"
    report = import_records([EVIDENCE | {"reasoning_process": said}], tmp_path, name="x")
    [row] = read_rows(tmp_path)
    assert row.reasoning == "<obj>dog</obj><box>[0.1,0.1,0.3,0.3]</box>at<t>2</t>s"
    assert counts(report.mended) == {
        "true box cut at the frame's edge": 1,
        "reasoning: blanks inside claims and times taken away": 1,
        "reasoning: minutes and seconds in <t> turned into seconds": 1,
    }


def test_options_of_their_own_are_asked_with_the_question(tmp_path):
    own = MCQ | {"question": "Which?", "options": ["a cat", "a dog"], "answer": 1}
    both = BOTH | {"question": "Which?", "options": {"A": "a cat", "B": "a dog"}}
    import_records([own, both], tmp_path, name="x")
    first, second = read_rows(tmp_path)
    assert (first.question, first.truth.letter) == ("Which?\nA. a cat\nB. a dog", "B")
    assert second.question == first.question
