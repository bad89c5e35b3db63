import json

from cluster.run.stage_tracker import tracked
from o3rl.config import RunConfig, TrackingConfig
from o3rl.data.parquet import fingerprint, write_rows
from o3rl.types import Row, Task, Truth


def test_the_digest_of_each_data_set_is_a_parameter(tmp_path):
    rows = tmp_path / "rows"
    write_rows([Row("r", Task.FREE_FORM, "", "What?", "a.mp4", Truth("a"))], rows)
    run = RunConfig(folder=str(tmp_path / "run"), tracking=TrackingConfig(experiment="digests"))
    with tracked(run, tmp_path / "run" / "sft", stage="sft", data={"sft.rows": str(rows)}):
        params = json.loads((tmp_path / "run" / "sft" / "params.json").read_text())
    assert params["sft.rows_digest"] == fingerprint(rows)
    assert params["sft.rows"] == run.sft.rows

    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'run' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("digests")
    assert experiment is not None
    found = client.search_runs(
        [experiment.experiment_id], f"params.`sft.rows_digest` = '{fingerprint(rows)}'"
    )
    assert [each.info.run_name for each in found] == ["o3rl-sft"]
