"""`o3rl benchmark`, as its parser takes it."""

from pathlib import Path

from cluster.arguments import add_command, takes_overrides

MODELS = {  # names, and how else they are written
    "vstar": ("V-STaR", ["V-STaR", "v-star"]),
    "tvgbench": ("TVGBench", ["TVGBench", "tvg"]),
    "videomme": ("Video-MME", ["VideoMME", "Video-MME", "video_mme"]),
    "worldsense": ("WorldSense", ["WorldSense"]),
    "videommmu": ("VideoMMMU", ["VideoMMMU", "video_mmmu"]),
}
NAMES = f"{', '.join(MODELS)}, or voting"


def add_benchmark(commands) -> None:
    """What is done with a benchmark: a model is asked one, or stored replies are scored."""
    words = "video benchmarks: V-STaR, TVGBench, Video-MME, WorldSense, VideoMMMU"
    benchmark = commands.add_parser("benchmark", help=words, description=f"{words}.")
    benchmark.set_defaults(parser=benchmark)
    kinds = benchmark.add_subparsers(title="commands", metavar="COMMAND", dest="kind")
    for name, (title, others) in MODELS.items():
        _asks(kinds, name, title, others)
    score = add_command(
        kinds,
        "score",
        "cluster.commands.benchmark:score",
        "score stored replies without a model; docs/benchmarks.md says what FILE holds",
    )
    score.add_argument("name", metavar="NAME", help=NAMES)
    score.add_argument("file", type=Path, metavar="FILE", help="a JSON list of replies")
    _rules(score)
    score.add_argument(
        "--boxes",
        default="",
        metavar="MODEL_TYPE",
        help="whose coordinates V-STaR's boxes are in, such as qwen2_5_vl; replies then need their "
        "input_size (default: pixels of the video, as written)",
    )
    score.add_argument("--out", type=Path, metavar="FILE", help="write the JSON there too")


def _asks(kinds, name: str, title: str, others: list[str]) -> None:
    ask = kinds.add_parser(
        name,
        aliases=others,
        help=f"ask a model the questions of {title}, and score its replies",
        description=f"Ask a model the questions of {title}, many at once, and score its replies. "
        "What was asked before in the same folder is not asked again.",
    )
    ask.set_defaults(handler="cluster.commands.benchmark:run", parser=ask, name=name)
    ask.add_argument("--data", type=Path, required=True, metavar="FILE", help="its file of rows")
    ask.add_argument(
        "--media", type=Path, required=True, metavar="DIR", help="the videos lie anywhere below it"
    )
    ask.add_argument(
        "--model", required=True, metavar="M", help="a Hugging Face folder or hub name, or tiny"
    )
    ask.add_argument("--config", help="CONFIG for the engine (default: that beside the model)")
    ask.add_argument(
        "--frames", type=int, metavar="N", help="of a video, at most (default: the benchmark's)"
    )
    ask.add_argument(
        "--pixels", type=int, metavar="N", help="of a frame; 0: its own size (the benchmark's)"
    )
    ask.add_argument(
        "--max-tokens", type=int, metavar="N", help="of a reply (default: the benchmark's)"
    )
    ask.add_argument(
        "--plain", action="store_true", help="the benchmark's own questions, without a thought"
    )
    ask.add_argument("--subset", action="store_true", help="FILE does not hold all rows, by intent")
    ask.add_argument("--limit", type=int, default=0, metavar="N", help="rows at most")
    _rules(ask)
    ask.add_argument(
        "--boxes",
        metavar="MODEL_TYPE",
        help="whose coordinates V-STaR's boxes are in (default: the model's, by our rules; '': "
        "pixels of the video, as written)",
    )
    ask.add_argument(
        "--folder", type=Path, help="for replies and result (default: runs/benchmarks/NAME)"
    )
    takes_overrides(ask)


def _rules(score) -> None:
    """Whose rules replies are scored by, the judge, and the form of the result."""
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
