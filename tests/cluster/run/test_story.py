"""The main job, small but whole and real: Ray, vLLM, DeepSpeed, MLflow, decord, as a user runs it.

Started services are dear on two cores, so one run serves many assertions, in order.
"""

import base64
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cluster.commands.demo_folder import foreign
from o3rl.data.parquet import fingerprint
from tests.faults.processes import carrying, title_of

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

SMALL = (
    "sft.steps=4",
    "sft.batch=4",
    "loop.steps=3",
    "loop.max_staleness=0",
    "loop.groups=4",
    "loop.validate_every=1",
    "loop.checkpoint_every=1",
    "loop.keep_checkpoints=3",
    "data.validation_rows=6",
    "sampling.group_size=4",
    "sampling.max_tokens=48",
    "tracking.pages_every=1",
    "rewards.custom.vowels=story_reward:vowels",  # so that there is a spread to learn from
)
# A node's own, which end by themselves, up to a minute after it.
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
DAMAGED = ("40", "1000")  # videos and rows, beside 8 good videos
HERE = Path(__file__)
PATHS = [str(HERE.parent), str(HERE.parents[3]), os.environ.get("PYTHONPATH", "")]
PATH = {"PYTHONPATH": os.pathsep.join(PATHS)}


def o3rl(*arguments: str, module: str = "cluster.commands.cli") -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", module, *arguments]
    environment = {**os.environ, **PATH}
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)


def marked(mark: str) -> list[str]:
    """Titles of the living processes that inherited the mark, but for Ray's own agent."""
    titles = [title_of(pid) for pid in carrying("O3RL_TEST_MARK", mark)]
    return [title for title in titles if not title.startswith(AGENTS)]


def heed_interrupts() -> None:
    """A shell's background jobs ignore SIGINT, and what they start inherits that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("story") / "demo"
    before = staged()
    asked = (*DAMAGED, "--folder", str(folder), "--seed", "3", "--videos", "8", *SMALL)
    done = o3rl(*asked, module="tests.data.damaged_demo")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    assert staged() <= before
    assert [name for name in foreign(folder) if "damaged-" not in name] == []
    return folder


def staged() -> set[Path]:
    """Weights that lie in this node's memory, and that nobody holds."""
    return {path.parent for path in Path("/dev/shm").glob("o3rl-weights-*/lock") if free(path)}


def free(path: Path) -> bool:
    with path.open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


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
    assert report["steps"] == {"sft": 4, "rl": 3}
    assert report["samples"] == {"sft": 16, "rl": 3 * 4 * 4}
    assert report["seed"] == 3
    assert set(report["seconds"]) >= {"synth", "import", "sft", "rl", "evaluate", "total"}


def entries(folder: Path) -> list[dict]:
    """The ledger of a run's RL, in order of group number."""
    return pq.read_table(folder / "rl" / "ledger.parquet").to_pylist()


def test_every_prompt_is_in_the_ledger(demo):
    ledger = entries(demo)
    trained = [entry for entry in ledger if entry["outcome"] == "trained"]
    assert [entry["version"] for entry in trained] == [1] * 4 + [2] * 4 + [3] * 4
    assert {entry["incarnation"] for entry in trained} == {0}
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
    skipped = [entry for entry in entries(demo) if entry["outcome"] == "skipped"]
    assert skipped
    for entry in skipped:
        assert entry["row"].startswith("damaged")
        assert entry["reason"] in ("media: no readable video", "media: frames cannot be decoded")
    assert logged(demo / "rl")[3]["prompts/skipped"] == len(skipped)
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
    assert sorted(steps) == [1, 2, 3]
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


def mlflow_runs(folder: Path):
    """MLflow's client, and its runs by stage."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    [experiment] = [e for e in client.search_experiments() if e.name == "demo"]
    found = client.search_runs([experiment.experiment_id])
    runs = {run.data.tags["stage"]: run for run in found}
    assert len(runs) == len(found)
    return client, runs


def test_mlflow_holds_both_stages(demo):
    client, runs = mlflow_runs(demo)
    assert set(runs) == {"sft", "rl", "evaluation"}
    assert "rl/greedy/total" in runs["evaluation"].data.metrics
    assert all(run.info.status == "FINISHED" for run in runs.values())
    rl = runs["rl"]
    assert rl.data.params["learning.objective"] == "gspo"
    assert rl.data.params["data.train_digest"] == fingerprint(demo / "rows" / "rl")
    assert rl.data.params["data.validation_digest"] == fingerprint(demo / "rows" / "held-out")
    assert len(client.get_metric_history(rl.info.run_id, "reward/total")) == 3
    for name in ("tokens/second", "evidence/sigma", "evidence/recall", "gradient/norm"):
        assert name in rl.data.metrics
    listed = {file.path for file in client.list_artifacts(rl.info.run_id)}
    assert listed >= {"config.yaml", "ledger.parquet", "rollouts.json", "checkpoints.json", "pages"}
    table = json.loads((demo / "rl" / "tables" / "checkpoints.jsonl").read_text().splitlines()[0])
    assert (table["step"], Path(table["path"]).name) == (1, "step-000001")
    assert "sft/loss" in runs["sft"].data.metrics


def test_pictures_and_pages_are_there(demo):
    for path in (
        "index.html",
        "evaluation/rl.html",
        "evaluation/side-by-side.html",
        "rl/pages/step-00001.html",
    ):
        assert "<html" in (demo / path).read_text()
    assert (demo / "curves.png").read_bytes().startswith(b"\x89PNG")


@contextmanager
def training(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`o3rl train` with these arguments, once a new step-… of `folder` has its checkpoint."""
    # Every process that it starts inherits the mark.
    mark = f"{folder.name}-{os.getpid()}-{time.monotonic_ns()}"
    known = saved(folder)
    with subprocess.Popen(
        [sys.executable, "-m", "cluster.commands.cli", "train", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **PATH, "O3RL_TEST_MARK": mark},
        preexec_fn=heed_interrupts,
    ) as run:
        assert marked(mark), "the mark must be seen while the run lives"
        deadline = time.monotonic() + 300
        while saved(folder) == known:
            assert run.poll() is None, run.stdout.read() if run.stdout else ""
            assert time.monotonic() < deadline, f"no checkpoint after {known} within 300 s"
            time.sleep(0.2)
        yield run
    deadline = time.monotonic() + 60
    while marked(mark) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert marked(mark) == []


