"""What a run shows while it goes: metrics, parameters, files, tables. The one file with MLflow.

Everything is written to the run's folder first (metrics.jsonl, params.json, tables/NAME.jsonl); a
background thread brings it to MLflow, SQLite in the run's folder by default. So a server that is
down or slow never stops or slows a run, and MLflow is imported by that thread, not by this module.
"""

import json
import logging
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from o3rl.courier import Artifact, Courier, Params, Refused, Store, Table
from o3rl.files import write_text
from o3rl.journal import Journal, Line, append_lines, drop_torn_line

MARK = "tracking.json"
METRICS = "metrics.jsonl"

# MLflow's limits, mlflow/utils/validation.py
METRICS_PER_BATCH = 1000
PARAMS_PER_BATCH = 100
NAME_LENGTH = 250
VALUE_LENGTH = 6000
TAG_LENGTH = 8000

# Errors by which a store says "never", rather than "not now".
FINAL = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS", "PERMISSION_DENIED"}


class Tracker(Protocol):
    """Takes what a run shows. No call waits for a server, and none fails because of one."""

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """The metrics of a step, by flat slash names; raises ValueError for what is no number."""
        ...

    def params(self, params: Mapping[str, Any]) -> None:
        """Parameters, nested mappings allowed; later calls add to earlier ones."""
        ...

    def artifact(self, path: Path, folder: str) -> None:
        """A file or folder that shall be shown under `folder`; it must stay where it is."""
        ...

    def table(self, rows: Sequence[Mapping[str, Any]], name: str) -> None:
        """Rows to add to the table `name`."""
        ...

    def close(self, status: str = "FINISHED") -> None:
        """End: FINISHED, FAILED or KILLED. Nothing may be logged afterwards."""
        ...


