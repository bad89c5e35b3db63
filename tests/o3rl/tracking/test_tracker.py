"""The tracker: the folder is the truth, the store may be away, MLflow gets all of it in the end."""

import json
import logging
import math
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from sqlalchemy import make_url

from o3rl.tracking.metrics_log import MetricsLog, MetricsRecord, read_series
from o3rl.tracking.mlflow_store import artifact_location, cut, name_for_mlflow, sqlite_uri
from o3rl.tracking.tracker import MlflowTracker, absolute_uri, flat
from o3rl.tracking.uploader import Refused, Table, Uploader


class FakeStore:
    """Keeps what it gets; `away` makes every call fail, `refuses` names what it never takes."""

    def __init__(self, *, away: bool = False, refuses: str = ""):
        self.away = away
        self.refuses = refuses
        self.lines: list[MetricsRecord] = []
        self.items: list[str] = []
        self.opened: list[str] = []
        self.status = ""
        self.gate = threading.Event()
        self.gate.set()

    def answer(self, what: str = "") -> None:
        assert self.gate.wait(10)
        if self.away:
            raise ConnectionError("nobody listens")
        if self.refuses and self.refuses in what:
            raise Refused(what)

    def open(self, run_id: str) -> str:
        self.answer()
        self.opened.append(run_id)
        return run_id or "run1"

    def last_step(self) -> int:
        self.answer()
        return max((line.step for line in self.lines), default=-1)

    def metrics(self, lines: Sequence[MetricsRecord]) -> None:
        self.answer("metrics")
        self.lines.extend(lines)

    def params(self, params: Mapping[str, str]) -> None:
        self.answer("params")
        self.items.append(f"params {dict(params)}")

    def artifact(self, path: Path, folder: str) -> None:
        self.answer(str(path))
        self.items.append(f"artifact {folder}/{path.name}")

    def table(self, path: Path, name: str) -> None:
        self.answer(name)
        self.items.append(f"table {name} {len(path.read_text().splitlines())}")

    def close(self, status: str) -> None:
        self.answer()
        self.status = status


def steps(store: FakeStore) -> list[int]:
    return [line.step for line in store.lines]


