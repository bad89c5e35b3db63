"""The doctor: each finding on made-up facts, and the whole of it on this machine."""

import json
import os
import sqlite3
import sys
from argparse import Namespace
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from cluster.commands import doctor
from cluster.commands.doctor import NAMES, CheckState

HOME = Path(doctor.__file__).resolve().parents[2]


@pytest.fixture
def places() -> dict[str, str]:
    """Where our names lie if nothing is in the way."""
    return {name: str(HOME / name / "__init__.py") for name in NAMES}


def test_this_environment_is_sound(capsys):
    assert doctor.run(Namespace(json=False)) == 0
    shown = capsys.readouterr().out
    for words in ("torch build", "vLLM build", "GPUs", "cores", "/dev/shm", "import cluster"):
        assert words in shown


@pytest.mark.parametrize(
    ("version", "state"),
    [("2.60.0", CheckState.right), ("2.59.0", CheckState.note), (None, CheckState.missing)],
)
def test_a_package_against_its_pin(version, state):
    finding = doctor.package(Requirement("ray[default]==2.60.0"), version)
    assert finding.state is state
    assert finding.name == "ray ==2.60.0"
    if version is None:
        assert "make setup" in finding.mend


def test_a_local_build_fits_its_pin():
    assert doctor.package(Requirement("torch==2.13.0"), "2.13.0+cpu").state is CheckState.right


@pytest.mark.parametrize(
    ("build", "vllm", "cpu", "state", "said"),
    [
        ("CPU", None, "0.32.0", CheckState.right, ""),
        ("CUDA 13.0", "0.32.0", None, CheckState.right, ""),
        ("CPU", "0.32.0", None, CheckState.missing, "does not fit a torch for CPU"),
        ("CUDA 13.0", None, "0.32.0", CheckState.missing, "does not fit a torch for CUDA 13.0"),
        ("CPU", "0.32.0", "0.32.0", CheckState.missing, "overwrite each other"),
        ("CPU", None, None, CheckState.missing, "make setup"),
    ],
)
def test_builds_of_torch_and_vllm(build, vllm, cpu, state, said):
    finding = doctor.engine(build, vllm, cpu)
    assert finding.state is state
    assert said in finding.mend


@pytest.mark.parametrize(
    ("build", "version", "shim", "state"),
    [
        ("CPU", "0.28.0", True, CheckState.right),
        ("CPU", "0.28.0", False, CheckState.missing),
        ("CPU", "0.28.0+cpu", False, CheckState.right),
        ("CUDA 13.0", "0.28.0", False, CheckState.right),
        ("CPU", None, False, CheckState.missing),
    ],
)
def test_torchvision(build, version, shim, state):
    assert doctor.torchvision(build, version, shim=shim).state is state


def test_a_gpu_that_torch_does_not_see_is_noted(monkeypatch):
    facts = {"torch": "2.13.0+cpu", "cuda": None, "nms": True, "gpus": []}
    monkeypatch.setattr(doctor.shutil, "which", lambda _: "/bin/nvidia-smi")
    *_, gpus = doctor.torch_and_engine(facts, None, "0.32.0")
    assert (gpus.name, gpus.state) == ("GPUs", CheckState.note)
    monkeypatch.setattr(doctor.shutil, "which", lambda _: None)
    *_, gpus = doctor.torch_and_engine(facts, None, "0.32.0")
    assert gpus.state is CheckState.right


def test_a_torch_that_cannot_be_imported_is_missing():
    [finding] = doctor.torch_and_engine({"error": "OSError: libtorch"}, None, "0.32.0")
    assert (finding.state, finding.found) == (CheckState.missing, "OSError: libtorch")


def test_a_file_in_the_working_directory_hides_ours(tmp_path):
    (tmp_path / "cluster.py").write_text("")
    (tmp_path / "rewards").mkdir()
    (tmp_path / "rewards" / "__init__.py").write_text("")
    facts = doctor.run_probe(doctor.PROBES["names"], tmp_path)
    found = {finding.name: finding for finding in doctor.shadowed(facts, HOME)}
    assert {name for name, each in found.items() if each.state is CheckState.missing} == {
        "import cluster",
        "import rewards",
    }
    assert str(tmp_path / "cluster.py") in found["import cluster"].mend


