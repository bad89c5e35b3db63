"""Pages that show the evidence: one HTML file each, whole in itself, that asks no network.

Frames are embedded as JPEG, once each; drawings are inline SVG. What a model or a data set wrote is
escaped everywhere, and the page's policy lets no script run but its own.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from o3rl.evaluation.cards import card
from o3rl.evaluation.evidence import Entry
from o3rl.evaluation.html import data_url, environment, policy
from o3rl.evaluation.measures import Scored, is_right
from o3rl.evaluation.report import MODES, SHOWN, STAGES, gain, number, value
from o3rl.files import write_text
from o3rl.text.boxes import ABSOLUTE, BoxConvention
from o3rl.types import Task, makes_claim, without_format

MAX_ENTRIES = 60

__all__ = ["MAX_ENTRIES", "Entry", "PageLink", "write_index", "write_page"]


@dataclass(frozen=True, slots=True)
class PageLink:
    """A page for the index: where it is, its title, and what is on it."""

    path: Path
    title: str
    responses: int
    mean_total: float
    tasks: Mapping[str, int]


def write_page(
    path: Path,
    title: str,
    entries: Sequence[Entry],
    *,
    convention: BoxConvention = ABSOLUTE,
    weights: Mapping[str, float] | None = None,
    max_entries: int = MAX_ENTRIES,
) -> PageLink:
    """Write the evidence of `entries`, of the first `max_entries` if there are more.

    `convention` says how the model writes boxes (claims are normalised, answers are read again),
    `weights` what each part of the reward counts (1 where not named).
    Raises ValueError without entries.
    """
    if not entries:
        raise ValueError(f"no responses to show on {path}")
    shown = entries[:max_entries]
    tasks = Counter(str(entry.row.task) for entry in shown)
    html = (
        environment()
        .get_template("page.html")
        .render(
            title=title,
            cards=[card(i, entry, convention, weights or {}) for i, entry in enumerate(shown)],
            tasks=_in_order(tasks),
            is_scored=any(entry.is_scored for entry in shown),
            has_unseen=any(entry.unseen for entry in shown),
            left_out=len(entries) - len(shown),
            facts=_facts(shown),
            csp=policy(),
        )
    )
    write_text(path, html)
    mean = fmean(entry.reward.total for entry in shown)
    return PageLink(path, title, len(shown), mean, _in_order(tasks))


def write_index(
    path: Path,
    title: str,
    pages: Sequence[PageLink],
    *,
    report: Mapping[str, Any] | None = None,
    curves: Path | None = None,
) -> None:
    """Write the page that leads to the others, with the report's numbers and curves if given."""
    tasks = Counter[str]()
    for page in pages:
        tasks.update(page.tasks)
    html = (
        environment()
        .get_template("index.html")
        .render(
            title=title,
            pages=[(page, _relative(page.path, path)) for page in pages],
            tasks=_in_order(tasks),
            numbers=_numbers(report) if report else None,
            report=report,
            curves=data_url(curves.read_bytes(), "image/png") if curves else None,
            csp=policy(),
        )
    )
    write_text(path, html)


def _facts(entries: Sequence[Entry]) -> list[tuple[str, str]]:
    if not all(entry.is_scored for entry in entries):  # asked, and there is no truth
        return []
    rewards = [entry.reward for entry in entries]
    cites = [entry.reward for entry in entries if entry.row.task is Task.TEMPORAL_SPATIAL]
    right = fmean(is_right(Scored(entry.row, entry.text, entry.reward)) for entry in entries)
    facts = [
        ("responses", str(len(rewards))),
        ("right", f"{right:.0%}"),
        ("mean reward", f"{fmean(reward.total for reward in rewards):.2f}"),
        ("without format", f"{fmean(without_format(reward, 1.0) for reward in rewards):.2f}"),
    ]
    if cites:
        share = fmean(makes_claim(reward) for reward in cites)
        facts.append(("of those asked for evidence, cite", f"{share:.0%}"))
    return facts


def _numbers(report: Mapping[str, Any]) -> dict[str, Any]:
    """The report as a table: headings and rows of words."""
    stages = [stage for stage in STAGES if stage in report]
    compared = {"sft", "rl"} <= set(stages)
    rows = []
    for name, words in SHOWN:
        cells = []
        for mode in MODES:
            cells += [(number(value(report, stage, mode, name)), "") for stage in stages]
            if compared:
                share = gain(report, mode, name)
                kind = "" if share is None else "up" if share > 0.005 else "down" * (share < -0.005)
                cells.append(("–" if share is None else f"{share:+.0%}", f"gain {kind}"))
        rows.append((words.strip(), words.startswith(" "), cells))
    return {"stages": [*stages, *["gain"] * compared], "modes": MODES, "rows": rows}


def _in_order(tasks: Mapping[str, int]) -> dict[str, int]:
    return {str(task): tasks[str(task)] for task in Task if str(task) in tasks}


def _relative(page: Path, index: Path) -> str:
    return Path(os.path.relpath(page, index.parent)).as_posix()
