"""What a job brings along is enough to run it: tried with nothing else of ours on the path."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.jobs import package
from cluster.jobs.package import pack_job, travelling
from o3rl.config import RunConfig, load

TRY = """
from importlib.metadata import entry_points, version
from pathlib import Path
import cluster, o3rl, mine
from o3rl.config.shipped import find, model_path
from cluster.commands.cli import main
from o3rl.config import load
print(Path(cluster.__file__).parents[1], version("o3rl"))
print([point.value for point in entry_points(group="console_scripts", name="o3rl")][0])
print(find("tiny_demo").is_file(), (Path(model_path("tiny")) / "model.safetensors").is_file())
run = load("run.yaml")
print(run.cluster.address, run.folder, run.model.path, mine.reward.__name__)
"""


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    module = tmp_path_factory.mktemp("own") / "mine.py"
    module.write_text("def reward(text, row, rewards):\n    return 0.0\n")
    run = RunConfig(name="demo", folder="runs/demo")
    run = replace(
        run,
        model=replace(run.model, path="tiny"),
        rewards=replace(run.rewards, custom={"own": "mine:reward"}),
    )
    sys.path.insert(0, str(module.parent))
    try:
        pack_job(travelling(run), folder)
    finally:
        sys.path.remove(str(module.parent))
    return folder


def test_a_process_finds_code_metadata_models_and_configuration_in_it(packed):
    environment = {**os.environ, "PYTHONPATH": str(packed)}
    done = subprocess.run(
        [sys.executable, "-c", TRY], cwd=packed, env=environment, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"{packed} 0.1.0",
        "cluster.commands.cli:main",
        "True True",
        f"auto {Path('runs/demo').absolute()} tiny reward",
    ]


def test_neither_tests_nor_data_travel(packed):
    ours = {"actors", "cluster", "learners", "o3rl", "rewards", "mine.py", "run.yaml"}
    assert {path.name for path in packed.iterdir()} - ours == {"o3rl-0.1.0.dist-info"}
    assert sum(path.stat().st_size for path in packed.rglob("*")) < 20e6


HARNESS = re.compile(
    r"chaos|stand_?in(?!g)|fake_?engine|damaged?_(rows|videos)|add_damage|\btrl\b|\btests\.", re.I
)


def test_the_wheel_holds_nothing_of_the_tests(packed):
    """Strikes, fake engines, damage, peers: none of their files, and no word of them in code."""
    wheel = [path for path in packed.rglob("*") if path.name not in ("mine.py", "run.yaml")]
    names = [str(path.relative_to(packed)) for path in wheel]
    assert [name for name in names if HARNESS.search(name) or "tests" in name] == []
    code = [path for path in wheel if path.suffix == ".py"]
    assert len(code) > 100
    assert {path.name: found for path in code if (found := HARNESS.findall(path.read_text()))} == {}


def test_a_module_that_is_not_there_is_named(tmp_path):
    run = RunConfig()
    run = replace(run, rewards=replace(run.rewards, custom={"own": "nowhere_at_all:reward"}))
    with pytest.raises(ValueError, match="module 'nowhere_at_all', which is not found"):
        pack_job(run, tmp_path)


def test_paths_travel_as_absolute_ones_and_names_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    run = load(None, ["model.path=here", "sft.start=Qwen/Qwen2.5-VL-7B-Instruct",
                      "data.train=/data/rl", "tracking.uri=sqlite:///m.db"])  # fmt: skip
    there = travelling(run)
    assert there.model.path == str(tmp_path / "here")
    assert there.sft.start == "Qwen/Qwen2.5-VL-7B-Instruct"
    assert (there.data.train, there.data.validation) == ("/data/rl", "")
    assert there.data.media == str(tmp_path / "data" / "media")
    assert there.tracking.uri == f"sqlite:///{tmp_path / 'm.db'}"
    assert there.cluster.address == "auto"


def test_a_module_in_folders_without_init_travels_with_what_is_beside_it(tmp_path, monkeypatch):
    beside = tmp_path / "here" / "own_rollouts" / "inner"
    beside.mkdir(parents=True)
    (beside / "engine.py").write_text("class Own: ...\n")
    (beside / "other.py").touch()
    monkeypatch.syspath_prepend(tmp_path / "here")
    package._copy_module("own_rollouts", tmp_path / "packed", key="rollouts.engine")
    found = {path.name for path in (tmp_path / "packed" / "own_rollouts" / "inner").iterdir()}
    assert found == {"engine.py", "other.py"}
