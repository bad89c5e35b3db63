"""The cold start for real: resumed, with a frozen vision tower, with LoRA; RL replayed from what it
recorded; one Ray for all."""

import asyncio
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.run.sft import sft
from o3rl.config import RunConfig
from o3rl.config.shipped import load_named, model_path, start_of_sft
from o3rl.persistence.checkpoints import CHECKPOINTS, LEDGER, start_from
from o3rl.persistence.ledger import Ledger
from o3rl.tracking.metrics_log import read_series

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Rows of synthetic videos and pictures, two of whose media are damaged after the import."""
    from o3rl.data.stgr import import_file
    from o3rl.synth.dataset import Size, write_dataset
    from o3rl.synth.questions import Teacher

    folder = tmp_path_factory.mktemp("sft")
    assert list(write_dataset(folder / "data", Size(2, 6, 1, 1), seed=0, teacher=Teacher()))
    import_file(folder / "data" / "STGR-SFT.json", folder / "rows" / "sft")
    for number in (0, 3):
        picture = folder / "data" / "media" / "images" / f"train-picture-{number:05d}.png"
        picture.write_bytes(picture.read_bytes()[:100])
    return folder


@pytest.fixture(scope="module")
def ray_here(data) -> Iterator[None]:
    from cluster.services.session import ray_session

    with ray_session(config_of(data).cluster):
        yield


def config_of(folder: Path, *overrides: str) -> RunConfig:
    run = load_named("tiny_demo", [f"folder={folder}", "sft.batch=4", "sft.warmup=0", *overrides])
    return start_of_sft(run)


def weights(folder: Path):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def changed(folder: Path) -> set[str]:
    """Names of the tensors that differ from the base's; the names must be the base's."""
    base, found = weights(Path(model_path("tiny"))), weights(folder)
    assert base.keys() == found.keys()
    return {name for name in base if not base[name].equal(found[name])}


@pytest.mark.usefixtures("ray_here")
def test_a_resumed_run_ends_with_the_weights_of_a_straight_one(data):
    """All five steps were logged when it goes on from step 2, as the checkpoint of step 4
    is damaged. The vision tower is frozen, and stays as it was."""
    config = config_of(data, "sft.steps=5", "sft.checkpoint_every=2", "model.freeze_vision=true")
    folder = data / "sft"
    straight = asyncio.run(sft(config))
    first = {name: tensor.clone() for name, tensor in weights(folder / "model").items()}
    series = read_series(folder / "metrics.jsonl")
    ledger = Ledger.read(folder / LEDGER)
    assert changed(folder / "model") == {name for name in first if not name.startswith("visual.")}
    assert (
        series["prompts/skipped"][-1][1] > series["prompts/skipped"][1][1]
    )  # also after the checkpoint

    with pytest.raises(ValueError, match=r"a run lies in .*/sft; go on with it by --resume"):
        start_from(folder, resume=False)
    shutil.rmtree(folder / "model")
    damaged = folder / CHECKPOINTS / "step-000004"
    os.truncate(damaged / "learner" / "rank-0.pt", 100)
    resumed = asyncio.run(sft(config, resume=True))
    assert damaged.with_suffix(".damaged").is_dir()
    assert damaged.is_dir()  # taken again
    again = weights(folder / "model")
    assert [name for name in first if not first[name].equal(again[name])] == []
    assert (resumed.steps, resumed.samples, resumed.tokens) == (
        5,
        straight.samples,
        straight.tokens,
    )
    expected = [  # the same prompts, the later ones trained by another start
        replace(entry, incarnation=1) if entry.version > 2 else entry for entry in ledger.entries()
    ]
    assert list(Ledger.read(folder / LEDGER).entries()) == expected
    found = read_series(folder / "metrics.jsonl")
    for name in ("sft/loss", "learner/tokens", "learner/rate", "gradient/norm", "prompts/skipped"):
        assert found[name] == series[name], name
    assert logged_steps(data) == {"metrics.jsonl": [1, 2, 3, 4, 5], "MLflow": [1, 2, 3, 4, 5]}


def logged_steps(folder: Path) -> dict[str, list[int]]:
    """The step of each line of metrics.jsonl and of each point of MLflow's one SFT run."""
    import mlflow

    lines = (folder / "sft" / "metrics.jsonl").read_text().splitlines()
    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    [experiment] = [e for e in client.search_experiments() if e.name == "demo"]
    [run] = client.search_runs([experiment.experiment_id])
    points = client.get_metric_history(run.info.run_id, "sft/loss")
    return {
        "metrics.jsonl": [json.loads(line)["step"] for line in lines],
        "MLflow": sorted(point.step for point in points),
    }


@pytest.mark.usefixtures("ray_here")
def test_lora_changes_the_adapted_projections_and_leaves_an_ordinary_model(data, tmp_path):
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    sources = (f"data.media={data / 'data' / 'media'}", f"sft.rows={data / 'rows' / 'sft'}")
    lora = ("model.lora_rank=4", "model.freeze_vision=false", "sft.steps=2")
    trained = asyncio.run(sft(config_of(tmp_path, *sources, *lora)))
    adapted = re.compile(r"model\.layers\.\d\.(self_attn\.[qkvo]|mlp\.(gate|up|down))_proj\.weight")
    found = changed(trained.model)
    assert found == {name for name in weights(trained.model) if adapted.fullmatch(name)}
    assert len(found) == 4 * 7  # layers × projections
    base, exported = weights(Path(model_path("tiny"))), weights(trained.model)
    for name in found:  # merged: the change is a product of two matrices of rank 4
        values = torch.linalg.svdvals((exported[name] - base[name]).double())
        assert values[3] > 1e3 * values[4], name
    model, loading = AutoModelForImageTextToText.from_pretrained(
        trained.model, output_loading_info=True
    )
    assert not any(loading.values())
    assert not [name for name, _ in model.named_parameters() if "lora" in name]
    AutoProcessor.from_pretrained(trained.model)
    assert not (trained.model / "adapter_config.json").exists()


@pytest.mark.usefixtures("ray_here")
def test_what_was_recorded_trains_the_same_weights_again(data, tmp_path):
    from cluster.run.replay import replay
    from cluster.run.run_control import Control
    from cluster.run.train import train
    from o3rl.data.stgr import import_file

    import_file(data / "data" / "STGR-RL.json", data / "rows" / "rl")
    overrides = [f"folder={tmp_path}", f"data.train={data / 'rows' / 'rl'}", "model.path=tiny"]
    overrides += [
        f"data.media={data / 'data' / 'media'}",
        "rollouts.engine=tests.faults.fake_engine:Quick",
    ]
    overrides += ["loop.steps=3", "loop.groups=4", "loop.validate_every=0", "learning.warmup=0"]
    config = load_named("tiny_demo", overrides)
    recorded = tmp_path / "batches"
    trained = asyncio.run(train(config, Control("rl", str(tmp_path)), record=recorded))
    again = asyncio.run(replay(config, recorded))
    assert (again.steps, again.samples, again.tokens) == (3, trained.samples, trained.tokens)
    first, second = weights(trained.model), weights(again.model)
    assert changed(trained.model)
    assert [name for name in first if not first[name].equal(second[name])] == []
    losses = [read_series(tmp_path / stage / "metrics.jsonl")["loss"] for stage in ("rl", "replay")]
    assert losses[0] == losses[1]
