"""Videos that a data set shares with a benchmark: what was trained on cannot be measured on.

Videos are compared by name: the file's name without folder and ending, as it is, without a leading
`v_` (ActivityNet), and, where it is an eleven-character YouTube id with the seconds of a cut behind
it (`dQw4w9WgXcQ_10_20`), by that id; cut by the clock (`ID_00:00:39:000_00:01:24:700`), any id is
known without it. Content is not compared.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from o3rl.data.json_records import BadRecord
from o3rl.data.parquet import each_row
from o3rl.data.record_files import read_records

KEYS = ("vid", "video_id", "videoID", "video", "video_path", "video_name", "path", "youtube_id",
        "image_path")  # fmt: skip
EXAMPLES = 5
# YouTube ids are of eleven characters, of which one is a capital or a digit in all but 1 of 10,000.
_CUT = re.compile(r"(?=[\w-]{0,10}[A-Z\d])([\w-]{11})(?:[_-]\d+(?:\.\d+)?){1,2}")
# Cut by the clock, as STGR names its clips: ID_00:00:39:000_00:01:24:700.
_CLOCKED = re.compile(r"(.+?)(?:[_-]\d{1,2}:\d{2}:\d{2}(?:[:.,]\d+)?){1,2}")
_ENDING = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,4}$")


@dataclass(slots=True)
class Contamination:
    """What is shared with one benchmark: its ids, how many videos and rows, some by name."""

    ids: int
    videos: int = 0
    rows: int = 0
    examples: list[str] = field(default_factory=list)


def names_of(path: str) -> set[str]:
    """The names by which the video at `path`, or of this id, is known."""
    name = _ENDING.sub("", PurePosixPath(path).name)
    names = {name, name.removeprefix("v_")}
    for cut in (_CLOCKED, _CUT):
        names |= {match[1] for each in names if (match := cut.fullmatch(each))}
    return names - {""}


def read_benchmark(path: Path) -> list[str]:
    """The ids or paths of a benchmark's videos: one a line, or of JSON rows, or of imported rows.

    JSON rows (a list or lines) are texts, or objects with one of `KEYS`. Raises FileNotFoundError,
    and ValueError where no id can be found.
    """
    if path.is_dir():
        return [row.media for row in each_row(path)]
    if not path.is_file():
        raise FileNotFoundError(f"there is no benchmark file {path}")
    with path.open("rb") as file:
        start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if start in (b"[", b"{"):
        ids = [_id_of(record, path) for record in read_records(path)]
    else:
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        ids = [line.strip() for line in lines if line.strip()]
    if not ids:
        raise ValueError(f"the benchmark file {path} holds no ids")
    return ids


def contamination(benchmark: Iterable[str], rows_by_media: Mapping[str, int]) -> Contamination:
    """The videos of `rows_by_media` that are among the benchmark's ids."""
    ids = list(benchmark)
    known = {name for each in ids for name in names_of(each)}
    found = Contamination(ids=len(set(ids)))
    for media, rows in rows_by_media.items():
        if known.isdisjoint(names_of(media)):
            continue
        found.videos += 1
        found.rows += rows
        if len(found.examples) < EXAMPLES:
            found.examples.append(media)
    return found


def _id_of(record: object, path: Path) -> str:
    if isinstance(record, str | int) and not isinstance(record, bool):
        return str(record)
    if isinstance(record, dict):
        for key in KEYS:
            if isinstance(record.get(key), str | int) and record[key] != "":
                return str(record[key])
    said = (
        f"{record.reason} ({record.where})" if isinstance(record, BadRecord) else f"{record!r:.120}"
    )
    raise ValueError(
        f"a record of the benchmark file {path} names no video: {said}; it must be a text, or have "
        f"one of {', '.join(KEYS)}"
    )
