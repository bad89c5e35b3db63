"""Nothing of the user's is lost: a foreign file laid into each place that a command writes to."""

import json
from pathlib import Path

import pytest

from cluster.commands import cli
from cluster.commands.demo_folder import demo_folder, foreign
from o3rl.evaluation.pages import write_index
from o3rl.persistence.lease import take
from tests.o3rl.data.test_stgr import MCQ as QUESTION

THESIS = "all my work"
MADE = (
    "report.json",
    "mlflow.db",
    "data/STGR-RL.json",
    "data/media/videos/train-video-00000.mp4",
    "rows/rl/task=MCQ/part-00000.parquet",
    "sft/model/model.safetensors",
    "rl/metrics.jsonl",
    "rl/checkpoints/step-000002/learner/rank-0.pt",
    "rl/checkpoints/step-000003.writing/state.json",
    "rl/pages/.step-00001.html.4711",
    "evaluation/base-greedy.jsonl",
    "artifacts/0123456789abcdef0123456789abcdef/artifacts/evaluation/base.html",
)


def lay(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(THESIS)
    return path


def demo_in(folder: Path) -> Path:
    for name in ("demo.yaml", *MADE):
        lay(folder / name)
    return folder


def test_a_demo_removes_what_an_earlier_one_made(tmp_path):
    folder = demo_in(tmp_path / "demo")
    lay(folder / "rl/attempts/000001.json").write_text(holder(ended="finished"))
    with demo_folder(folder):
        left = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert left == {"rl/attempts/000001.json", "attempts/000001.json"}


def holder(**changes) -> str:
    whole = {"attempt": 1, "host": "a", "machine": "m", "pid": 1, "born": "1", "beat": 0.0}
    return json.dumps(whole | changes)


@pytest.mark.parametrize(
    "name",
    [
        "thesis.txt",
        "rl/thesis.txt",
        "rl/model/thesis.pdf",
        "data/thesis.json",
        "data/media/videos/mine.mp4",
        "rows/rl/mine.csv",
        "rl-2/metrics.jsonl",
        ".thesis.txt.4711",
    ],
)
def test_a_demo_leaves_a_folder_with_anything_else_as_it_is(tmp_path, name, capsys):
    folder = demo_in(tmp_path / "demo")
    lay(folder / name)
    before = set(folder.rglob("*"))
    assert cli.main(["demo", "--folder", str(folder)]) == 1
    assert f"{folder} holds what no demo made: {name}; move it" in capsys.readouterr().err
    assert set(folder.rglob("*")) == before


def test_a_demo_takes_no_folder_that_was_never_one(tmp_path, capsys):
    thesis = lay(tmp_path / "demo" / "thesis.txt")
    assert cli.main(["demo", "--folder", str(thesis.parent)]) == 1
    assert "no earlier demo" in capsys.readouterr().err
    assert [path.name for path in thesis.parent.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("where", ["", "rl"])
def test_a_demo_ends_none_that_lives_in_its_folder(tmp_path, where, capsys):
    folder = demo_in(tmp_path / "demo")
    with take(folder / where):
        assert cli.main(["demo", "--folder", str(folder)]) == 1
        assert "attempt 1 on" in capsys.readouterr().err
        assert [name for name in MADE if not (folder / name).is_file()] == []
    assert foreign(folder) == []


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (["data", "synth", "--out", "OUT"], "STGR-RL.json"),
        (["data", "synth", "--out", "OUT"], "media/videos/mine.mp4"),
        (["data", "import", "ROWS", "--out", "OUT"], "task=MCQ/mine.parquet"),
        (["data", "import", "ROWS", "--out", "OUT"], "task=mine/part-00000.parquet"),
        (["data", "check", "ROWS", "--out", "OUT"], "check.json"),
        (["data", "check", "ROWS", "--out", "OUT"], "check.html"),
        (["data", "stats", "ROWS", "--out", "OUT/thesis.txt"], "thesis.txt"),
        (["score", "ROWS", "--out", "OUT/thesis.txt"], "thesis.txt"),
        (["tiny", "pretrain", "--out", "OUT"], "config.json"),
        (["answer", "ROWS", "What?", "--model", "tiny", "--page", "OUT/a.html"], "a.html"),
        (["answer", "ROWS", "What?", "--model", "tiny", "--page", "OUT"], "thesis.txt"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_no_command_writes_over_what_is_not_its_own(tmp_path, words, place, capsys):
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps([QUESTION]))
    foreign = lay(tmp_path / "out" / place)
    places = {"ROWS": str(rows), "OUT": str(tmp_path / "out")}
    for key, value in places.items():
        words = [word.replace(key, value) for word in words]
    assert cli.main(words) == 1
    assert "not of this command's making" in capsys.readouterr().err
    assert foreign.read_text() == THESIS


def test_commands_write_over_their_own(tmp_path):
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps([QUESTION]))
    thesis = [lay(tmp_path / name / "thesis.txt") for name in ("set", "check")]
    for _ in range(2):
        for words in (
            ["data", "import", rows, "--out", tmp_path / "set"],
            ["data", "check", rows, "--out", tmp_path / "check"],
            ["data", "stats", rows, "--out", tmp_path / "stats.json"],
        ):
            assert cli.main(list(map(str, words))) == 0
    assert [path.read_text() for path in thesis] == [THESIS, THESIS]


def test_an_index_is_a_page(tmp_path):
    from cluster.outputs import is_page

    write_index(tmp_path / "index.html", "title", [])
    assert is_page((tmp_path / "index.html").read_text())