class MlflowTracker:
    """Writes into `folder` and has a thread bring it to MLflow at `uri`.

    An empty `uri` means SQLite at `folder`/mlflow.db. The run's id is kept in
    `folder`/tracking.json, so that opening the same folder again continues the same MLflow run;
    a folder that has none begins with `run_id`, if one is given.
    `after` is the step of the checkpoint that the run goes on from, None for a new one: metrics and
    table rows of later steps are dropped from `folder`, and MLflow is not sent those steps again.
    Raises ValueError for a uri without a scheme.
    """

    def __init__(
        self,
        folder: Path,
        *,
        uri: str = "",
        experiment: str = "o3rl",
        name: str = "",
        tags: Mapping[str, str] | None = None,
        run_id: str = "",
        after: int | None = None,
        system_metrics: bool = True,
        close_seconds: float = 60.0,
        clock: Callable[[], float] = time.time,
        store: Store | None = None,
    ):
        self.folder = folder
        self.uri = absolute_uri(uri, folder)
        self._clock = clock
        self._close_seconds = close_seconds
        self._journal = Journal(folder / METRICS)
        self._params = _read_json(folder / "params.json")
        if after is not None:
            _rewind_tables(folder / "tables", after)
        self._courier = Courier(
            store
            or MlflowStore(
                self.uri,
                experiment=experiment,
                name=name or folder.name,
                tags=tags or {},
                system_metrics=system_metrics,
            ),
            self._journal,
            name=f"MLflow at {self.uri}",
            mark=folder / MARK,
            run_id=run_id,
            after=after,
        )

    @property
    def run_id(self) -> str:
        """MLflow's id of the run; empty until MLflow has answered."""
        return self._courier.run_id

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Append the step to metrics.jsonl."""
        self._journal.append(Line(step, self._clock(), dict(metrics)))
        self._courier.nudge()

    def params(self, params: Mapping[str, Any]) -> None:
        """Add to params.json."""
        self._params |= flat(params)
        write_text(self.folder / "params.json", json.dumps(self._params, indent=1))
        self._courier.send(Params(dict(self._params)))

    def artifact(self, path: Path, folder: str) -> None:
        """Queue a file or a folder; with SQLite it is copied into `folder`/artifacts."""
        self._courier.send(Artifact(path, folder))

    def table(self, rows: Sequence[Mapping[str, Any]], name: str) -> None:
        """Append to tables/NAME.jsonl."""
        path = self.folder / "tables" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        append_lines(path, (json.dumps(row, default=str) for row in rows))
        self._courier.send(Table(path, name))

    def close(self, status: str = "FINISHED") -> None:
        """Deliver the rest, end the MLflow run, log what is missing; see `Courier.close`."""
        self._courier.close(status, seconds=self._close_seconds)
        self._journal.close()


class MlflowStore:
    """MLflow behind the Store protocol; each call may take seconds and may raise what MLflow does.

    NaN is stored as such, infinities as the largest double; names are made to fit MLflow's rules.
    """

    def __init__(
        self,
        uri: str,
        *,
        experiment: str,
        name: str,
        tags: Mapping[str, str],
        system_metrics: bool,
    ):
        self._uri = uri
        self._experiment = experiment
        self._name = name
        self._tags = tags
        self._wants_system_metrics = system_metrics
        self._run_id = ""
        self._client: Any = None
        self._monitor: Any = None

    def open(self, run_id: str) -> str:
        """Connect, making the database if need be (some seconds, over a hundred migrations)."""
        _quieten()
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(tracking_uri=self._uri)
        if run_id:
            try:
                self._client.update_run(run_id, status="RUNNING")
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                run_id = ""
        if not run_id:
            tags = {name_for_mlflow(key): str(value) for key, value in self._tags.items()}
            run = self._client.create_run(self._experiment_id(), run_name=self._name, tags=tags)
            run_id = run.info.run_id
        self._run_id = run_id
        self._start_monitor()
        return run_id

    def last_step(self) -> int:
        """By the latest value of each metric; those of the machine are counted apart."""
        metrics = self._client.get_run(self._run_id).data.to_proto().metrics
        steps = [metric.step for metric in metrics if not metric.key.startswith("system/")]
        return max(steps, default=-1)

    def metrics(self, lines: Sequence[Line]) -> None:
        """Send lines in batches of a size that MLflow takes."""
        from mlflow.entities import Metric

        batch: list[Metric] = []
        for line in lines:
            metrics = [
                Metric(name_for_mlflow(name), value, int(1000 * line.time), line.step)
                for name, value in line.metrics.items()
            ]
            if len(batch) + len(metrics) > METRICS_PER_BATCH:  # a step arrives whole, or not at all
                self._send(batch)
                batch = []
            batch += metrics
        self._send(batch)

    def _send(self, metrics: Sequence[Any]) -> None:
        for start in range(0, len(metrics), METRICS_PER_BATCH):
            batch = metrics[start : start + METRICS_PER_BATCH]
            self._call(self._client.log_batch, self._run_id, metrics=batch)

    def params(self, params: Mapping[str, str]) -> None:
        """Send those that MLflow does not have; it lets none change: changed ones are refused."""
        from mlflow.entities import Param

        there = self._client.get_run(self._run_id).data.params
        fitting = {name_for_mlflow(key): cut(value) for key, value in params.items()}
        new = [Param(key, value) for key, value in fitting.items() if key not in there]
        for start in range(0, len(new), PARAMS_PER_BATCH):
            batch = new[start : start + PARAMS_PER_BATCH]
            self._call(self._client.log_batch, self._run_id, params=batch)
        changed = [key for key, value in fitting.items() if there.get(key, value) != value]
        if changed:
            raise Refused(f"MLflow keeps the first value of {', '.join(changed)}; see params.json")

    def artifact(self, path: Path, folder: str) -> None:
        """Copy or upload a file or a folder."""
        if path.is_dir():
            self._call(self._client.log_artifacts, self._run_id, str(path), folder)
        else:
            self._call(self._client.log_artifact, self._run_id, str(path), folder)

    def table(self, path: Path, name: str) -> None:
        """Store the whole table as MLflow's own kind, so that its viewer opens it."""
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        columns = list(dict.fromkeys(column for row in rows for column in row))
        data = [[row.get(column) for column in columns] for row in rows]
        file = f"{name}.json"
        self._call(self._client.log_dict, self._run_id, {"columns": columns, "data": data}, file)
        tags = self._client.get_run(self._run_id).data.tags
        shown = json.loads(tags.get("mlflow.loggedArtifacts", "[]"))
        entry = {"path": file, "type": "table"}
        if entry not in shown:
            value = json.dumps([*shown, entry])
            self._call(self._client.set_tag, self._run_id, "mlflow.loggedArtifacts", value)

    def close(self, status: str) -> None:
        """End the run."""
        if self._monitor is not None:
            self._monitor.finish()
        self._client.set_terminated(self._run_id, status)

    def _experiment_id(self) -> str:
        there = self._client.get_experiment_by_name(self._experiment)
        if there is not None:
            return there.experiment_id
        return self._client.create_experiment(
            self._experiment, artifact_location=artifact_location(self._uri)
        )

    def _start_monitor(self) -> None:
        if not self._wants_system_metrics or self._monitor is not None:
            return
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self._monitor = SystemMetricsMonitor(
            self._run_id, tracking_uri=self._uri, resume_logging=True
        )
        self._monitor.start()

    def _call(self, function: Callable[..., Any], *args: Any, **keywords: Any) -> None:
        from mlflow.exceptions import MlflowException

        try:
            function(*args, **keywords)
        except MlflowException as error:
            if error.error_code in FINAL:
                raise Refused(str(error)) from error
            raise


