"""What a run shows while it goes: metrics, parameters, files, tables. The one file with MLflow.

Everything is written to the run's folder first (metrics.jsonl, params.json, tables/NAME.jsonl); a
background thread brings it to MLflow, SQLite in the run's folder by default. So a server that is
down or slow never stops or slows a run, and MLflow is imported by that thread, not by this module.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from o3rl.files import write_text
from o3rl.tracking.metrics_log import MetricsLog, MetricsRecord, append_lines, drop_torn_line
from o3rl.tracking.mlflow_store import MlflowStore, sqlite_uri
from o3rl.tracking.uploader import Artifact, Params, RunStore, Table, Uploader

MARK = "tracking.json"
METRICS = "metrics.jsonl"


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
        store: RunStore | None = None,
    ):
        self.folder = folder
        self.uri = absolute_uri(uri, folder)
        self._clock = clock
        self._close_seconds = close_seconds
        self._log = MetricsLog(folder / METRICS)
        self._params = _read_json(folder / "params.json")
        if after is not None:
            _rewind_tables(folder / "tables", after)
        self._uploader = Uploader(
            store
            or MlflowStore(
                self.uri,
                experiment=experiment,
                name=name or folder.name,
                tags=tags or {},
                system_metrics=system_metrics,
            ),
            self._log,
            name=f"MLflow at {self.uri}",
            mark=folder / MARK,
            run_id=run_id,
            after=after,
        )

    @property
    def run_id(self) -> str:
        """MLflow's id of the run; empty until MLflow has answered."""
        return self._uploader.run_id

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Append the step to metrics.jsonl."""
        self._log.append(MetricsRecord(step, self._clock(), dict(metrics)))
        self._uploader.notify()

    def params(self, params: Mapping[str, Any]) -> None:
        """Add to params.json."""
        self._params |= flat(params)
        write_text(self.folder / "params.json", json.dumps(self._params, indent=1))
        self._uploader.send(Params(dict(self._params)))

    def artifact(self, path: Path, folder: str) -> None:
        """Queue a file or a folder; with SQLite it is copied into `folder`/artifacts."""
        self._uploader.send(Artifact(path, folder))

    def table(self, rows: Sequence[Mapping[str, Any]], name: str) -> None:
        """Append to tables/NAME.jsonl."""
        path = self.folder / "tables" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        append_lines(path, (json.dumps(row, default=str) for row in rows))
        self._uploader.send(Table(path, name))

    def close(self, status: str = "FINISHED") -> None:
        """Deliver the rest, end the MLflow run, log what is missing; see `Uploader.close`."""
        self._uploader.close(status, seconds=self._close_seconds)
        self._log.close()


def absolute_uri(uri: str, folder: Path) -> str:
    """The tracking uri, SQLite in `folder` if empty; relative SQLite paths are made absolute.

    >>> absolute_uri("", Path("/runs/a"))
    'sqlite:////runs/a/mlflow.db'
    """
    if not uri:
        return sqlite_uri(folder.resolve() / "mlflow.db")
    if "://" not in uri:
        raise ValueError(
            f"tracking.uri is {uri!r}; it must be empty (SQLite in the run's folder), "
            "sqlite:///PATH, or a server's http://HOST:PORT"
        )
    scheme, path = uri.split("://", 1)
    return f"sqlite:///{Path(path[1:]).resolve()}" if scheme == "sqlite" else uri


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


def _rewind_tables(folder: Path, step: int) -> None:
    """Drop the rows of later steps; rows without a step stay."""
    for path in folder.glob("*.jsonl"):
        drop_torn_line(path)
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if json.loads(line).get("step", step) <= step]
        write_text(path, "".join(kept))


def _read_json(path: Path) -> dict[str, str]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
