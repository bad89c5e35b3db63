"""`o3rl benchmark`, as its parser takes it."""

from pathlib import Path

from cluster.arguments import add_command

NAMES = "vstar, tvgbench, videomme, worldsense, videommmu, or voting"


def add_benchmark(commands) -> None:
    """What is done with a benchmark: stored replies are scored."""
    words = "video benchmarks: V-STaR, TVGBench, Video-MME, WorldSense, VideoMMMU"
    benchmark = commands.add_parser("benchmark", help=words, description=f"{words}.")
    benchmark.set_defaults(parser=benchmark)
    kinds = benchmark.add_subparsers(title="commands", metavar="COMMAND", dest="kind")
    score = add_command(
        kinds,
        "score",
        "cluster.commands.benchmark:score",
        "score stored replies without a model; docs/benchmarks.md says what FILE holds",
    )
    score.add_argument("name", metavar="NAME", help=NAMES)
    score.add_argument("file", type=Path, metavar="FILE", help="a JSON list of replies")
    score.add_argument(
        "--official",
        action="store_const",
        dest="scoring",
        const="official",
        default="ours",
        help="as the published scorer does, faults included",
    )
    score.add_argument(
        "--open-o3",
        action="store_const",
        dest="scoring",
        const="open_o3",
        help="as Open-o3 Video's copies do",
    )
    score.add_argument(
        "--boxes",
        default="",
        metavar="MODEL_TYPE",
        help="whose coordinates V-STaR's boxes are in, such as qwen2_5_vl; replies then need their "
        "input_size (default: pixels of the video, as written)",
    )
    score.add_argument(
        "--judge",
        metavar="URL",
        help="an OpenAI-compatible endpoint, http://HOST:8000/v1, that rates V-STaR's what answers "
        "that have no judge_score; its key stands in OPENAI_API_KEY",
    )
    score.add_argument("--judge-model", default="", metavar="NAME", help="the model it serves")
    score.add_argument(
        "--judge-cache",
        type=Path,
        default=Path("runs/judge"),
        metavar="DIR",
        help="where its replies are kept (%(default)s)",
    )
    score.add_argument("--json", action="store_true", help="JSON instead of a table")
    score.add_argument("--out", type=Path, metavar="FILE", help="write the JSON there too")
