"""`o3rl bench …`, as its parsers take it."""

import argparse
from collections.abc import Callable
from pathlib import Path

from cluster.arguments import add_command


def add_bench(commands) -> None:
    """All of its commands."""
    bench = commands.add_parser(
        "bench", help="what the parts cost on this machine", description="What the parts cost."
    )
    bench.set_defaults(parser=bench)
    kinds = bench.add_subparsers(title="commands", metavar="COMMAND", dest="kind")
    rewards = _bench(
        kinds, "rewards", "completions scored a second by task and profile, share of a step"
    )
    rewards.add_argument(
        "--seconds", type=more_than_0, default=9.0, help="of timing completions (default 9)"
    )
    rewards.add_argument(
        "--run", type=Path, help="a run's folder, for scoring's share of its steps"
    )
    words = "what the controller costs by number of replicas, and how sampling and learning overlap"
    loop = _bench(kinds, "loop", words)
    loop.add_argument(
        "--real",
        action="store_true",
        help="instead: the tiny model, one vLLM engine and one learner rank, each on a core",
    )
    loop.add_argument(
        "--at-once",
        type=at_least(1),
        default=64,
        help="sequences in the engine with --real, of the 512 of a batch (default 64)",
    )
    loop.add_argument(
        "--seconds", type=more_than_0, default=2.0, help="that a group takes to sample (default 2)"
    )
    loop.add_argument(
        "--rounds", type=at_least(2), default=8, help="groups a replica, steps (default 8)"
    )
    loop.add_argument("--without-ray", action="store_true", help="in one process only")
    words = "a learner's step with a shared prompt against plain transformers and the arithmetic"
    learner = _bench(kinds, "learner", words)
    learner.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    learner.add_argument(
        "--repeats", type=at_least(1), default=5, help="of each variant (default 5)"
    )
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
    words = "new weights to a busy engine, all of them or what changed: seconds of stall, bytes"
    weights = _bench(kinds, "weights", words)
    weights.add_argument("--model", default="80m", help="random 1m or 80m (default 80m)")
    weights.add_argument("--steps", type=at_least(1), default=5, help="optimiser steps (default 5)")
    weights.add_argument(
        "--rate", type=more_than_0, default=1e-6, help="of learning (default 1e-6)"
    )


def _bench(kinds, name: str, words: str) -> argparse.ArgumentParser:
    """One whose module has its name."""
    parser = add_command(kinds, name, "cluster.bench.report:run", words)
    parser.add_argument("--json", action="store_true", help="JSON instead of tables")
    return parser


def at_least(least: int) -> Callable[[str], int]:
    """Reads a whole number, and refuses a smaller one."""

    def count(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} on")
        return int(text)

    return count


def more_than_0(text: str) -> float:
    """Reads a number, and refuses what is not above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value