def test_an_empty_folder_of_our_name_hides_nothing(tmp_path):
    (tmp_path / "learners").mkdir()
    facts = doctor.run_probe(doctor.PROBES["names"], tmp_path)
    assert {finding.state for finding in doctor.shadowed(facts, HOME)} == {CheckState.right}


def test_another_distribution_with_our_name_is_told(places, monkeypatch):
    owners = {"cluster": ["python-cluster", "o3rl"], "o3rl": ["o3rl"]}
    monkeypatch.setattr(metadata, "packages_distributions", lambda: owners)
    found = [each for each in doctor.shadowed(places, HOME) if each.state is CheckState.missing]
    assert [(each.name, "python-cluster" in each.mend) for each in found] == [
        ("import cluster", True)
    ]


def test_a_name_that_is_not_there_is_missing(places):
    found = [each for each in doctor.shadowed(places | {"actors": ""}, HOME) if each.mend]
    assert [each.name for each in found] == ["import actors"]


def test_a_probe_that_dies_or_hangs_is_told(tmp_path, monkeypatch):
    assert doctor.run_probe("raise OSError('no libtorch')", tmp_path) == {
        "error": "OSError: no libtorch"
    }
    assert "code" in doctor.run_probe("import os; os._exit(3)", tmp_path)["error"]
    monkeypatch.setattr(doctor, "SECONDS", 0.5)
    assert "no answer in" in doctor.run_probe("import time; time.sleep(30)", tmp_path)["error"]


def test_the_database_is_tried_and_nothing_is_left(tmp_path):
    (tmp_path / "runs").mkdir()
    finding = doctor.database(tmp_path)
    assert (finding.state, finding.found) == (
        CheckState.right,
        f"can be written in {tmp_path / 'runs'}",
    )
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_database_without_locks_is_missing(tmp_path, monkeypatch):
    class NoLocks:
        def execute(self, _):
            raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(doctor.sqlite3, "connect", lambda *_, **__: NoLocks())
    finding = doctor.database(tmp_path)
    assert finding.state is CheckState.missing
    assert "database is locked" in finding.found
    assert "tracking.uri" in finding.mend


def test_a_folder_that_is_not_there_is_told(tmp_path):
    assert doctor.database(tmp_path / "none").state is CheckState.missing


def test_little_room_is_a_note(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 2**20})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage)
    found = {finding.name: finding for finding in doctor.machine(tmp_path)}
    assert found["disk"].state is found["/dev/shm"].state is CheckState.note
    assert found["cores"].found == str(len(os.sched_getaffinity(0)))


def test_something_missing_is_exit_code_1_and_says_how_to_mend_it(monkeypatch, capsys):
    broken = doctor.Finding("Ray", "no [module]", CheckState.missing, "install it [now]")
    noted = doctor.Finding("disk", "1 GiB", CheckState.note, "make room")
    monkeypatch.setattr(doctor, "findings", lambda _: iter([broken, noted]))
    assert doctor.run(Namespace(json=False)) == 1
    shown = capsys.readouterr().out
    assert "Ray: install it [now]" in shown
    assert "disk: make room" in shown
    monkeypatch.setattr(doctor, "findings", lambda _: iter([noted]))
    assert doctor.run(Namespace(json=False)) == 0
    capsys.readouterr()
    assert doctor.run(Namespace(json=True)) == 0
    assert json.loads(capsys.readouterr().out) == [
        {"name": "disk", "found": "1 GiB", "state": "note", "mend": "make room"}
    ]


def test_another_python_is_missing(monkeypatch):
    monkeypatch.setattr(doctor.sys, "version_info", (3, 9, 1))
    python = next(doctor.python_and_packages())
    assert (python.found, python.state) == ("3.9.1", CheckState.missing)
    assert sys.executable
