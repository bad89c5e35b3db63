"""`o3rl evaluate`: held-out rows answered greedily and by sampling, measured, shown on pages.

Several models share one engine: the first is what it starts with, then each is published to the
weight store and loaded. Everything lies in `FOLDER/evaluation`.
"""

import argparse
import asyncio
import json
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from cluster.outputs import is_object_with, is_page, require_own
from learners.model.architecture import require_model
from o3rl.config import RunConfig, require
from o3rl.config.shipped import load_named, model_path, of_model
from o3rl.evaluation.evaluator import Answered
from o3rl.files import write_text
from o3rl.text.boxes import BoxConvention, convention_of
from o3rl.types import Row, Version

BUCKET_BYTES = 2**28
PAGE_ROWS = 36


def run(options: argparse.Namespace) -> int:
    """Check the configuration, then evaluate."""
    config = load_named(options.config, options.overrides)
    models = named_models(options.model or [config.model.path])
    require(options.limit >= 0, "--limit", options.limit, "0 (all rows) or more")
    from cluster.services.session import ray_session
    from o3rl.data.parquet import read_rows
    from o3rl.text.truth import only_teaches

    source = options.rows or config.data.validation
    if not source:
        raise ValueError("data.validation is empty; say with --rows which rows to answer")
    rows = [row for row in read_rows(source, limit=options.limit) if not only_teaches(row)]
    folder = options.out or Path(config.folder) / "evaluation"
    for name in models:
        require_own(folder / f"{name}.json", "--out", is_object_with("greedy"))
        require_own(folder / f"{name}.html", "--out", is_page)
    with ray_session(config.cluster):
        found = asyncio.run(evaluate(config, models, rows, folder=folder))
    Console().print(models_table({name: each.modes for name, each in found.items()}))
    Console().print(f"numbers and pages are in {folder}")
    return 0


def named_models(given: Sequence[str]) -> dict[str, str]:
    """`NAME=PATH` or `PATH`, which names itself; ValueError for a name given twice, or no model."""
    models: dict[str, str] = {}
    for each in given:
        name, separator, path = each.partition("=")
        name, path = (name, path) if separator else (Path(each).name, each)
        if name in models or not path:
            raise ValueError(f"--model {each}: each model needs a path and a name of its own")
        models[name] = model_path(path)
        require_model(models[name])
    return models


@dataclass(frozen=True, slots=True)
class Evaluated:
    """One model's numbers by mode (greedy, sampled), its page, and how long it took."""

    modes: dict[str, Any]
    page: Any  # o3rl.evaluation.pages.PageLink, or None where no row was answered
    seconds: float


async def evaluate(
    config: RunConfig, models: Mapping[str, str], rows: Sequence[Row], *, folder: Path
) -> dict[str, Evaluated]:
    """Answer `rows` with each model in a started Ray session.

    Writes NAME.json (numbers), NAME-greedy.jsonl and NAME-sampled.jsonl (responses), NAME.html.
    """
    from cluster.services.wiring import model_type, services
    from o3rl.concurrency import gather_first_error
    from o3rl.evaluation.evaluator import Evaluator

    families = {name: model_type(path) for name, path in models.items()}
    if len(set(families.values())) > 1:
        raise ValueError(f"models of several families, {families}: evaluate each by itself")
    first, path = next(iter(models.items()))
    convention = convention_of(families[first])
    found: dict[str, Evaluated] = {}
    async with services(of_model(config, path), folder) as start:
        media, scorers = start.media(), start.scorers()
        store = start.store() if len(models) > 1 else None
        pool = start.rollouts(media.media, store)
        await gather_first_error([pool.fleet.start(), scorers.start()])
        evaluator = Evaluator(media, pool, scorers)
        for number, (name, path) in enumerate(models.items()):
            version = Version(0, number)
            if store is None:
                await pool.weights.adopt(version)
            else:
                await asyncio.to_thread(publish_folder, path, store, version)
                await pool.weights.load(version)
            found[name] = await _evaluate_one(
                config, evaluator, rows, name=name, folder=folder, convention=convention
            )
    return found


async def _evaluate_one(
    config: RunConfig,
    evaluator: Any,
    rows: Sequence[Row],
    *,
    name: str,
    folder: Path,
    convention: BoxConvention,
) -> Evaluated:
    from cluster.progress import bar, one_more
    from o3rl.evaluation.evaluator import GREEDY, SAMPLED
    from o3rl.evaluation.measures import summary
    from o3rl.evaluation.pages import write_page
    from o3rl.observers import entries_of

    began = perf_counter()
    answered, modes = [], {}
    with bar(f"evaluating {name}", 2 * len(rows)) as show:
        advance = one_more(show)
        for mode, decoding in (("sampled", SAMPLED), ("greedy", GREEDY)):
            answered = await evaluator.run(rows, decoding, advance)
            scored = [each.scored for each in answered]
            modes[mode] = summary(scored, seed=config.seed, weights=config.rewards.weights)
            write_responses(folder / f"{name}-{mode}.jsonl", answered)
    write_text(folder / f"{name}.json", json.dumps(modes, indent=1) + "\n")
    entries = await entries_of(answered, evaluator.media.frames, limit=PAGE_ROWS)
    page = None
    if entries:
        page = write_page(
            folder / f"{name}.html",
            f"Held-out rows, answered greedily by {name}",
            entries,
            convention=convention,
        )
    return Evaluated(modes, page, perf_counter() - began)


def write_responses(path: Path, answered: Sequence[Answered]) -> None:
    """One JSON object a response: row, task, question, truth, text, parts and total of its reward;
    for a row without one, why."""
    lines = []
    for each in answered:
        row = each.row
        about = {"row": row.id, "task": str(row.task), "question": row.question}
        about["truth"] = row.truth.text
        if each.group is None:
            lines.append(about | {"failed": each.reason})
        for scored in each.scored:
            reward = scored.reward
            lines.append(
                about | {"text": scored.text, "parts": reward.parts, "total": reward.total}
            )
    write_text(path, "".join(f"{json.dumps(line)}\n" for line in lines))


def publish_folder(path: str, store: Any, version: Version) -> None:
    """Send the safetensors of a Hugging Face folder or hub name to the weight store."""
    from huggingface_hub import snapshot_download

    from o3rl.weights.buckets import RawTensor, unpack
    from o3rl.weights.manifest import publish

    folder = Path(path)
    if not folder.is_dir():
        folder = Path(snapshot_download(path, allow_patterns=["*.safetensors*"]))
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{folder} has no *.safetensors; it is no Hugging Face model folder")
    tensors: dict[str, RawTensor] = {}
    for file in files:
        with file.open("rb") as opened:
            mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        tensors |= unpack(memoryview(mapped))
    publish(tensors, store, version=version, limit=BUCKET_BYTES)


def models_table(models: Mapping[str, Mapping[str, Any]]) -> Table:
    """The headline numbers of each model and mode."""
    from o3rl.evaluation.report import SHOWN, number, value

    shown = Table(box=box.SIMPLE_HEAD)
    shown.add_column("")
    columns = [(name, mode) for name in models for mode in models[name]]
    for name, mode in columns:
        shown.add_column(f"{name}\n{mode}", justify="right")
    for key, words in SHOWN:
        shown.add_row(words, *(number(value(models, n, m, key)) for n, m in columns))
    return shown
