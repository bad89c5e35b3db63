"""Which videos are annotated: a folder of them, or a file that lists them with what is known."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from o3rl.annotation.passes import Record
from o3rl.data.json_records import BadRecord
from o3rl.data.media_paths import MediaRoots
from o3rl.data.record_files import read_records
from o3rl.data.stgr import Counted, count
from o3rl.media.decoder import MediaError
from o3rl.text.answers import TruthError, parse_interval
from o3rl.types import Interval

KINDS = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".flv", ".wmv", ".m4v", ".mpg", ".mpeg", ".ts"}
PATHS = ("video_path", "video", "path")


def read_videos(source: Path, media: Path) -> tuple[list[Record], dict[str, Counted]]:
    """Videos as records {id, video, caption, interval}, and what was rejected, by reason.

    A folder below the media root gives each video in it; a file (JSON, JSONL, CSV, Parquet) one a
    record: `video_path`, and if known `id`, `caption`, `interval` (or `start` and `end`), in
    seconds. Raises FileNotFoundError, and ValueError where the folder is elsewhere.
    """
    rejected: dict[str, Counted] = {}
    if source.is_dir():
        try:
            below = source.resolve().relative_to(media.resolve())
        except ValueError:
            raise ValueError(f"{source} is not below the media root {media}") from None
        paths = (path for path in sorted(source.rglob("*")) if path.suffix.lower() in KINDS)
        records: Any = (
            {"video_path": (below / path.relative_to(source)).as_posix()} for path in paths
        )
    else:
        records = read_records(source)
    found: dict[str, Record] = {}
    for number, record in enumerate(records, start=1):
        where = f"record {number}"
        try:
            item = _item(record)
        except (MediaError, TruthError) as error:
            count(rejected, error.reason, f"{where}: {error}")
            continue
        if item["id"] in found:
            count(rejected, "id was there before", f"{where}: {item['id']}")
            continue
        found[item["id"]] = item
    return list(found.values()), rejected


def _item(record: object) -> Record:
    if isinstance(record, BadRecord):
        raise TruthError(record.reason, record.where)
    if not isinstance(record, Mapping):
        raise TruthError("record is no object", record)
    path = next((record[key] for key in PATHS if record.get(key)), None)
    if not isinstance(path, str):
        raise TruthError("no video_path", path)
    video = MediaRoots({}).media("", path)
    caption = record.get("caption")
    if caption is not None and not isinstance(caption, str):
        raise TruthError("caption is no text", caption)
    interval = _interval(record)
    part = "" if interval is None else f"#t={interval[0]:g},{interval[1]:g}"
    name = record.get("id") or f"{video}{part}"
    try:
        f"{name}{video}{caption}".encode()
    except UnicodeEncodeError:
        raise TruthError("record is not valid Unicode", name) from None
    return {"id": str(name), "video": video, "caption": caption or "", "interval": interval}


def _interval(record: Mapping[str, Any]) -> Interval | None:
    said = record.get("interval")
    if said is None and record.get("start") is not None and record.get("end") is not None:
        said = [record["start"], record["end"]]
    if said is None:
        return None
    start, end = parse_interval(said)
    if not start < end:
        raise TruthError("an interval of no length", said)
    return start, end