def saved(folder: Path) -> list[str]:
    """The checkpoints of a run's RL."""
    whole = (folder / "rl" / "checkpoints").glob("step-??????")
    return sorted(path.name for path in whole)


def weights(folder: Path, step: int) -> bytes:
    return (
        folder / "rl" / "checkpoints" / f"step-{step:06d}" / "model" / "model.safetensors"
    ).read_bytes()


def lineage(folder: Path) -> list[dict]:
    """What became of each prompt, whichever start of the run it was."""
    return [
        {name: value for name, value in entry.items() if name != "incarnation"}
        for entry in entries(folder)
    ]


def sampled_by(folder: Path) -> dict[int, set[str]]:
    """By step, the versions in the table of rollouts."""
    rows = (folder / "rl" / "tables" / "rollouts.jsonl").read_text().splitlines()
    found: dict[int, set[str]] = {}
    for row in map(json.loads, rows):
        found.setdefault(row["step"], set()).add(row["version"])
    return found


def each_step_once(folder: Path, *, journal: list[int], mlflow: list[int]) -> None:
    lines = (folder / "rl" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == journal
    client, runs = mlflow_runs(folder)
    history = client.get_metric_history(runs["rl"].info.run_id, "reward/total")
    assert sorted(point.step for point in history) == mlflow


@pytest.fixture(scope="module")
def killed(demo, tmp_path_factory) -> Path:
    """A second run of the same seed, killed in its second step; nothing of it lives on."""
    folder = tmp_path_factory.mktemp("killed")
    with training(folder, str(demo / "rl" / "config.yaml"), f"folder={folder}") as run:
        os.kill(run.pid, signal.SIGKILL)
    assert weights(folder, 1) == weights(demo, 1)  # the same seed gives the same weights
    return folder


def test_a_killed_run_goes_on_as_if_it_had_never_stopped(demo, killed):
    config = str(killed / "rl" / "config.yaml")
    again = o3rl("train", config, "--resume")
    assert again.returncode == 0, again.stderr[-6000:]
    final = Path("rl", "model", "model.safetensors")
    assert (killed / final).read_bytes() == (demo / final).read_bytes()
    assert lineage(killed) == lineage(demo)
    assert {(e["version"], e["incarnation"]) for e in entries(killed) if e["version"] > 0} == {
        (1, 0),
        (2, 1),
        (3, 1),
    }
    assert sampled_by(killed) == {1: {"0.0"}, 2: {"1.1"}, 3: {"1.2"}}
    each_step_once(killed, journal=[1, 2, 3], mlflow=[1, 2, 3])


def test_a_second_start_from_the_same_checkpoint_is_like_the_first(demo, killed):
    """From step 1 again, interrupted in its third step, when it leaves no process behind."""
    for step in (2, 3):
        shutil.rmtree(killed / "rl" / "checkpoints" / f"step-{step:06d}")
    with training(killed, str(killed / "rl" / "config.yaml"), "--resume") as run:
        os.kill(run.pid, signal.SIGINT)
        said, _ = run.communicate(timeout=120)
    assert run.returncode == 130, said
    assert weights(killed, 2) == weights(demo, 2)
    assert sampled_by(killed) == {1: {"0.0"}, 2: {"2.1"}}  # no version names two sets of weights
    trained = [each for each in lineage(killed) if each["outcome"] == "trained"]
    assert trained == [each for each in lineage(demo) if each["version"] in (1, 2)]
    each_step_once(killed, journal=[1, 2], mlflow=[1, 2, 3])


def test_answer_shows_evidence(demo, tmp_path):
    video = demo / "data" / "media" / "videos" / "held-out-video-00000.mp4"
    page, clip = tmp_path / "page.html", tmp_path / "answer.mp4"
    model = str(demo / "rl" / "model")
    done = o3rl("answer", str(video), "What shape is the red object?", "--model", model,
                "--page", str(page), "--video", str(clip))  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert "answer:" in done.stdout
    assert "What shape is the red object?" in page.read_text()
    assert base64.b64encode(clip.read_bytes()).decode() in page.read_text()
