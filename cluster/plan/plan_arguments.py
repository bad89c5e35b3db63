"""`o3rl plan`, as its parser takes it."""

from cluster.arguments import add_command, takes_config


def add_plan(commands) -> None:
    """The command and the machines that it is to reckon with."""
    plan = add_command(
        commands,
        "plan",
        "cluster.plan.command:run",
        "what a run places where, its memory, disk and steps, and all that is wrong with it",
    )
    takes_config(plan)
    plan.add_argument("--json", action="store_true", help="JSON instead of tables")
    for name, default, words in (
        ("--nodes", 0, "machines there are; 0: one where the run starts a Ray, else any number"),
        ("--node-cpus", 0.0, "of a machine; 0: as many as this one has, or 64 each"),
        ("--node-gpus", 8.0, "of a machine"),
        ("--gpu-gib", 80.0, "memory of a GPU"),
    ):
        words = f"{words} (default {default:g})"
        plan.add_argument(name, type=type(default), default=default, help=words)
