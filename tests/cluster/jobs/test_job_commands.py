"""What `o3rl status` and its neighbours say."""

from cluster.jobs.job_commands import _ended, described
from cluster.jobs.jobs import Attempt
from cluster.run.run_control import Status


def test_a_replica_is_described_in_words():
    joined = {"replica": 1, "state": "healthy", "why": "", "first_group": 40.417}
    young = {"replica": 2, "state": "starting", "why": "", "first_group": None}
    shown = described(Status("try", "/runs/try", 1, "training", replicas=[joined, young]))
    assert shown.splitlines()[-2:] == [
        "  replica 1, state healthy, first group after 40.4 s",
        "  replica 2, state starting",
    ]


def test_what_to_do_about_a_run_that_has_ended_depends_on_how_it_ended():
    stopped = _ended(Attempt("try", 1, "SUCCEEDED", "/runs/try"))
    assert stopped.startswith(
        "run try has ended: try-a1 succeeded, see /runs/try; if it was stopped"
    )
    assert "failed; `o3rl logs try` tells why" in _ended(Attempt("try", 2, "FAILED", "/runs/try"))
