"""A stage's tracker: made from the configuration, closed with how the stage ended."""

import asyncio
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from o3rl.config import RunConfig, as_yaml
from o3rl.data.parquet import fingerprint
from o3rl.files import write_text
from o3rl.tracking.mlflow_store import MlflowStore, sqlite_uri
from o3rl.tracking.tracker import MlflowTracker

log = logging.getLogger(__name__)


@contextmanager
def tracked(
    run: RunConfig, folder: Path, *, stage: str, data: Mapping[str, str], after: int | None = None
) -> Iterator[MlflowTracker]:
    """The tracker of one stage, whose own files lie in `folder`; config.yaml is written there.

    All stages of a run share one MLflow database, by default `mlflow.db` in the run's folder. The
    digests of the data sets in `data` (folders by their keys in the configuration) are parameters:
    `data.train` gives `data.train_digest`. `after` is the step that the stage goes on from, None to
    begin anew; what it logged later is dropped.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "config.yaml", as_yaml(run))
    tracker = MlflowTracker(
        folder,
        uri=run.tracking.uri or sqlite_uri(Path(run.folder) / "mlflow.db"),
        experiment=run.tracking.experiment,
        name=_name(run, stage),
        tags=_tags(stage),
        run_id=run.tracking.run_id if stage == "rl" else "",
        after=after,
    )
    status = "FAILED"
    try:
        digests = {f"{key}_digest": fingerprint(rows) for key, rows in data.items()}
        tracker.params(asdict(run) | digests)
        tracker.artifact(folder / "config.yaml", "")
        yield tracker
        status = "FINISHED"
    except (KeyboardInterrupt, asyncio.CancelledError):
        status = "KILLED"
        raise
    finally:
        tracker.close(status)


def begin(run: RunConfig, *, stage: str) -> str:
    """Make the MLflow run of a stage ahead of it, on a server; its id, or empty if none answers."""
    tracking = run.tracking
    store = MlflowStore(
        tracking.uri,
        experiment=tracking.experiment,
        name=_name(run, stage),
        tags=_tags(stage),
        system_metrics=False,
    )
    try:
        return store.open("")
    except Exception as error:  # MLflow's and those of the libraries below it
        said = " ".join(str(error).split())
        log.warning("no answer here from MLflow at %s, the job asks: %.200s", tracking.uri, said)
        return ""


def _name(run: RunConfig, stage: str) -> str:
    return f"{run.name}-{stage}"


def _tags(stage: str) -> dict[str, str]:
    return {"stage": stage}