def absolute_uri(uri: str, folder: Path) -> str:
    """The tracking uri, SQLite in `folder` if empty; relative SQLite paths are made absolute.

    >>> absolute_uri("", Path("/runs/a"))
    'sqlite:////runs/a/mlflow.db'
    """
    if not uri:
        return f"sqlite:///{folder.resolve() / 'mlflow.db'}"
    if "://" not in uri:
        raise ValueError(
            f"tracking.uri is {uri!r}; it must be empty (SQLite in the run's folder), "
            "sqlite:///PATH, or a server's http://HOST:PORT"
        )
    scheme, path = uri.split("://", 1)
    return f"sqlite:///{Path(path[1:]).resolve()}" if scheme == "sqlite" else uri


def artifact_location(uri: str) -> str | None:
    """Where artifacts lie: beside the database with SQLite; else the server decides."""
    if not uri.startswith("sqlite:///"):
        return None
    return (Path(uri.removeprefix("sqlite:///")).parent / "artifacts").as_uri()


def how_to_open(uri: str) -> str:
    """The command or address that opens what is tracked at `uri`, to be printed for the user."""
    if uri.startswith("sqlite:"):
        return f"mlflow ui --backend-store-uri {uri}"
    return uri


def name_for_mlflow(name: str) -> str:
    """A name by MLflow's rules: letters of any script, digits and `_ - . space : /` only.

    >>> name_for_mlflow("recall@0.5")
    'recall_at_0.5'
    """
    fitting = re.sub(r"[^/\w.\- :]", "_", name.replace("@", "_at_").replace("%", "percent"))
    parts = [part for part in fitting.split("/") if part not in ("", ".", "..")]
    return "/".join(parts)[:NAME_LENGTH] or "_"


def flat(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested mappings as dotted names with text values.

    >>> flat({"learning": {"rate": 1e-6}})
    {'learning.rate': '1e-06'}
    """
    out: dict[str, str] = {}
    for key, value in params.items():
        if isinstance(value, Mapping) and value:
            out |= flat(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = str(value)
    return out


def cut(value: str) -> str:
    """A value that MLflow takes: a longer one ends in how much was cut."""
    if len(value) <= VALUE_LENGTH:
        return value
    note = f" … {len(value)} characters in all"
    return value[: VALUE_LENGTH - len(note)] + note


def _quieten() -> None:
    """No calls home, few words, and quick answers: the courier does the asking again."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    for name in ("alembic", "mlflow.store.db.utils", "mlflow.system_metrics"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _rewind_tables(folder: Path, step: int) -> None:
    """Drop the rows of later steps; rows without a step stay."""
    for path in folder.glob("*.jsonl"):
        drop_torn_line(path)
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if json.loads(line).get("step", step) <= step]
        write_text(path, "".join(kept))


def _read_json(path: Path) -> dict[str, str]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
