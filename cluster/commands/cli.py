"""The command line: `o3rl COMMAND …`. It parses, and imports a command's module only to run it.

So a wrong configuration stops before torch, Ray, vLLM or MLflow are imported, and `--help` is
quick.
Exit codes: 0 done, 1 the user's input or the data is wrong (one line says what), 2 wrong usage,
130 interrupted.
"""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import FrameType

from cluster.arguments import CommandParser, Commands
from cluster.arguments import add_command as _command
from cluster.arguments import takes_config as _config
from cluster.arguments import takes_overrides as _overrides
from cluster.arguments import takes_resume as _resume
from cluster.bench.arguments import add_bench
from cluster.commands.benchmark_arguments import add_benchmark
from cluster.jobs.arguments import add_runs
from cluster.plan.plan_arguments import add_plan
from cluster.run.build_arguments import add_build

Handler = Callable[[argparse.Namespace], int]

EXAMPLES = """\
from nothing to a trained model:  o3rl demo
on your own data:                 o3rl data import STGR-RL.json --media ROOT --out DIR
                                  o3rl sft CONFIG, o3rl train CONFIG, o3rl evaluate CONFIG
on a Ray cluster:                 o3rl submit CONFIG, o3rl status, o3rl logs RUN, o3rl stop RUN
what is missing on this machine:  o3rl doctor
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if rest:
        _add_overrides(options, rest)
    if "handler" not in options:
        options.parser.print_help()
        return 2
    logging.basicConfig(
        level=logging.INFO if options.verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
    )
    _quieten()
    signal.signal(signal.SIGTERM, _terminated)
    try:
        module, name = options.handler.split(":")
        return getattr(import_module(module), name)(options)
    except (ValueError, OSError) as error:  # a file, a server, a limit of time
        if options.verbose:
            raise
        sys.stderr.write(f"o3rl {options.command}: {str(error) or repr(error)}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"o3rl {options.command}: interrupted\n")
        return 130


def _terminated(number: int, frame: FrameType | None) -> None:
    """SIGTERM, by which batch systems and containers end a job, ends it in order as Ctrl-C does."""
    on_interrupt = signal.getsignal(signal.SIGINT)
    if callable(on_interrupt):
        on_interrupt(number, frame)
    else:
        raise KeyboardInterrupt


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="o3rl",
        usage="o3rl [-h] [-v] [--version] COMMAND ...",
        description="Reinforcement learning for video models that show their evidence.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="say more; show tracebacks")
    parser.add_argument("--version", action="version", version=f"o3rl {version('o3rl')}")
    parser.set_defaults(parser=parser)
    subparsers = parser.add_subparsers(
        metavar="COMMAND", dest="command", prog="o3rl", help=argparse.SUPPRESS
    )
    commands = Commands(subparsers)
    for title, kept in GROUPS.items():
        commands.group(title)
        for add in kept:
            add(commands)
    parser.epilog = f"{commands.listed()}\n{EXAMPLES}"
    return parser


def _demo(commands) -> None:
    demo = _command(
        commands,
        "demo",
        "cluster.commands.demo:run",
        "the whole story on synthetic videos: data, SFT, RL, evaluation, report",
    )
    demo.add_argument("--seed", type=int, default=0, help="of data and training (default 0)")
    demo.add_argument(
        "--folder", type=Path, default=Path("runs/demo"), help="for all it makes (%(default)s)"
    )
    demo.add_argument(
        "--config",
        default="tiny_demo",
        help="a YAML file or a shipped name, to train with (%(default)s)",
    )
    demo.add_argument(
        "--videos",
        type=int,
        default=160,
        help="training videos (default 160); held-out ones and pictures in proportion",
    )
    _overrides(demo)


def _data(commands) -> None:
    data = commands.add_parser(
        "data", help="make, build and import STGR data", description="STGR data."
    )
    data.set_defaults(parser=data)
    kinds = data.add_subparsers(title="commands", metavar="COMMAND", dest="kind")
    synth = _command(
        kinds,
        "synth",
        "cluster.commands.data:synth",
        "write a synthetic STGR data set of real MP4 files",
    )
    synth.add_argument("--out", type=Path, required=True, help="folder to write to")
    synth.add_argument("--seed", type=int, default=0)
    for name, default, words in (
        ("videos", 160, "training videos"),
        ("pictures", 120, "training pictures"),
        ("held-out-videos", 48, "held-out videos"),
        ("held-out-pictures", 32, "held-out pictures"),
    ):
        synth.add_argument(f"--{name}", type=int, default=default, help=f"{words} ({default})")
    synth.add_argument(
        "--perfect-teacher",
        action="store_true",
        help="SFT reasoning without the faults of real annotations (wrong times, loose boxes, "
        "thoughts without evidence)",
    )
    imported = _command(
        kinds, "import", "cluster.commands.data:import_", "STGR rows to validated Parquet"
    )
    _rows(imported, "FILE", "STGR-RL.json, STGR-SFT.json, or what --adapter reads")
    imported.add_argument(
        "--media", type=Path, help="root of the media; missing files are rejected"
    )
    imported.add_argument("--out", type=Path, required=True, help="folder for the Parquet files")
    imported.add_argument("--json", action="store_true", help="print the counts by reason as JSON")
    add_build(kinds)
    _data_frames(kinds)
    _data_check(kinds)


def _data_frames(kinds) -> None:
    frames = _command(
        kinds,
        "frames",
        "cluster.commands.data:frames",
        "what the model will see of a video or an image: each frame, its time, the picture",
    )
    frames.add_argument("file", type=Path, metavar="FILE", help="a video or an image")
    frames.add_argument("--config", help="whose `frames` to use (default: the defaults)")
    frames.add_argument("--out", type=Path, help="folder for a PNG file a frame, and sheet.png")
    frames.add_argument("--json", action="store_true", help="print JSON in place of the table")


def _data_check(kinds) -> None:
    check = _command(
        kinds,
        "check",
        "cluster.commands.data_check:check",
        "what a data set holds and what is wrong with it: rows, media, duplicates, benchmarks",
    )
    _rows(check, "FILE|ROWS", "STGR JSON or JSONL, or the folder of an import")
    check.add_argument("--media", type=Path, help="root of the media; every file is probed")
    check.add_argument(
        "--benchmark",
        action="append",
        metavar="NAME=FILE",
        help="look for its videos: ids a line, JSON rows, or the folder of an import; repeatable",
    )
    check.add_argument("--out", type=Path, help="folder for check.json and check.html")
    check.add_argument(
        "--pictures", type=int, default=18, help="rows that the page shows (%(default)s)"
    )
    stats = _command(
        kinds,
        "stats",
        "cluster.commands.data_check:stats",
        "lengths, durations and counts of evidence by task",
    )
    _rows(stats, "ROWS", "the folder of an import, or STGR JSON or JSONL")
    stats.add_argument("--media", type=Path, help="root of the media, for durations")
    stats.add_argument("--out", type=Path, metavar="FILE", help="JSON file for the numbers")
    for parser in (check, stats):
        parser.add_argument(
            "--readers",
            type=int,
            default=min(8, os.cpu_count() or 1),
            help="processes that probe media (default: one a core, at most 8)",
        )
        parser.add_argument(
            "--seconds", type=float, default=60.0, help="limit a file (%(default)s)"
        )


def _rows(parser: argparse.ArgumentParser, metavar: str, words: str) -> None:
    parser.add_argument("source", type=Path, metavar=metavar, help=words)
    parser.add_argument(
        "--sources",
        type=Path,
        metavar="YAML",
        help="lines `source pattern: folder` that go before the published map of media folders",
    )
    parser.add_argument(
        "--adapter",
        metavar="MODULE:FUNCTION",
        help="a function of yours that gives records in STGR's keys, see docs/data.md",
    )


def _sft(commands) -> None:
    sft = _command(commands, "sft", "cluster.run.sft:run", "cold start on rows with reasoning")
    _config(sft)
    _resume(sft)


def _train(commands) -> None:
    words = "reinforcement learning (GSPO, GRPO)"
    train = _command(commands, "train", "cluster.run.supervisor:run", words)
    _config(train)
    _resume(train)
    train.add_argument(
        "--again",
        action="store_true",
        help="as --resume, but begin where there is no checkpoint: a job's further attempts",
    )
    train.add_argument("--record", type=Path, metavar="DIR", help="write each batch there")
    train.add_argument(
        "--replay",
        type=Path,
        metavar="DIR",
        help="train on the batches that --record wrote, without rollouts: into FOLDER/replay",
    )


def _evaluate(commands) -> None:
    evaluate = _command(
        commands,
        "evaluate",
        "cluster.run.evaluate:run",
        "answer held-out rows and measure answers and evidence",
    )
    _config(evaluate)
    evaluate.add_argument(
        "--model",
        action="append",
        metavar="[NAME=]PATH",
        help="a Hugging Face folder or hub name; more than one is loaded in turn into the same "
        "engine (default: model.path of CONFIG)",
    )
    evaluate.add_argument("--rows", help="Parquet folder (default: data.validation of CONFIG)")
    evaluate.add_argument("--limit", type=int, default=0, help="rows at most (default: all)")
    evaluate.add_argument("--out", type=Path, help="folder for numbers and pages")


def _answer(commands) -> None:
    answer = _command(
        commands,
        "answer",
        "cluster.run.answer:run",
        "ask a trained model about a video, see its evidence",
    )
    answer.add_argument(
        "video", type=Path, metavar="VIDEO", help="a video, or with --task 'visual QA' an image"
    )
    answer.add_argument("question", metavar="QUESTION")
    answer.add_argument("--model", required=True, help="a Hugging Face folder or hub name")
    answer.add_argument(
        "--task",
        default="temporal-spatial free-form QA",
        help="the STGR task, which decides the form of the answer (default: %(default)s)",
    )
    answer.add_argument("--page", type=Path, default=Path("answer.html"), help="evidence page")
    answer.add_argument("--config", help="CONFIG for frames and engine")
    _overrides(answer)


def _score(commands) -> None:
    score = _command(
        commands, "score", "cluster.commands.data:score", "score completions in a JSONL file"
    )
    score.add_argument("source", type=Path, metavar="FILE", help="one JSON object a line")
    score.add_argument("--profile", default="paper", choices=("paper", "released", "strict"))
    score.add_argument("--out", type=Path, required=True, help="JSONL with parts, total, claims")


def _tiny(commands) -> None:
    tiny = commands.add_parser(
        "tiny", help="the tiny base model", description="The tiny base model of the demo."
    )
    tiny.set_defaults(parser=tiny)
    kinds = tiny.add_subparsers(title="commands", metavar="COMMAND", dest="kind")
    pretrain = _command(
        kinds, "pretrain", "cluster.commands.data:pretrain", "teach a tiny Qwen2.5-VL to see"
    )
    pretrain.add_argument("--out", type=Path, required=True, help="Hugging Face folder to write")
    pretrain.add_argument(
        "--start", help="a tiny model to go on from, `tiny` for the shipped one (default: random)"
    )
    pretrain.add_argument("--steps", type=int, help="default 3400")
    pretrain.add_argument("--seed", type=int, default=0)
    pretrain.add_argument("--resume", action="store_true", help="go on from the last 500 steps")


def _configs(commands) -> None:
    words = "the shipped configurations, one of them, and what every setting is for"
    configs = _command(commands, "configs", "cluster.commands.configs:run", words)
    configs.add_argument(
        "config", nargs="?", metavar="CONFIG", help="a YAML file or a shipped name, to print"
    )
    _overrides(configs)
    configs.add_argument(
        "--resolved", action="store_true", help="with every default, and what each value is for"
    )
    kinds = configs.add_mutually_exclusive_group()
    kinds.add_argument("--reference", action="store_true", help="docs/settings.md")
    kinds.add_argument("--schema", action="store_true", help="a JSON schema, for editors")


def _doctor(commands) -> None:
    words = "versions, devices, what is missing, what to do"
    doctor = _command(commands, "doctor", "cluster.commands.doctor:run", words)
    doctor.add_argument("--json", action="store_true", help="JSON instead of the table")


GROUPS = {
    "to begin": (_demo, _doctor, _configs),
    "to train": (_data, add_plan, _sft, _train),
    "on a cluster": (add_runs,),
    "to look and to measure": (_evaluate, _answer, _score, add_benchmark),
    "of o3rl itself": (add_bench, _tiny),
}


def _add_overrides(options: argparse.Namespace, rest: list[str]) -> None:
    """Take up `key=value` that came after an option, which argparse leaves over."""
    wrong = [item for item in rest if "=" not in item or item.startswith("-")]
    if wrong or "overrides" not in options:
        options.parser.error_of_unknown(wrong or rest)
    options.overrides = [*options.overrides, *rest]


def _quieten() -> None:
    """Keep libraries that print at import from burying what this program says."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_CONFIGURE_LOGGING", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("PYTHONWARNINGS", "ignore")


if __name__ == "__main__":
    sys.exit(main())
