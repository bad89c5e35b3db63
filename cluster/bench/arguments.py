"""`o3rl bench …`, as its parsers take it."""

from pathlib import Path

from cluster.arguments import add_command


def add_bench(commands) -> None:
    """All of its commands."""
    bench = commands.add_parser(
        "bench", help="what the parts cost on this machine", description="What the parts cost."
    )
    bench.set_defaults(parser=bench)
    kinds = bench.add_subparsers(title="commands", metavar="COMMAND", dest="kind")
    rewards = add_command(
        kinds,
        "rewards",
        "cluster.bench.rewards_report:rewards",
        "completions scored a second by task and profile, parsing time by length, share of a step",
    )
    rewards.add_argument(
        "--seconds", type=float, default=9.0, help="of timing completions (default 9)"
    )
    rewards.add_argument(
        "--run", type=Path, help="a run's folder, for scoring's share of its steps"
    )
    rewards.add_argument("--json", action="store_true", help="JSON instead of tables")
    loop = add_command(
        kinds,
        "loop",
        "cluster.bench.loop:run",
        "what the controller costs by number of replicas, and how sampling and learning overlap",
    )
    loop.add_argument(
        "--real",
        action="store_true",
        help="instead: the tiny model, one vLLM engine and one learner rank, each on a core",
    )
    loop.add_argument(
        "--at-once",
        type=int,
        default=64,
        help="sequences in the engine with --real, of the 512 of a batch (default 64)",
    )
    loop.add_argument(
        "--seconds", type=float, default=2.0, help="that a stand-in takes for a group (default 2)"
    )
    loop.add_argument("--rounds", type=int, default=8, help="groups a replica, steps (default 8)")
    loop.add_argument("--without-ray", action="store_true", help="stand-ins of one process only")
    loop.add_argument("--json", action="store_true", help="JSON instead of tables")
    learner = add_command(
        kinds,
        "learner",
        "cluster.bench.learner_report:run",
        "a learner's step with a shared prompt against plain transformers and the arithmetic",
    )
    learner.add_argument("--json", action="store_true", help="a JSON list instead of a table")
    learner.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    learner.add_argument("--repeats", type=int, default=5, help="of each variant (default 5)")
    learner.add_argument(
        "--shapes",
        "--shape",
        default="2400x256x8,2400x256x4,1000x128x8,356x128x8",
        help="PxCxG, … : tokens of prompt, of each completion, completions (default %(default)s)",
    )
    learner.add_argument(
        "--model", default="80m", help="random Qwen2.5-VL: 1m, 80m, 3b or 7b (default 80m)"
    )
    learner.add_argument(
        "--without-checkpointing", action="store_true", help="keep activations, both sides"
    )
    learner.add_argument(
        "--without-memory", action="store_true", help="no further processes to measure memory"
    )
    handover = add_command(
        kinds,
        "handover",
        "cluster.bench.weight_transfer:run",
        "new weights to a busy engine, all of them or what changed: seconds of stall, bytes",
    )
    handover.add_argument("--model", default="80m", help="random 1m or 80m (default 80m)")
    handover.add_argument("--steps", type=int, default=5, help="optimiser steps (default 5)")
    handover.add_argument("--rate", type=float, default=1e-6, help="of learning (default 1e-6)")
    handover.add_argument("--json", action="store_true", help="JSON instead of a table")
