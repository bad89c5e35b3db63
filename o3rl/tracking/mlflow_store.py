"""MLflow, where a run's metrics, parameters and files go. The one file that imports it."""

import json
import logging
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from o3rl.tracking.metrics_log import MetricsRecord
from o3rl.tracking.uploader import Refused

# MLflow's limits, mlflow/utils/validation.py
METRICS_PER_BATCH = 1000


PARAMS_PER_BATCH = 100


NAME_LENGTH = 250


VALUE_LENGTH = 6000


TAG_LENGTH = 8000


# Errors by which a store says "never", rather than "not now".
FINAL = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS", "PERMISSION_DENIED"}


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

    def metrics(self, lines: Sequence[MetricsRecord]) -> None:
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


def artifact_location(uri: str) -> str | None:
    """Where artifacts lie: beside the database with SQLite; else the server decides."""
    if not uri.startswith("sqlite:///"):
        return None
    return (Path(unquote(uri.removeprefix("sqlite:///"))).parent / "artifacts").as_uri()


def sqlite_uri(database: Path) -> str:
    """The address of an SQLite file, in which `%` and `?` mean something else.

    >>> sqlite_uri(Path("/runs/what?/mlflow.db"))
    'sqlite:////runs/what%3F/mlflow.db'
    """
    return f"sqlite:///{str(database.absolute()).replace('%', '%25').replace('?', '%3F')}"


def how_to_open(uri: str) -> str:
    """The command or address that opens what is tracked at `uri`, to be printed for the user."""
    if uri.startswith("sqlite:"):
        return f"mlflow ui --backend-store-uri {shlex.quote(uri)}"
    return uri


def name_for_mlflow(name: str) -> str:
    """A name by MLflow's rules: letters of any script, digits and `_ - . space : /` only.

    >>> name_for_mlflow("recall@0.5")
    'recall_at_0.5'
    """
    fitting = re.sub(r"[^/\w.\- :]", "_", name.replace("@", "_at_").replace("%", "percent"))
    parts = [part for part in fitting.split("/") if part not in ("", ".", "..")]
    return "/".join(parts)[:NAME_LENGTH] or "_"


def cut(value: str) -> str:
    """A value that MLflow takes: a longer one ends in how much was cut."""
    if len(value) <= VALUE_LENGTH:
        return value
    note = f" … {len(value)} characters in all"
    return value[: VALUE_LENGTH - len(note)] + note


def _quieten() -> None:
    """No calls home, few words, and quick answers: the uploader does the asking again."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    for name in ("alembic", "mlflow.store.db.utils", "mlflow.system_metrics"):
        logging.getLogger(name).setLevel(logging.WARNING)
