"""What a job brings along: this project's wheel, the configuration, the user's own modules.

The wheel is unpacked into Ray's `working_dir`, which is on the path of every process of the job:
there it has its metadata, so that its entry points are found, which bare source would not have;
Ray's `py_modules` would install it together with torch and all else that it needs. What it needs,
data, models and checkpoints are not sent: the cluster has them, at the paths that are configured.
"""

import importlib.metadata
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import o3rl
from o3rl.config import RunConfig, as_yaml, user_code
from o3rl.tracking.tracker import absolute_uri

CONFIG = "run.yaml"
BUILD_SECONDS = 300.0
RAY_ITSELF = "auto"  # the address of the cluster that the job runs on


def pack_job(run: RunConfig, folder: Path) -> None:
    """Fill `folder`: the wheel's files, run.yaml, modules of custom rewards or of an engine.

    Raises ValueError where the wheel cannot be built or a module is not found.
    """
    root = Path(str(o3rl.__file__)).parents[1]
    if (root / "pyproject.toml").is_file():
        _build(root, folder)
    else:
        _copy_installed(folder)
    for key, target in user_code(run).items():
        _copy_module(target.partition(":")[0].partition(".")[0], folder, key=key)
    (folder / CONFIG).write_text(as_yaml(run))


def travelling(run: RunConfig) -> RunConfig:
    """The run as the cluster reads it: paths absolute, on the cluster that the job runs on."""
    data, model, sft, uri = run.data, run.model, run.sft, run.tracking.uri
    return replace(
        run,
        folder=_absolute(run.folder),
        data=replace(
            data,
            train=_absolute(data.train),
            validation=_absolute(data.validation),
            media=_absolute(data.media),
        ),
        model=replace(model, path=_absolute_if_here(model.path)),
        sft=replace(sft, start=_absolute_if_here(sft.start), rows=_absolute(sft.rows)),
        cluster=replace(run.cluster, address=RAY_ITSELF),
        tracking=replace(run.tracking, uri=uri and absolute_uri(uri, Path(run.folder))),
    )


def _absolute(path: str) -> str:
    return str(Path(path).absolute()) if path else ""


def _absolute_if_here(path: str) -> str:
    """A model's folder; what is none is a name, of a hub or of a shipped model."""
    return _absolute(path) if path and Path(path).is_dir() else path


def _build(root: Path, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as aside:
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", aside]
        done = subprocess.run(
            command, cwd=root, capture_output=True, text=True, timeout=BUILD_SECONDS
        )
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines()
            raise ValueError(f"the wheel of {root} cannot be built: {said[-1] if said else '?'}")
        [wheel] = Path(aside).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)


def _copy_installed(folder: Path) -> None:
    """The files of the wheel that we run from, as it was unpacked."""
    for file in importlib.metadata.files("o3rl") or ():
        if ".." in file.parts or "__pycache__" in file.parts:  # scripts; bytecode
            continue
        target = folder / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(str(file.locate()), target)


def _copy_module(name: str, folder: Path, *, key: str) -> None:
    """A user's module or package; one that is installed is the cluster's business."""
    spec = find_spec(name)
    if spec is None:
        raise ValueError(f"{key} names module {name!r}, which is not found here")
    packages = spec.submodule_search_locations  # several, where there is no __init__.py
    installed, skipped = Path(sysconfig.get_path("purelib")), shutil.ignore_patterns("__pycache__")
    if (folder / name).exists():
        return
    for place in map(Path, packages or [str(spec.origin)]):
        if installed in place.parents:
            continue
        if packages:
            shutil.copytree(place, folder / name, ignore=skipped, dirs_exist_ok=True)
        else:
            shutil.copy(place, folder / place.name)
