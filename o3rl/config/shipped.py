"""The configurations that are shipped, found by name from a checkout or an installed wheel."""

from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import o3rl
from o3rl.config import RunConfig, load
from o3rl.suggestion import suggestion


def folder() -> Path:
    """Where the YAML files lie: package data of a wheel, `configs/` of a checkout."""
    installed = Path(str(files(o3rl))) / "configs"
    return installed if installed.is_dir() else Path(str(files(o3rl))).parent / "configs"


def find(name: str) -> Path:
    """A path as given, or a shipped configuration by its name with or without `.yaml`.

    Raises FileNotFoundError that names the nearest shipped one, and lists them.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = folder() / f"{name.removesuffix('.yaml')}.yaml"
    if path.name == name and shipped.is_file():
        return shipped
    known = sorted(each.stem for each in folder().glob("*.yaml"))
    meant = suggestion(path.stem, known)
    raise FileNotFoundError(
        f"no file {name!r}, nor is it shipped{meant}; shipped are {', '.join(known)}"
    )


def load_named(name: str, overrides: list[str]) -> RunConfig:
    """`o3rl.config.load` of a path or a shipped name; a shipped model becomes its path."""
    run = load(find(name), overrides)
    return of_model(run, run.model.path)


def of_model(run: RunConfig, path: str) -> RunConfig:
    """The run with the model at `path`, a folder, a hub name, or a shipped model's name."""
    return replace(run, model=replace(run.model, path=model_path(path)))


def start_of_sft(run: RunConfig) -> RunConfig:
    """The run with the model that SFT starts from, and its own share of the machine."""
    run = of_model(run, run.sft.start or run.model.path)
    cpus = run.sft.cpus_per_rank or run.cluster.cpus_per_rank
    return replace(run, cluster=replace(run.cluster, cpus_per_rank=cpus))


def model_path(name: str) -> str:
    """The folder of a shipped model, or `name` itself."""
    if name != "tiny":
        return name
    return str(Path(str(files("learners"))) / "tiny_base")
