"""The main job, small but whole and real: Ray, vLLM, DeepSpeed, MLflow, decord, as a user runs it.

Started services are dear on two cores, so one run serves many assertions, in order.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from o3rl.store import fingerprint

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

SMALL = (
    "sft.steps=4",
    "sft.batch=4",
    "loop.steps=2",
    "loop.groups=4",
    "loop.validate_every=1",
    "loop.checkpoint_every=1",
    "data.validation_rows=6",
    "sampling.group_size=4",
    "sampling.max_tokens=48",
    "tracking.pages_every=1",
    "rewards.custom.vowels=story_reward:vowels",  # so that there is a spread to learn from
)
DAMAGED = ("--damaged-videos", "40", "--damaged-rows", "1000")  # beside 8 good videos
PATH = {
    "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
}


def o3rl(*arguments: str, **keywords) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "cluster.cli", *arguments]
    environment = {**os.environ, **PATH}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=600, env=environment, **keywords
    )


def marked(mark: str) -> list[str]:
    """Living processes that inherited the environment variable O3RL_TEST_MARK with this value."""
    found = []
    wanted = f"O3RL_TEST_MARK={mark}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_text().replace("\0", " "))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def heed_interrupts() -> None:
    """A shell's background jobs ignore SIGINT, and what they start inherits that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("story") / "demo"
    done = o3rl("demo", "--folder", str(folder), "--seed", "3", "--videos", "8", *DAMAGED, *SMALL)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return folder


def test_report_holds_base_sft_and_rl(demo):
    report = json.loads((demo / "report.json").read_text())
    for stage in ("base", "sft", "rl"):
        for mode in ("greedy", "sampled"):
            found = report[stage][mode]
            assert found["rows"] + found["rows_failed"] == 2 * 4 + 1
            for name in ("total", "parts", "temporal_iou", "box_iou", "accuracy", "recall"):
                assert name in found
            low, high = found["intervals"]["total"]
            assert low <= found["total"] <= high
    assert report["steps"] == {"sft": 4, "rl": 2}
    assert report["samples"] == {"sft": 16, "rl": 2 * 4 * 4}
    assert report["seed"] == 3
    assert set(report["seconds"]) >= {"synth", "import", "sft", "rl", "evaluate", "total"}


def test_every_prompt_is_in_the_ledger(demo):
    ledger = pq.read_table(demo / "rl" / "ledger.parquet").to_pylist()
    trained = [entry for entry in ledger if entry["outcome"] == "trained"]
    assert [entry["version"] for entry in trained] == [1] * 4 + [2] * 4
    assert {entry["outcome"] for entry in ledger} == {"trained", "skipped"}
    assert not [entry["row"] for entry in trained if entry["row"].startswith("damaged")]


def test_damaged_rows_and_videos_stop_nothing_and_are_counted(demo):
    """40 videos and 1,000 rows: import refuses some, the run meets others, and both say so."""
    for name, good in (("sft", 8 * 6 + 6), ("rl", 8 * 6 + 6)):
        report = json.loads((demo / "rows" / name / "import.json").read_text())
        rejected = {reason: each["count"] for reason, each in report["rejected"].items()}
        assert report["read"] == good + 40 + 1000
        assert report["rows"] + sum(rejected.values()) == report["read"]
        refused = sum(n for reason, n in rejected.items() if reason.startswith("media "))
        # 40 videos in 12 kinds: 4 empty, and 3 each folders, missing, and the three kinds of links
        assert report["rows"] == good + 40 - refused
        assert refused == 4 + 5 * 3
    ledger = pq.read_table(demo / "rl" / "ledger.parquet").to_pylist()
    skipped = [entry for entry in ledger if entry["outcome"] == "skipped"]
    assert skipped
    for entry in skipped:
        assert entry["row"].startswith("damaged")
        assert entry["reason"] in ("media: no readable video", "media: frames cannot be decoded")
    assert logged(demo / "rl")[2]["prompts/skipped"] == len(skipped)
    assert logged(demo / "sft")[4]["prompts/skipped"] > 0


