"""The parsers of the commands for runs on a Ray cluster."""

import argparse

from cluster.arguments import add_command, takes_config


def add_runs(commands) -> None:
    """submit, list, status, logs, scale, stop."""
    submit = _on_cluster(commands, "submit", "train on a Ray cluster, as a job of its own")
    takes_config(submit)
    submit.add_argument(
        "--resume",
        action="store_true",
        help="go on with a run that lies in its folder, and that this cluster has not seen yet",
    )
    submit.add_argument(
        "--wait", action="store_true", help="follow it to its end; exit code 1 if it fails"
    )
    listed = "the runs that were submitted, and their attempts"
    listed = _on_cluster(commands, "list", listed, "list_")
    listed.add_argument("--json", action="store_true", help="JSON instead of text")
    status = _on_cluster(commands, "status", "phase, step, rates and replicas of what runs")
    status.add_argument("run", nargs="?", default="", metavar="RUN", help="default: all that run")
    status.add_argument("--json", action="store_true", help="JSON instead of text")
    logs = _of_run(_on_cluster(commands, "logs", "what the last attempt of a run has said"))
    logs.add_argument("-f", "--follow", action="store_true", help="until it ends")
    words = "add or remove rollout replicas of a run, and wait until they serve or have left"
    scale = _of_run(_on_cluster(commands, "scale", words))
    scale.add_argument("--rollouts", type=int, required=True, metavar="N", help="replicas")
    _of_run(_on_cluster(commands, "stop", "end a run after its step, with a checkpoint"))


def _on_cluster(commands, name: str, words: str, function: str = "") -> argparse.ArgumentParser:
    parser = add_command(commands, name, f"cluster.jobs.job_commands:{function or name}", words)
    parser.add_argument(
        "--address",
        default="",
        help="the cluster: HOST:PORT, http://HOST:8265, or auto for the one that this machine is "
        "part of (default: RAY_ADDRESS, else auto)",
    )
    return parser


def _of_run(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("run", metavar="RUN", help="the name of its configuration")
    return parser
