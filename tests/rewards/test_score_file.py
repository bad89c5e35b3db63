"""Scoring files: the golden cases of the released code, damaged lines, rows import would refuse."""

import json
from pathlib import Path

import pytest

from rewards.score_file import score_file

GOLDEN, FUZZED = (
    json.loads(Path(f"tests/data/rewards_{name}.json").read_text(encoding="utf-8"))
    for name in ("released", "fuzz")
)


def lines_of(cases: list[dict], golden: dict = GOLDEN) -> str:
    evidence = {"key_frames": golden["key_frames"], "key_items": golden["key_items"]}
    return "".join(json.dumps({**evidence, **case}) + "\n" for case in cases)


def scored(folder: Path, text: str, profile: str) -> tuple[list[dict], tuple]:
    source, out = folder / "in.jsonl", folder / "out.jsonl"
    source.write_text(text, encoding="utf-8")
    counts = score_file(source, out, profile=profile)
    results = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert counts.scored == len(results)
    return results, counts.bad


@pytest.mark.parametrize(("golden", "count"), [(GOLDEN, 54), (FUZZED, 600)])
def test_released_equals_every_golden_case(tmp_path, golden, count):
    results, bad = scored(tmp_path, lines_of(golden["cases"], golden), "released")
    assert not bad
    assert len(results) == count
    for case, result in zip(golden["cases"], results, strict=True):
        assert result["parts"] == pytest.approx(case["rewards"], abs=1e-9), case
        assert result["total"] == pytest.approx(sum(case["rewards"].values()), abs=1e-9)


def test_a_file_may_be_scored_in_place(tmp_path):
    file = tmp_path / "completions.jsonl"
    file.write_text(lines_of(GOLDEN["cases"][:2]))
    assert score_file(file, file, profile="paper").scored == 2
    assert [json.loads(line)["line"] for line in file.read_text().splitlines()] == [1, 2]
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("profile", ["paper", "strict"])
def test_other_profiles_score_the_same_file(tmp_path, profile):
    results, bad = scored(tmp_path, lines_of(GOLDEN["cases"]), profile)
    assert len(results) == len(GOLDEN["cases"])
    assert not bad


def test_claims_say_what_became_of_them(tmp_path):
    # Golden key frames 5.0 and 12.0; dog's true box at 5.0 is [20,10,100,50] of a 200×100 frame.
    thought = (
        "<obj>dog</obj><box>[20,10,100,50]</box>at<t>6.5</t>s "
        "<obj>cat</obj><box>[0,0,20,10]</box>at<t>20</t>s"
        "<obj>cat</obj><box>[0,0,20,10]</box>at<t>nan</t>s"
    )
    case = GOLDEN["cases"][0] | {"completion": f"<think>{thought}</think><answer>a</answer>"}
    [result], _ = scored(tmp_path, lines_of([case]), "paper")
    first, second, third = result["claims"]
    assert first == {
        "object": "dog",
        "time": 6.5,
        "boxes": [[0.1, 0.1, 0.5, 0.5]],
        "key_time": 5.0,
        "distance": 1.5,
        "gated": False,
        "iou": 1.0,
    }
    assert (second["key_time"], second["distance"], second["gated"]) == (12.0, 8.0, True)
    assert (third["time"], third["distance"], third["gated"]) == (None, None, True)


BAD_LINES = {
    "no JSON": "{",
    "no object": "[1]",
    "deep": "[" * 100_000,
    "unknown task": json.dumps(GOLDEN["cases"][0] | {"task": "chess"}),
    "no completion": json.dumps({**GOLDEN["cases"][0], "completion": None}),
    "progress": json.dumps({**GOLDEN["cases"][0], "progress": 2}),
    "progress nan": json.dumps({**GOLDEN["cases"][0], "progress": float("nan")}),
    "no size": json.dumps({**GOLDEN["cases"][0], "image_size": None}),
    "no UTF-8": "\udcff",
}


@pytest.mark.parametrize("line", BAD_LINES.values(), ids=BAD_LINES.keys())
@pytest.mark.parametrize("profile", ["released", "paper", "strict"])
def test_a_bad_line_is_named_and_the_rest_scored(tmp_path, line, profile):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    good = lines_of(GOLDEN["cases"][:1])
    text = good + "\n" + line + "\n" + good
    source.write_bytes(text.encode(errors="surrogateescape"))
    counts = score_file(source, out, profile=profile)
    assert counts.scored == 2
    [(number, reason)] = counts.bad
    assert number == 3  # the blank line counts as a line, not as a bad one
    assert reason
    numbers = [json.loads(result)["line"] for result in out.read_text().splitlines()]
    assert numbers == [1, 4]


SPATIAL = {
    "task": "temporal-spatial free-form QA",
    "completion": "<think><obj>dog</obj><box>[20,10,100,50]</box>at<t>5</t>s</think>"
    "<answer>a dog</answer>",
    "answer": "a dog",
    "progress": 1.0,
    "image_size": [200, 100],
}


@pytest.mark.parametrize(
    ("change", "zero", "kept", "note"),
    [
        ({"key_frames": []}, ["thk_temporal_point", "thk_spatial"], {"ans_acc": 1.0}, "key frames"),
        ({"key_items": {}}, ["thk_spatial"], {"thk_temporal_point": 1.0}, "has no boxes"),
        (
            {"key_items": {"1": {"cat": [[0, 0, 1, 1]]}}},
            ["thk_spatial"],
            {"ans_acc": 1.0},
            "key frame at 5 s has no boxes",
        ),
        (
            {"key_items": {"0": {"dog": [[0.1, 0.1, 0.5, 0.5]]}}},
            [],
            {"thk_spatial": 1.0},
            "key frame at 12 s has no boxes",
        ),
        ({"key_frames": [{"idx": 0}]}, ["thk_temporal_point"], {"ans_acc": 1.0}, "key frames"),
        (
            {"task": "temporal QA", "answer": "at the beginning"},
            ["ans_tiou", "thk_temporal_segment"],
            {"format": 0.5},
            "no interval",
        ),
        (
            {"task": "temporal QA (MCQ)", "answer": "B"},
            ["ans_tiou", "ans_acc"],
            {"format": 0.5},
            "no interval",
        ),
        (
            {"task": "visual QA", "answer": "dog", "image_size_refine": [200, 100]},
            ["ans_viou", "thk_spatial"],
            {"format": 1.0},
            "no box",
        ),
    ],
)
def test_released_scores_what_import_refuses_and_says_so(tmp_path, change, zero, kept, note):
    line = lines_of([SPATIAL | change])
    [result], bad = scored(tmp_path, line, "released")
    assert not bad
    assert all(result["parts"][name] == 0 for name in zero)
    assert {name: result["parts"][name] for name in kept} == kept
    assert any(note in text for text in result["notes"])
    _, refused = scored(tmp_path, line, "paper")
    assert [number for number, _ in refused] == [1]


def test_unknown_profile(tmp_path):
    with pytest.raises(ValueError, match=r"profile is 'papr'.*released"):
        score_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", profile="papr")
