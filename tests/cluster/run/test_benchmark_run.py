"""The tiny model asked all five benchmarks, in their own files, by one real pool."""

import asyncio
import json

import pytest

from cluster.run.benchmark import Run, benchmark_config, replies_of
from o3rl.benchmarks.registry import BENCHMARKS
from o3rl.benchmarks.runner import Scoring, result
from o3rl.config.shipped import load_named, model_path, of_model
from o3rl.types import Version
from tests.cluster.run.benchmark_files import MISSING, write_benchmarks

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

OVERRIDES = ["rollouts.max_model_tokens=2048", "frames.readers=1"]


def runs(folder) -> dict[str, Run]:
    """Two rows of each, of which one has no video; few small frames, short replies."""
    from dataclasses import replace

    config = of_model(load_named("tiny_demo", OVERRIDES), model_path("tiny"))
    found = {}
    for name, path in write_benchmarks(folder, rows=2, seed=0).items():
        benchmark = BENCHMARKS[name]
        sampling = replace(benchmark.sampling, frames=4, pixels=12544, max_tokens=16)
        benchmark = replace(benchmark, sampling=sampling)
        rows = benchmark.read(path)
        found[name] = Run(config, benchmark, rows, folder / "media", folder / name, False)
    return found


async def all_replies(prepared):
    from cluster.services.wiring import services

    replies = {}
    pool = None
    first = next(iter(prepared.values()))
    async with services(benchmark_config(first), first.folder) as start:
        media = start.media()  # the frames of all five are the same here, but for their rate
        pool = start.rollouts(media.media, None)
        await pool.fleet.start()
        await pool.weights.adopt(Version(0, 0))
        for name, run in prepared.items():
            replies[name] = await replies_of(run, media, pool)
    return replies


def test_all_five_are_asked_scored_and_gone_on_with(tmp_path):
    from cluster.services.session import ray_session

    prepared = runs(tmp_path)
    assert all(run.missing()[0].startswith(MISSING) for run in prepared.values())
    with ray_session(next(iter(prepared.values())).config.cluster):
        replies = asyncio.run(all_replies(prepared))
    assert list(replies) == ["vstar", "tvgbench", "videomme", "videommmu", "worldsense"]
    for name, records in replies.items():
        benchmark = prepared[name].benchmark
        assert [record["reason"] for record in records] == ["", "video missing"], name
        assert records[0]["input_size"][0] > 0
        scores = benchmark.score(records, Scoring())
        found = result(benchmark.name, benchmark.size, records, scores, settings={})
        assert found["counts"]["without_reply"] == {"video missing": 1}
        assert found["named"][0].startswith(MISSING)
        json.dumps(found, allow_nan=False)
        assert prepared[name].left() == 1  # what is missing is looked for again
    texts = replies["vstar"][0]["texts"]
    assert len(texts) == 5
    assert all(texts.values())
