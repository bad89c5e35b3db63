"""curves.png: how a run went, in one picture drawn from metrics.jsonl.

Each panel takes the metrics whose names it lists (`PREFIX/*`: all below); a panel without any is
left out. Raw values are drawn faint, a running mean on top.
"""

import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from o3rl.tracking.metrics_log import read_series
from o3rl.types import PART_WORDS

Series = Mapping[str, Sequence[tuple[int, float]]]

INK, GRID, PAPER = "#1f2933", "#e4e7eb", "#ffffff"
COLORS = ("#2563eb", "#e8590c", "#2f9e44", "#9c36b5", "#c2255c", "#0c8599", "#f59f00", "#868e96")
WORDS = PART_WORDS | {
    "noise/p95": "noise, 95 %",
    "spanning/p95": "spanning rollouts, 95 %",
    "has_claim": "makes a claim",
    "zero_spread": "groups without spread",
}
SMOOTHING = 12  # the running mean covers a 12th of the series
COLUMNS = 3


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot: its title, the words of its y axis, and the metrics that it shows by name."""

    title: str
    axis: str
    metrics: tuple[str, ...]
    scale: str = "linear"
    from_zero: bool = True
    kind: str = "lines"  # lines: one line each; stack: areas on top of each other


PANELS = (
    Panel("Training reward", "mean a rollout", ("reward/total", "reward/total_without_format")),
    Panel("Reward by part", "mean a rollout", ("reward/*",)),
    Panel(
        "Evidence, of rollouts with a claim",
        "share",
        ("evidence/time_proximity", "evidence/gated_box_iou", "evidence/gate_pass"),
    ),
    Panel(
        "Validation reward",
        "mean a response",
        ("validation/total", "validation/total_without_format"),
    ),
    Panel(
        "Validation measures",
        "share",
        (
            "validation/claims/time_proximity",
            "validation/claims/gated_box_iou",
            "validation/temporal_iou",
            "validation/box_iou",
            "validation/accuracy",
            "validation/recall",
        ),
    ),
    Panel(
        "Claims and format",
        "share",
        (
            "evidence/has_claim",
            "evidence/recall",
            "evidence/recall_key_frames",
            "reward/format",
            "groups/zero_spread",
        ),
    ),
    Panel("Clipping", "share of sequences", ("ratio/clipped", "ratio/outside")),
    Panel(
        "Engine noise",
        "|log ratio| a token",
        ("noise/median", "noise/p95", "spanning/p95"),
        scale="log",
    ),
    Panel(
        "Sequence ratio",
        "policy / sampler",
        ("ratio/min", "ratio/mean", "ratio/max"),
        from_zero=False,
    ),
    Panel("Completion length", "tokens", ("length/mean", "length/max")),
    Panel("Entropy", "nats a token", ("entropy",)),
    Panel("Distance from the first policy", "nats a token", ("kl",)),
    Panel("Gradient norm", "before clipping", ("gradient/norm",)),
    Panel("Seconds a step, by stage", "seconds", ("seconds/*",), kind="stack"),
    Panel("Tokens sampled", "tokens/s", ("tokens/second",)),
    Panel("Rollout replicas", "replicas", ("pool/members", "pool/healthy")),
    Panel("Prompts on their way", "prompts", ("queue/running", "queue/ready")),
    Panel("Age of what is trained on", "versions", ("stale/mean", "stale/max")),
    Panel("Cold start: loss", "nats a token", ("sft/loss",)),
)
TITLES = tuple(panel.title for panel in PANELS)
SUMS = {"reward/total", "reward/total_without_format", "seconds/step"}  # not among their parts


def draw_curves(
    metrics: Path, picture: Path, *, title: str, panels: Collection[str] = TITLES
) -> list[str]:
    """Draw the curves of the `metrics` file as PNG at `picture`; returns the panels' titles.

    `panels` are the titles of those wanted. Raises FileNotFoundError without metrics, ValueError if
    no panel has anything to show.
    """
    series = finite_points(read_series(metrics))
    wanted = [panel for panel in PANELS if panel.title in panels]
    drawn = [(panel, names) for panel in wanted if (names := matching(panel, series))]
    if not drawn:
        raise ValueError(f"{metrics} has nothing to draw; it holds {sorted(series) or 'no metric'}")
    figure, axes = _figure(len(drawn), title)
    for axis, (panel, names) in zip(axes, drawn, strict=True):
        _draw_panel(axis, panel, {name: series[name] for name in names})
    picture.parent.mkdir(parents=True, exist_ok=True)
    aside = picture.with_name(f".{picture.name}.{os.getpid()}")
    figure.savefig(aside, format="png", dpi=110, facecolor=PAPER)
    aside.replace(picture)
    return [panel.title for panel, _ in drawn]


def finite_points(series: Series) -> dict[str, list[tuple[int, float]]]:
    """The same without NaN and infinities, and without series that hold nothing else."""
    kept = {
        name: [(step, value) for step, value in points if math.isfinite(value)]
        for name, points in series.items()
    }
    return {name: points for name, points in kept.items() if points}


def matching(panel: Panel, series: Series) -> list[str]:
    """The names of a panel's metrics in `series`; those of a `*` that other names do not say."""
    found: list[str] = []
    for name in panel.metrics:
        if name.endswith("/*"):
            found += [
                other for other in series if other.startswith(name[:-1]) and other not in SUMS
            ]
        elif name in series:
            found.append(name)
    drawn = [name for name in found if any(value != 0 for _, value in series[name])]
    return drawn or found[:1]


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """The centred mean over `window` values, over fewer at the ends; as many as there were."""
    half = window // 2
    return [
        sum(part) / len(part)
        for index in range(len(values))
        if (part := values[max(0, index - half) : index + half + 1])
    ]


