"""The command line: what it parses, how it ends, and that it is quick to refuse."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from cluster.commands import cli

HEAVY = ("torch", "ray", "vllm", "mlflow", "deepspeed", "transformers")
COMMANDS = ("demo", "data", "sft", "train", "plan", "evaluate", "answer", "score", "bench", "tiny",
            "configs", "doctor")  # fmt: skip
ROOT = Path(__file__).parents[3]


def refused(arguments: list[str]) -> tuple[int, str, list[str]]:
    """Exit code, standard error, and the heavy libraries imported by `main(arguments)`."""
    code = (
        "import json, sys\nfrom cluster.commands.cli import main\n"
        f"code = main({arguments!r})\n"
        f"print(json.dumps([code, [name for name in {HEAVY!r} if name in sys.modules]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    code, imported = json.loads(done.stdout.splitlines()[-1])
    return code, done.stderr, imported


WRONG = {
    "learning.clip_high=0.5": ("learning.clip_high is 0.5", "below 0.1"),
    "loop.stpes=3": ("loop.stpes", "'steps'"),
    "learning.rate=fast": ("learning.rate", "'fast'", "Float"),
}


@pytest.mark.parametrize(("override", "said"), WRONG.items(), ids=str)
def test_a_wrong_value_stops_train_before_anything_heavy_is_imported(override, said):
    code, error, imported = refused(["train", "configs/tiny_demo.yaml", override])
    assert (code, imported) == (1, [])
    assert [part for part in said if part not in error] == [], error
    assert error.startswith("o3rl train: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["sft", "tiny_demo", "sft.batch=0"],
        ["evaluate", "tiny_demo", "--limit", "3", "sft.batch=0"],
        ["train", "tiny_demo", "--resume", "sft.batch=0"],
        ["demo", "--seed", "1", "sft.batch=0"],
    ],
    ids=" ".join,
)
def test_every_command_that_takes_a_configuration_checks_it_first(arguments):
    code, error, imported = refused(arguments)
    assert (code, imported) == (1, [])
    assert error == f"o3rl {arguments[0]}: sft.batch is 0; it must be 1 or more\n"


def test_an_unknown_configuration_lists_the_shipped_ones():
    code, error, imported = refused(["train", "nope"])
    assert (code, imported) == (1, [])
    assert "'nope'" in error
    assert "tiny_demo" in error


def test_bench_of_rewards_needs_nothing_heavy_and_a_run_that_is_there(tmp_path):
    few = ["bench", "rewards", "--seconds", "0.01"]
    code, error, imported = refused([*few, "--run", str(tmp_path)])
    assert (code, imported) == (1, [])
    assert "metrics.jsonl" in error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sft", "tiny_demo", "sft.rows=NOWHERE/rows"], "NOWHERE/rows"),
        (["train", "tiny_demo", "data.train=NOWHERE/rows"], "NOWHERE/rows"),
        (["train", "tiny_demo", "--replay", "NOWHERE/batches"], "NOWHERE/batches holds no batch"),
        (["answer", __file__, "What is it?", "--model", "NOWHERE/m"], "no folder NOWHERE/m"),
    ],
    ids=str,
)
def test_data_that_are_not_there_are_told_before_anything_starts(arguments, said, tmp_path):
    there = [text.replace("NOWHERE", str(tmp_path)) for text in arguments]
    where = [] if arguments[0] == "answer" else [f"folder={tmp_path}/run"]
    code, error, imported = refused([*there, *where])
    assert (code, imported) == (1, [])
    assert said.replace("NOWHERE", str(tmp_path)) in error
    assert not (tmp_path / "run").exists()


def test_answer_refuses_a_missing_video_at_once(tmp_path):
    code, error, imported = refused(
        ["answer", str(tmp_path / "none.mp4"), "What is it?", "--model", "tiny"]
    )
    assert (code, imported) == (1, [])
    assert "none.mp4" in error


@pytest.mark.parametrize(
    ("arguments", "overrides"),
    [
        (["train", "c"], []),
        (["train", "c", "a=1", "b=2"], ["a=1", "b=2"]),
        (["train", "c", "--resume", "a=1"], ["a=1"]),
        (["train", "c", "a=1", "--resume", "b=2"], ["a=1", "b=2"]),
        (["train", "--resume", "c", "a=1"], ["a=1"]),
        (["evaluate", "c", "--limit", "3", "a=1", "b=2"], ["a=1", "b=2"]),
        (["demo", "--seed", "3", "a=1"], ["a=1"]),
    ],
    ids=str,
)
def test_overrides_may_stand_anywhere_after_the_configuration(arguments, overrides, monkeypatch):
    seen = []
    module = {
        "train": "cluster.run.supervisor",
        "evaluate": "cluster.run.evaluate",
        "demo": "cluster.commands.demo",
    }
    fake = type(sys)("fake")
    fake.run = lambda options: seen.append(options.overrides) or 0
    monkeypatch.setitem(sys.modules, module[arguments[0]], fake)
    assert cli.main(arguments) == 0
    assert seen == [overrides]


@pytest.mark.parametrize(
    "arguments",
    [
        ["train"],
        ["train", "c", "--nope"],
        ["train", "c", "--nope=3"],
        ["train", "c", "--resume", "word"],
        ["doctor", "a=1"],
        ["nope"],
        ["data", "nope"],
        ["evaluate", "c", "--limit", "three"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert "usage: o3rl" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["data"], ["bench"], ["tiny"]], ids=str)
def test_without_a_command_the_help_is_shown(arguments, capsys):
    assert cli.main(arguments) == 2
    assert "COMMAND" in capsys.readouterr().out


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert [name for name in COMMANDS if f"\n  {name} " not in shown] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([name, "--help"])
    assert caught.value.code == 0
    assert f"usage: o3rl {name}" in capsys.readouterr().out


def raising(error: BaseException):
    def run(_):
        raise error

    fake = type(sys)("fake")
    fake.run = run
    return fake


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ValueError("x is 3"), 1, "o3rl configs: x is 3\n"),
        (FileNotFoundError("no file"), 1, "o3rl configs: no file\n"),
        (KeyboardInterrupt(), 130, "o3rl configs: interrupted\n"),
    ],
    ids=repr,
)
def test_how_a_command_ends(error, code, said, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cluster.commands.configs", raising(error))
    assert cli.main(["configs"]) == code
    assert capsys.readouterr().err == said


def test_a_bug_keeps_its_traceback(monkeypatch):
    monkeypatch.setitem(sys.modules, "cluster.commands.configs", raising(KeyError("a bug")))
    with pytest.raises(KeyError, match="a bug"):
        cli.main(["configs"])


def test_verbose_keeps_the_users_error_too(monkeypatch):
    monkeypatch.setitem(sys.modules, "cluster.commands.configs", raising(ValueError("x is 3")))
    with pytest.raises(ValueError, match="x is 3"):
        cli.main(["-v", "configs"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["confgs"], "no 'confgs' (did you mean 'configs'?); there are demo, doctor, "),
        (["data", "imprt"], "no 'imprt' (did you mean 'import'?)"),
        (["xyz"], "no 'xyz'; there are demo"),
        (["train", "c", "--recrod=x"], "unrecognized arguments: --recrod=x (did you mean '--reco"),
        (["train", "c", "--rec", "x"], "unrecognized arguments: --rec"),  # no abbreviations
        (["score", "f", "--profile", "papr", "--out", "o"], "no 'papr' (did you mean 'paper'?)"),
    ],
    ids=str,
)
def test_what_is_nearly_right_is_told(arguments, said, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_the_version_is_the_packages(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"o3rl {version('o3rl')}\n"
