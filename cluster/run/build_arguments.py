"""`o3rl data build`, as its parser takes it."""

import os
from pathlib import Path

from cluster.arguments import add_command


def add_build(kinds) -> None:
    """Videos in, STGR rows out, by a vision model behind an endpoint."""
    build = add_command(
        kinds,
        "build",
        "cluster.run.build:run",
        "annotate videos by a vision model behind an OpenAI-compatible endpoint, check what it "
        "says box by box, and write STGR rows",
    )
    build.add_argument(
        "source",
        type=Path,
        metavar="VIDEOS",
        help="a folder of videos, or a JSON, JSONL, CSV or Parquet file with video_path and, if "
        "known, id, caption, interval",
    )
    build.add_argument("--media", type=Path, help="root of the videos (default: VIDEOS, a folder)")
    build.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder for the rows, what was paid for, and build.html; run again, it goes on",
    )
    build.add_argument("--url", required=True, help="the endpoint, http://HOST:8000/v1")
    build.add_argument("--model", required=True, metavar="NAME", help="the model it serves")
    build.add_argument("--verify-url", help="another endpoint that judges crops (default: --url)")
    build.add_argument("--verify-model", metavar="NAME", help="its model (default: --model)")
    build.add_argument(
        "--key",
        default="OPENAI_API_KEY",
        metavar="VARIABLE",
        help="the environment variable that holds the key (%(default)s)",
    )
    build.add_argument(
        "--prompts",
        type=Path,
        metavar="DIR",
        help="annotate.txt, repair.txt, verify.txt or rewrite.txt of yours, in place of the "
        "shipped ones, which lie in OUT/prompts after a run",
    )
    build.add_argument(
        "--boxes",
        default="thousandths",
        choices=("thousandths", "shares", "pixels"),
        help="the unit in which the model is asked to write boxes (%(default)s)",
    )
    build.add_argument(
        "--no-schema",
        dest="enforce",
        action="store_false",
        help="do not send response_format: for endpoints that refuse it",
    )
    for name, kind, default, words in (
        ("frames", int, 16, "frames of a video that are shown, at most"),
        ("pixels", int, 512 * 512, "of each frame"),
        ("largest", float, 0.8, "share of the frame that a box may cover"),
        ("temperature", float, 0.0, "of the annotator"),
        ("max-tokens", int, 2048, "of a reply"),
        ("at-once", int, 8, "requests under way, and videos whose frames are held"),
        ("attempts", int, 5, "for a request before its row is left for the next run"),
        ("seconds", float, 120.0, "limit of one attempt"),
        ("longest-wait", float, 60.0, "seconds between two attempts, which double from one"),
        ("patience", int, 20, "rows in a row that the endpoint fails before the run ends"),
        ("readers", int, min(4, os.cpu_count() or 1), "processes that read videos"),
        ("limit", int, 0, "videos of this run, the first ones; 0: all"),
        ("pictures", int, 12, "rows that the page shows, kept and of each stage's dropped"),
    ):
        build.add_argument(
            f"--{name}", type=kind, default=default, metavar="N", help=f"{words} (%(default)s)"
        )
    build.add_argument("--json", action="store_true", help="print the report as JSON")
