"""Struck at every turn, a run on real Ray, DeepSpeed and MLflow goes on, and its audit is clean."""

import pytest

from tests.faults.site import Site
from tests.faults.trials import KINDS, Chaos, prepared

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

STRUCK = (  # of all kinds; those that wait for long limits are left to `make faults`
    "kill scorer",
    "kill media",
    "kill mlflow",
    "fill disk",
    "freeze replica",
    "kill node",
    "kill store",
    "kill learner",
    "kill replica",
    "kill controller",
    "freeze scorer",
    "freeze mlflow",
)


def test_a_run_that_is_struck_goes_on_and_loses_nothing(tmp_path):
    assert set(STRUCK) <= set(KINDS)
    data = prepared(tmp_path, videos=40)
    assert len(data.marked) == 4
    with Site(tmp_path) as site:
        chaos = Chaos(site, data, seed=0)
        trials = list(chaos.trials(STRUCK, len(STRUCK)))
    assert sorted(trial.kind for trial in trials) == sorted(STRUCK)
    assert all(trial.seconds > 0 for trial in trials)
    assert chaos.calm  # the last steps of a run are left alone
    assert {trial.moment for trial in trials} > {"any"}  # some came in the middle of something
    assert not [trial for trial in trials if trial.resumed]  # no driver was struck