def wait_for(condition, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def test_journal_keeps_numbers_of_all_kinds_and_the_last_line_of_a_step(tmp_path):
    journal = MetricsLog(tmp_path / "metrics.jsonl")
    journal.append(MetricsRecord(1, 0.0, {"a": 1.0, "b/c@1": math.nan}))
    journal.append(MetricsRecord(2, 1.0, {"a": math.inf}))
    journal.append(MetricsRecord(1, 2.0, {"a": 5.0}))
    series = read_series(journal.path)
    assert series["a"] == [(1, 5.0), (2, math.inf)]
    assert math.isnan(series["b/c@1"][0][1])
    for raw in journal.path.read_text().splitlines():
        json.loads(raw, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_journal_refuses_what_is_no_number_by_name(tmp_path):
    with pytest.raises(ValueError, match="reward/total is 'high'"):
        MetricsLog(tmp_path / "m.jsonl").append(MetricsRecord(1, 0.0, {"reward/total": "high"}))  # pyright: ignore


def test_journal_drops_a_line_cut_short_and_skips_a_broken_one(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    MetricsLog(path).append(MetricsRecord(1, 0.0, {"a": 1.0}))
    path.write_bytes(path.read_bytes() + b'{"no": 1}\n{"step": 2, "ti')
    journal = MetricsLog(path)
    journal.append(MetricsRecord(3, 0.0, {"a": 3.0}))
    assert read_series(path)["a"] == [(1, 1.0), (3, 3.0)]
    assert "unfinished line" in caplog.text
    assert "broken line" in caplog.text


FULL = """
import resource, signal, sys
from pathlib import Path
from o3rl.tracking.metrics_log import append_lines
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path(sys.argv[1])
append_lines(path, ["first line"])
resource.setrlimit(resource.RLIMIT_FSIZE, (30, resource.RLIM_INFINITY))
try:
    append_lines(path, ["second line", "third line"])
except OSError:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    append_lines(path, ["fourth line"])
"""


def test_a_line_that_the_disk_cuts_short_spoils_none_that_follow(tmp_path):
    path = tmp_path / "plans.jsonl"
    subprocess.run([sys.executable, "-c", FULL, str(path)], check=True, timeout=60)
    assert path.read_text() == "first line\nsecond line\nfourth line\n"


WAITING = """
import resource, signal, sys
from pathlib import Path
from o3rl.tracking.metrics_log import MetricsLog, MetricsRecord
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
journal = MetricsLog(Path(sys.argv[1]))
for step in range(1, 5):
    if step in (2, 4):  # full within the second line; room again for the fourth
        limit = 80 if step == 2 else resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    journal.append(MetricsRecord(step, 0.0, {"a": float(step)}))
"""


def test_metrics_wait_for_a_disk_that_is_full(tmp_path):
    path = tmp_path / "metrics.jsonl"
    command = [sys.executable, "-c", WAITING, str(path)]
    said = subprocess.run(command, check=True, timeout=60, capture_output=True, text=True).stderr
    assert "bytes wait for the disk" in said
    assert read_series(path)["a"] == [(n, float(n)) for n in (1, 2, 3, 4)]


def test_everything_arrives_and_the_run_ends(tmp_path):
    store = FakeStore()
    tracker = MlflowTracker(tmp_path, store=store)
    tracker.params({"learning": {"rate": 1e-6}, "seed": 0})
    for step in range(450):  # more than two trips of the courier
        tracker.log({"reward/total": step}, step=step)
    tracker.table([{"step": 1, "text": "<think>"}], "rollouts")
    tracker.close()
    assert steps(store) == list(range(450))
    assert store.items == [
        "params {'learning.rate': '1e-06', 'seed': '0'}",
        "table rollouts 1",
    ]
    assert store.status == "FINISHED"
    assert tracker.run_id == "run1"


def test_a_store_that_is_slow_does_not_slow_the_run(tmp_path):
    store = FakeStore()
    store.gate.clear()
    tracker = MlflowTracker(tmp_path, store=store)
    before = time.monotonic()
    for step in range(500):
        tracker.log({"a": 1.0, "b": 2.0}, step=step)
    assert time.monotonic() - before < 1.0
    assert store.lines == []
    store.gate.set()
    tracker.close()
    assert steps(store) == list(range(500))


def test_a_store_that_is_away_is_told_once_and_gets_all_when_it_is_back(tmp_path, caplog):
    store = FakeStore(away=True)
    journal = MetricsLog(tmp_path / "metrics.jsonl")
    courier = Uploader(
        store, journal, name="the server", mark=tmp_path / "mark.json", pause=(0.01, 0.02)
    )
    journal.append(MetricsRecord(1, 0.0, {"a": 1.0}))
    courier.notify()
    wait_for(lambda: "is away" in caplog.text)
    time.sleep(0.1)
    assert caplog.text.count("is away") == 1
    assert "nobody listens" in caplog.text
    store.away = False
    wait_for(lambda: steps(store) == [1])
    courier.close("FINISHED", seconds=5)
    assert "is back" in caplog.text
    assert "did not get" not in caplog.text


def test_a_store_that_comes_back_while_the_run_waits_at_its_end_gets_all(tmp_path, caplog):
    store = FakeStore(away=True)
    tracker = MlflowTracker(tmp_path, store=store, close_seconds=20)
    tracker.log({"a": 1.0}, step=1)
    wait_for(lambda: "is away" in caplog.text)
    threading.Timer(0.5, lambda: setattr(store, "away", False)).start()
    tracker.close()
    assert (steps(store), store.status) == ([1], "FINISHED")
    assert "did not get" not in caplog.text


def test_what_never_arrived_is_counted_at_the_end_and_sent_by_the_next_attempt(tmp_path, caplog):
    away = MlflowTracker(tmp_path, store=FakeStore(away=True), close_seconds=2)
    for step in range(3):
        away.log({"a": 1.0}, step=step)
    away.params({"seed": 1})
    away.close("FAILED")
    assert "did not get 3 metric lines and 1 other items" in caplog.text

    store = FakeStore()
    again = MlflowTracker(tmp_path, store=store)
    again.log({"a": 1.0}, step=3)
    again.close()
    assert steps(store) == [0, 1, 2, 3]


def test_the_same_folder_continues_the_same_run_and_sends_nothing_twice(tmp_path):
    first = MlflowTracker(tmp_path, store=FakeStore())
    first.log({"a": 1.0}, step=1)
    first.close()
    store = FakeStore()
    second = MlflowTracker(tmp_path, store=store)
    second.log({"a": 2.0}, step=2)
    second.close()
    assert store.opened == ["run1"]
    assert steps(store) == [2]
    elsewhere = FakeStore()
    MlflowTracker(tmp_path, uri="http://elsewhere:5000", store=elsewhere).close()
    assert elsewhere.opened == [""]
    assert steps(elsewhere) == [1, 2]


def test_a_run_that_goes_on_from_a_checkpoint_has_each_step_once(tmp_path):
    """Steps 1 to 4 were logged, 4 not delivered; it goes on from step 2, and again from step 2."""
    first = MlflowTracker(tmp_path, store=FakeStore())
    for step in (1, 2, 3):
        first.log({"a": step}, step=step)
        first.table([{"step": step}, {"text": "of no step"}], "rollouts")
    first.close()
    MetricsLog(tmp_path / "metrics.jsonl").append(MetricsRecord(4, 0.0, {"a": 4}))
    for value in (10.0, 20.0):
        store = FakeStore()
        again = MlflowTracker(tmp_path, store=store, after=2)
        rows = (tmp_path / "tables" / "rollouts.jsonl").read_text().splitlines()
        assert [json.loads(row).get("step") for row in rows] == [1, None, 2, None, None]
        for step in (3, 4):
            again.log({"a": value}, step=step)
        again.close()
        assert read_series(tmp_path / "metrics.jsonl")["a"] == [
            (1, 1),
            (2, 2),
            (3, value),
            (4, value),
        ]
        assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 4
        assert store.opened == ["run1"]
        assert steps(store) == ([4] if value == 10.0 else [])  # the others it has
    elsewhere = FakeStore()
    MlflowTracker(tmp_path, uri="http://elsewhere:5000", store=elsewhere).close()
    assert [line.metrics["a"] for line in elsewhere.lines] == [1, 2, 20, 20]


def test_a_step_that_arrived_though_nobody_could_note_it_is_not_sent_again(tmp_path):
    """The run was killed between the store's answer and the mark, and goes on from step 1."""
    store = FakeStore()
    first = MlflowTracker(tmp_path, store=store)
    first.log({"a": 1}, step=1)
    first.close()
    noted = (tmp_path / "tracking.json").read_text()
    first = MlflowTracker(tmp_path, store=store)
    first.log({"a": 2}, step=2)
    first.close()
    (tmp_path / "tracking.json").write_text(noted)
    again = MlflowTracker(tmp_path, store=store, after=1)
    for step in (2, 3):
        again.log({"a": 10 * step}, step=step)
    again.close()
    assert [(line.step, line.metrics["a"]) for line in store.lines] == [(1, 1), (2, 2), (3, 30)]


def test_what_was_not_delivered_before_the_checkpoint_still_is(tmp_path):
    away = MlflowTracker(tmp_path, store=FakeStore(away=True), close_seconds=2)
    for step in (1, 2, 3):
        away.log({"a": step}, step=step)
    away.close("KILLED")
    store = FakeStore()
    again = MlflowTracker(tmp_path, store=store, after=2)
    again.log({"a": 30}, step=3)
    again.close()
    assert [(line.step, line.metrics["a"]) for line in store.lines] == [(1, 1), (2, 2), (3, 30)]


def test_a_refused_item_does_not_hold_up_the_others(tmp_path, caplog):
    store = FakeStore(refuses="bad")
    tracker = MlflowTracker(tmp_path, store=store)
    tracker.table([{"a": 1}], "bad")
    tracker.table([{"a": 1}, {"a": 2}], "good")
    tracker.artifact(tmp_path / "params.json", "config")
    tracker.log({"a": 1.0}, step=1)
    tracker.close()
    assert store.items == ["table good 2", "artifact config/params.json"]
    assert steps(store) == [1]
    assert "refused table bad: " in caplog.text
    assert "1 other items" in caplog.text


def test_a_failing_item_goes_to_the_end_of_the_queue(tmp_path):
    class Picky(FakeStore):
        def table(self, path: Path, name: str) -> None:
            if name == "heavy" and not self.items:
                raise OSError("no room now")
            super().table(path, name)

    store = Picky()
    journal = MetricsLog(tmp_path / "metrics.jsonl")
    path = tmp_path / "t.jsonl"
    path.write_text("{}\n")
    courier = Uploader(store, journal, name="s", mark=tmp_path / "m.json", pause=(0.01, 0.01))
    courier.send(Table(path, "heavy"))
    courier.send(Table(path, "light"))
    wait_for(lambda: len(store.items) == 2)
    courier.close("FINISHED", seconds=5)
    assert store.items == ["table light 1", "table heavy 1"]


def test_a_full_queue_drops_and_counts(tmp_path, caplog):
    store = FakeStore()
    store.gate.clear()
    journal = MetricsLog(tmp_path / "metrics.jsonl")
    path = tmp_path / "t.jsonl"
    path.write_text("{}\n")
    courier = Uploader(store, journal, name="s", mark=tmp_path / "m.json", capacity=2)
    for _ in range(5):
        courier.send(Table(path, "t"))
    store.gate.set()
    courier.close("FINISHED", seconds=5)
    assert len(store.items) == 2
    assert "3 other items" in caplog.text


@pytest.mark.parametrize(
    ("name", "fitting"),
    [
        ("reward/format", "reward/format"),
        ("recall@0.5", "recall_at_0.5"),
        ("σ/now", "σ/now"),
        ("/a//b/../c", "a/b/c"),
        ("share (%)", "share _percent_"),
        ("", "_"),
    ],
)
def test_names_fit_mlflow(name, fitting):
    assert name_for_mlflow(name) == fitting


def test_params_are_flat_and_long_values_say_that_they_are_cut():
    nested = {"a": {"b": {"c": 1}, "d": [1, 2]}, "e": {}}
    assert flat(nested) == {"a.b.c": "1", "a.d": "[1, 2]", "e": "{}"}
    assert len(cut("x" * 9000)) == 6000
    assert cut("x" * 9000).endswith("… 9000 characters in all")
    assert cut("x" * 6000) == "x" * 6000


def test_uris():
    assert absolute_uri("", Path("/runs/a")) == "sqlite:////runs/a/mlflow.db"
    assert absolute_uri("sqlite:///b.db", Path("/runs/a")) == f"sqlite:///{Path.cwd()}/b.db"
    assert absolute_uri("http://host:5000", Path("/x")) == "http://host:5000"
    assert artifact_location("sqlite:////runs/a/mlflow.db") == "file:///runs/a/artifacts"
    assert artifact_location("http://host:5000") is None


def test_an_sqlite_address_of_a_folder_named_anyhow():
    uri = sqlite_uri(Path("/runs/what? 5%41 #2/mlflow.db"))
    assert uri == "sqlite:////runs/what%3F 5%2541 #2/mlflow.db"
    assert make_url(uri).database == "/runs/what? 5%41 #2/mlflow.db"
    assert artifact_location(uri) == "file:///runs/what%3F%205%2541%20%232/artifacts"
    with pytest.raises(ValueError, match=r"tracking.uri is 'mlruns'"):
        absolute_uri("mlruns", Path("/x"))


def test_importing_does_not_import_mlflow():
    code = "import sys, o3rl.tracking.tracker; assert 'mlflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_mlflow_itself_with_sqlite(tmp_path, caplog):
    """Names with @, NaN, infinity, long and changed params, a table, a file, a folder, a resume."""
    caplog.set_level(logging.WARNING)
    folder = tmp_path / "run"
    first = MlflowTracker(folder, name="demo", tags={"stage": "rl"})
    first.params({"learning": {"rate": 1e-6}, "long": "x" * 9000})
    first.log({"reward/total": 0.5, "recall@0.5": math.nan, "kl": math.inf}, step=1)
    first.artifact(folder / "params.json", "config")
    first.artifact(folder / "tables", "raw")
    first.table([{"step": 1, "text": "<think>\nσ"}], "rollouts")
    first.close()
    assert "did not get" not in caplog.text
    second = MlflowTracker(folder, system_metrics=False)
    second.params({"learning": {"rate": 2e-6}, "new": 1})
    second.log({"reward/total": 0.75}, step=2)
    second.close()
    assert "keeps the first value of learning.rate" in caplog.text
    assert second.run_id == first.run_id
    mark = folder / "tracking.json"
    mark.write_text(json.dumps(json.loads(mark.read_text()) | {"delivered": 0, "step": -1}))
    third = MlflowTracker(folder, after=1)  # the mark was lost, MLflow knows
    third.log({"reward/total": 0.25}, step=2)
    third.close()

    with sqlite3.connect(folder / "mlflow.db") as database:
        values = database.execute("select key, step, value, is_nan from metrics").fetchall()
        params = dict(database.execute("select key, value from params").fetchall())
        runs = database.execute("select run_uuid, status, name from runs").fetchall()
    kept = {(key, step): (value, nan) for key, step, value, nan in values}
    assert len(values) == len(kept)
    assert kept["reward/total", 1] == (0.5, 0)
    assert kept["reward/total", 2] == (0.75, 0)
    assert kept["recall_at_0.5", 1][1] == 1
    assert kept["kl", 1][0] == sys.float_info.max
    assert params["learning.rate"] == "1e-06"
    assert params["new"] == "1"
    assert len(params["long"]) == 6000
    assert runs == [(first.run_id, "FINISHED", "demo")]
    kept_files = folder / "artifacts" / first.run_id / "artifacts"
    assert json.loads((kept_files / "rollouts.json").read_text()) == {
        "columns": ["step", "text"],
        "data": [[1, "<think>\nσ"]],
    }
    assert (kept_files / "config" / "params.json").is_file()
    assert (kept_files / "raw" / "rollouts.jsonl").is_file()


def test_a_server_that_is_down_does_not_stop_the_run(tmp_path, caplog):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{free.getsockname()[1]}"
    tracker = MlflowTracker(tmp_path, uri=uri, close_seconds=6)
    for step in range(5):
        tracker.log({"a": 1.0}, step=step)
    tracker.close()
    assert "HTTPConnectionPool" in caplog.text
    assert "did not get 5 metric lines" in caplog.text
    assert len(read_series(tmp_path / "metrics.jsonl")["a"]) == 5