def _figure(count: int, title: str) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    columns = min(COLUMNS, count)
    rows = math.ceil(count / columns)
    layout = ConstrainedLayoutEngine(w_pad=0.14, h_pad=0.14)
    figure = Figure(figsize=(5.2 * columns, 3.5 * rows + 0.6), layout=layout)
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.012, ha="left", fontsize=15, fontweight="bold", color=INK)
    grid = figure.add_gridspec(rows, columns)
    axes = [figure.add_subplot(grid[i // columns, i % columns]) for i in range(count)]
    return figure, axes


def _draw_panel(axis: Any, panel: Panel, series: Series) -> None:
    if panel.kind == "stack" and len(series) > 1:
        _draw_stack(axis, series)
    else:
        for color, (name, points) in zip(_colors(len(series)), series.items(), strict=True):
            _draw_line(axis, _label(name), points, color)
    if panel.scale == "log" and all(value > 0 for points in series.values() for _, value in points):
        axis.set_yscale("log")
    elif panel.scale == "linear":
        low, high = axis.get_ylim()
        low = min(0.0, low) if panel.from_zero else low
        room = 0.06 + 0.08 * math.ceil(len(series) / _legend_columns(len(series)))
        axis.set_ylim(low, high + room * (high - low))
    axis.set_title(panel.title, loc="left", fontsize=11.5, fontweight="bold", color=INK)
    axis.set_xlabel("step", fontsize=9, color=INK)
    axis.set_ylabel(panel.axis, fontsize=9, color=INK)
    axis.tick_params(labelsize=8.5, colors=INK, length=0)
    axis.grid(color=GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.xaxis.get_major_locator().set_params(integer=True)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.spines["bottom"].set_color(GRID)
    axis.margins(x=0.02)
    axis.legend(fontsize=8, frameon=False, ncols=_legend_columns(len(series)), loc="best")


def _draw_line(axis: Any, label: str, points: Sequence[tuple[int, float]], color: str) -> None:
    steps, values = [step for step, _ in points], [value for _, value in points]
    window = len(values) // SMOOTHING
    if window < 2:
        marker = "o" if len(values) <= 40 else ""
        axis.plot(steps, values, color=color, linewidth=1.8, label=label, marker=marker, ms=3.5)
        return
    axis.plot(steps, values, color=color, linewidth=0.8, alpha=0.28)
    axis.plot(steps, running_mean(values, window), color=color, linewidth=2.0, label=label)


def _draw_stack(axis: Any, series: Series) -> None:
    steps = sorted({step for points in series.values() for step, _ in points})
    lines = [dict(points) for points in series.values()]
    axis.stackplot(
        steps,
        [[line.get(step, 0.0) for step in steps] for line in lines],
        labels=[_label(name) for name in series],
        colors=_colors(len(series)),
        alpha=0.85,
        linewidth=0,
    )


def _colors(count: int) -> list[str]:
    return [COLORS[index % len(COLORS)] for index in range(count)]


def _legend_columns(count: int) -> int:
    return 2 if count > 2 else 1


def _label(name: str) -> str:
    own = name.rsplit("/", 1)[-1]
    if name in WORDS:
        return WORDS[name]
    return WORDS.get(own, own.replace("_", " ").replace("iou", "IoU"))