def logged(folder: Path) -> dict[int, dict[str, float]]:
    """By step, what was logged."""
    found: dict[int, dict[str, float]] = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        entry = json.loads(line)
        found.setdefault(entry["step"], {}).update(entry["metrics"])
    return found


def test_weights_changed_and_every_step_was_measured(demo):
    lines = [json.loads(line) for line in (demo / "rl" / "metrics.jsonl").read_text().splitlines()]
    steps = {line["step"]: line["metrics"] for line in lines if "reward/total" in line["metrics"]}
    assert sorted(steps) == [1, 2]
    for metrics in steps.values():
        assert metrics["learner/sequences"] == 16
        assert metrics["learner/refused"] == 0
        assert metrics["noise/p95"] < 1e-4  # engine and learner agree on untouched weights
        assert metrics["sync/bytes"] > 4e6
        assert metrics["stale/max"] == 0
        assert metrics["gradient/norm"] > 0
        assert metrics["reward/vowels"] > 0
    assert (demo / "rl" / "model" / "model.safetensors").read_bytes() != (
        demo / "sft" / "model" / "model.safetensors"
    ).read_bytes()


def test_mlflow_holds_both_stages(demo):
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{demo / 'mlflow.db'}")
    [experiment] = [e for e in client.search_experiments() if e.name == "demo"]
    runs = {run.data.tags["stage"]: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"sft", "rl", "evaluation"}
    assert "rl/greedy/total" in runs["evaluation"].data.metrics
    assert all(run.info.status == "FINISHED" for run in runs.values())
    rl = runs["rl"]
    assert rl.data.params["learning.objective"] == "gspo"
    assert rl.data.params["data.train_digest"] == fingerprint(demo / "rows" / "rl")
    assert rl.data.params["data.validation_digest"] == fingerprint(demo / "rows" / "held-out")
    assert len(client.get_metric_history(rl.info.run_id, "reward/total")) == 2
    assert "sft/loss" in runs["sft"].data.metrics


def test_pictures_and_pages_are_there(demo):
    for path in ("index.html", "evaluation/rl.html", "rl/pages/step-00001.html"):
        assert "<html" in (demo / path).read_text()
    assert (demo / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_seed_gives_the_same_weights(demo, tmp_path):
    again = o3rl("train", str(demo / "rl" / "config.yaml"), f"folder={tmp_path}")
    assert again.returncode == 0, again.stderr[-6000:]
    first = (demo / "rl" / "model" / "model.safetensors").read_bytes()
    assert (tmp_path / "rl" / "model" / "model.safetensors").read_bytes() == first


def test_interrupt_of_a_resumed_run_leaves_no_process(demo):
    """Resumes after step 2, is interrupted after step 3, and nothing of its session lives on."""
    config = str(demo / "rl" / "config.yaml")
    command = [sys.executable, "-m", "cluster.cli", "train", config, "--resume", "loop.steps=50"]
    mark = f"story-{os.getpid()}"
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **PATH, "O3RL_TEST_MARK": mark},
        preexec_fn=heed_interrupts,
    ) as run:
        assert marked(mark), "the mark must be seen while the run lives"
        metrics = demo / "rl" / "metrics.jsonl"
        deadline = time.monotonic() + 300
        while '"step": 3' not in metrics.read_text() and '"step":3' not in metrics.read_text():
            assert run.poll() is None, run.stdout.read() if run.stdout else ""
            assert time.monotonic() < deadline, "no third step within 300 s"
            time.sleep(0.5)
        os.kill(run.pid, signal.SIGINT)
        said, _ = run.communicate(timeout=120)
    assert run.returncode == 130, said
    deadline = time.monotonic() + 30
    while marked(mark) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert marked(mark) == []


def test_answer_shows_evidence(demo, tmp_path):
    video = demo / "data" / "media" / "videos" / "held-out-video-00000.mp4"
    page = tmp_path / "page.html"
    model = str(demo / "rl" / "model")
    done = o3rl("answer", str(video), "What shape is the red object?", "--model", model,
                "--page", str(page))  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert "answer:" in done.stdout
    assert "What shape is the red object?" in page.read_text()
