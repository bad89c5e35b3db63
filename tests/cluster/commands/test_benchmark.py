"""`o3rl benchmark score`: stored replies in, the published names of figures out."""

import json
from pathlib import Path

import pytest

from cluster.commands.cli import main

DATA = Path(__file__).parents[2] / "data"


def replies(tmp_path, name, key):
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(json.loads((DATA / f"{name}.json").read_text())[key]))
    return str(path)


def scored(capsys, *arguments):
    assert main(["benchmark", "score", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_vstar_by_the_published_scorer(tmp_path, capsys):
    file = replies(tmp_path, "vstar_scores", "rows")
    found = scored(capsys, "vstar", file, "--official", "--out", str(tmp_path / "out.json"))
    wanted = json.loads((DATA / "vstar_scores.json").read_text())["aggregates"]["official"]
    assert found["overall"]["mAM"] == pytest.approx(wanted["overall"]["mAM"], abs=1e-9)
    assert found["domain"].keys() == wanted["domain"].keys()
    assert (found["scoring"], found["judge"]) == ("official", "stored scores")
    assert found["counts"]["expected"] == 2094
    assert found["per_row"][1]["temporal_IoU"] == pytest.approx(0.6865671641791045)
    assert json.loads((tmp_path / "out.json").read_text()) == found


def test_ours_is_the_default_and_infinity_is_a_word(tmp_path, capsys):
    edges = json.loads((DATA / "vstar_scores.json").read_text())["edges"]
    (tmp_path / "edge.json").write_text(json.dumps(edges[0]["rows"]))
    found = scored(capsys, "V-STaR", str(tmp_path / "edge.json"))
    assert (found["scoring"], found["overall"]["mLGM"]) == ("ours", "inf")


@pytest.mark.parametrize(
    ("name", "file", "key", "options", "figure"),
    [
        ("tvgbench", "tvg_scores", "rows", ["--official"], ("mIoU", 22.515841509487124)),
        ("tvgbench", "tvg_scores", "rows", [], ("mIoU", 35.68731610192756)),
        ("video_mme", "choice_parsers", "choice", ["--official"], ("accuracy_per_cent", 190 / 3)),
        ("videommmu", "choice_parsers", "choice", ["--open-o3"], ("accuracy", 7 / 48)),
        ("voting", "voting", "cases", ["--official"], ("rows", 33)),
    ],
)
def test_each_benchmark_prints_its_figures(tmp_path, capsys, name, file, key, options, figure):
    found = scored(capsys, name, replies(tmp_path, file, key), *options)
    assert found[figure[0]] == pytest.approx(figure[1], abs=1e-9)
    assert main(["benchmark", "score", name, replies(tmp_path, file, key), *options]) == 0
    assert figure[0] in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mmbench", "x.json"], "'mmbench' is no benchmark; there are vstar"),
        (["vstar", "nowhere.json"], "nowhere.json"),
        (["tvg", "{choice}"], "reply 0"),
        (["tvg", "{tvg}", "--judge", "http://x/v1"], "--judge is for V-STaR"),
        (["vstar", "{choice}", "--judge", "x"], "judge url is 'x'"),
        (["vstar", "{choice}", "--boxes", "gpt"], "reply 0: vid"),
    ],
)
def test_wrong_input_is_one_line(tmp_path, capsys, arguments, words):
    files = {"choice": replies(tmp_path, "choice_parsers", "choice"),
             "tvg": replies(tmp_path, "tvg_scores", "rows")}  # fmt: skip
    assert main(["benchmark", "score", *(each.format(**files) for each in arguments)]) == 1
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("options", [[], ["--official"], ["--open-o3"]])
def test_what_a_model_writes_never_stops_the_command(tmp_path, capsys, options):
    deep = '{"12": [1, 2, 3, 4], "x": ' + 700 * "[" + 700 * "]" + "}"
    texts = [
        "half of a sign: \ud83d",
        deep,
        5000 * "9" + " to 5",
        "{" * 9000,
        "\0",
        "NaN: Infinity",
    ]
    rows = json.loads((DATA / "vstar_scores.json").read_text())["rows"][: len(texts)]
    for row, text in zip(rows, texts, strict=True):
        row["texts"] = dict.fromkeys(row["texts"], text)
    (tmp_path / "odd.json").write_text(json.dumps(rows))
    found = scored(capsys, "vstar", str(tmp_path / "odd.json"), *options)
    assert found["overall"]["rows"] == len(texts)
    clips = [row | {"output_text": text} for row, text in zip(_tvg(), texts, strict=False)]
    (tmp_path / "odd.json").write_text(json.dumps(clips))
    scored(capsys, "tvg", str(tmp_path / "odd.json"), *options)
    replies = [{"options": ["a", "b", "c", "d"], "answer": "A", "response": text} for text in texts]
    (tmp_path / "odd.json").write_text(json.dumps(replies))
    for name in ("videomme", "worldsense", "videommmu"):
        assert scored(capsys, name, str(tmp_path / "odd.json"), *options)["accuracy"] < 1.1


def _tvg():
    return json.loads((DATA / "tvg_scores.json").read_text())["rows"]


def asked(tmp_path, *more, media="media", data="tvg.json", model="tiny"):
    """Arguments of a run that would ask one row of TVGBench."""
    (tmp_path / "media").mkdir(exist_ok=True)
    row = {"path": "a.mp4", "question": "it falls", "answer": "1.0-2.0"}
    (tmp_path / "tvg.json").write_text(json.dumps([row]))
    given = ["--data", str(tmp_path / data), "--media", str(tmp_path / media), "--model", model]
    return ["benchmark", "TVGBench", *given, "--folder", str(tmp_path / "out"), *more]


@pytest.mark.parametrize(
    ("more", "changed", "told"),
    [
        ([], {}, "holds 1 rows; TVGBench has 800"),
        (["--subset"], {"media": "nowhere"}, "nowhere is no folder"),
        (["--subset"], {"data": "none.json"}, "none.json"),
        (["--subset"], {"model": "no/model"}, "no/model"),
        (["--subset", "--frames", "3"], {}, "--frames is 3; it must be an even number"),
        (["--limit", "-1"], {}, "--limit is -1"),
        (["--subset", "--judge", "http://h/v1", "--judge-model", "m"], {}, "--judge is for V-STaR"),
        (["--subset", "rollouts.replica=2"], {}, "rollouts.replica"),
    ],
)
def test_what_is_wrong_is_told_before_anything_starts(
    tmp_path, capsys, monkeypatch, more, changed, told
):
    monkeypatch.setattr("cluster.commands.benchmark._asked", pytest.fail)
    assert main(asked(tmp_path, *more, **changed)) == 1
    assert told in capsys.readouterr().err


def test_a_missing_video_is_named_and_scored_and_the_result_is_kept(tmp_path, capsys, monkeypatch):
    def none(run, left):
        assert left == 1
        return [run.benchmark.record(row, {}, "video missing") for row in run.rows]

    monkeypatch.setattr("cluster.commands.benchmark._asked", none)
    assert main(asked(tmp_path, "--subset", "--json")) == 0
    out, err = capsys.readouterr()
    assert "missing, its rows score 0: a.mp4" in err
    found = json.loads(out)
    assert (found["mIoU"], found["counts"]["given"], found["counts"]["subset"]) == (0.0, 1, True)
    assert found["sampling"]["frames"] == 64
    assert json.loads((tmp_path / "out" / "result.json").read_text()) == found
    stored = str(tmp_path / "out" / "replies.json")
    assert scored(capsys, "tvgbench", stored)["mIoU"] == 0.0
