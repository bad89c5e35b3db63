"""What is found in the wild: damaged records and damaged videos, of every kind that we know.

Import must reject each of these records, and each of these videos must be refused where it is read
or before. `add_damage` puts both into a synthetic data set, so that a run can show what it makes of
them: every one counted, none stopping it.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

from o3rl.config import require
from o3rl.types import Task

SEVERAL = 60  # good records that the damaged ones are made of
GONE = object()  # the key is missing
NAN, INF, HUGE = float("nan"), float("inf"), 10**400
LONE = "lone surrogate \ud800"

_OF_ANY: dict[str, tuple[Any, ...]] = {
    "id": (GONE, None, "", True, [1], {}, 1.5, NAN, LONE),
    "task": (GONE, None, "", "video QA", 3, ["temporal QA"], {"task": 1}, NAN),
    "question": (GONE, None, "", " \n", 5, {}, ["What?"], NAN, LONE),
    "answer": (GONE, None, "", " ", [], {"a": 1}, INF, HUGE, True),
    "source": (3, ["gqa"], {}, NAN, LONE),
    "reasoning_process": (3, ["x"], "<box>[0,0,1]</box>", "<box>[0,0,1,1]", "<box>x</box>",
                          "<box>[0,0,NaN,1]</box>", "<box>[0,0,1e999,1]</box>", LONE),
}  # fmt: skip
_PATHS = (GONE, None, "", 4, ["v.mp4"], "../v.mp4", "a/../../v.mp4", "/etc/passwd", "a\0b", LONE)
_INTERVALS = ("two to six", "[2]", "[2, 6, 8]", "[6, 2]", "[-1, 2]", "[2, NaN]", "[2, 1e999]",
              "[[2, 6]]", "{}", '[2, "x"]', "[2, null]", "[true, 2]", f"[2, {HUGE}]",
              "[" * 5000)  # fmt: skip
_KEY_FRAME = {"idx": 0, "time": 1.0, "path": "0.jpg"}
_OF_TASK: dict[Task, dict[str, tuple[Any, ...]]] = {
    Task.MCQ: {"answer": ("Bee", "7", 7, "AB", "А", "(?)", "(Z)")},  # А is Cyrillic
    Task.TEMPORAL: {"answer": _INTERVALS},
    Task.TEMPORAL_MCQ: {
        "answer": ("A", "[2, 6]", "[2, 6]\nA", *(f"A\n{words}" for words in _INTERVALS))
    },
    Task.VISUAL: {
        "image_size": (GONE, None, [], [640], [0, 480], [-640, 480], "640x480", [NAN, 480],
                       [INF, INF], [1e300, 1e300], [HUGE, 1], [None, None], {"w": 640}),
        "answer": ("<box>[1,2,3]</box>", "<box>[1,2,3,4]", "<box>1 2 3 4</box>",
                   "<box>[9,2,3,4]</box>", "<box>[1,2,99999,4]</box>", "<box>[NaN,2,3,4]</box>",
                   "<box>[[1,2,3,4]]</box>", "<box>[1,2,1e400,4]</box>"),
    },
    Task.TEMPORAL_SPATIAL: {
        "key_frames": (GONE, None, [], "x", {}, [7], [None], [[]], [{"idx": 0}], [{"time": 1.0}],
                       *([_KEY_FRAME | {"time": time}]
                         for time in (-1, NAN, INF, HUGE, "late", None, True, [1])),
                       [_KEY_FRAME | {"idx": 99}], [_KEY_FRAME | {"idx": [0]}]),
        "key_items": (GONE, None, {}, [], "x", 3, {"99": {"dog": [[0, 0, 1, 1]]}}),
    },
}  # fmt: skip
_ITEMS = (3, None, [], {}, {"dog": 3}, {"dog": []}, {"dog": [[]]}, {"dog": [[0, 0, 1]]},
          {"dog": [[0, 0, 0, 1]]}, {"dog": [[0.5, 0.5, 0.2, 0.7]]}, {"dog": [[0, 0, 5, 5]]},
          {"dog": [[NAN, 0, 1, 1]]}, {"dog": [[INF, INF, INF, INF]]}, {"dog": [["a", 0, 1, 1]]},
          {"dog": [[HUGE, 0, 1, 1]]}, {"dog": [[[[0]]]]}, {"dog": [None]}, {"dog": {"x1": 0}},
          {LONE: [[0, 0, 1, 1]]})  # fmt: skip
_NO_RECORDS = (None, True, 7, 1e308, NAN, "text", [], [[]], {}, {"row": {}})

MEDIA_KEY = {task: "image_path" if task is Task.VISUAL else "video_path" for task in Task}


def damaged_records(good: list[dict[str, Any]], count: int, *, seed: int) -> list[object]:
    """Records that import must reject, each a good one with one thing wrong, in turn by kind."""
    rng = Random(f"{seed} damaged records")
    found: list[object] = []
    while len(found) < count:
        kinds = [
            change for record in rng.sample(good, len(good)) for change in _damages(record, rng)
        ]
        rng.shuffle(kinds)
        for record in [*_NO_RECORDS, *kinds][: count - len(found)]:
            if isinstance(record, dict) and _is_id(record.get("id")):
                record = record | {"id": f"damaged-{seed}-{len(found)}"}
            found.append(record)
    return found


def damaged_videos(
    good: bytes, folder: Path, count: int, *, seed: int
) -> Iterator[tuple[str, str]]:
    """Write damaged videos to `folder`, made of a good MP4 file; (file name, kind) of each."""
    rng = Random(f"{seed} damaged videos")
    folder.mkdir(parents=True, exist_ok=True)
    kinds = list(VIDEO_DAMAGE)
    for number in range(count):
        kind = kinds[number % len(kinds)]
        name = f"damaged-{number:05d}.mp4"
        VIDEO_DAMAGE[kind](folder / name, good, rng)
        yield name, kind


def add_damage(out: Path, *, videos: int, records: int, seed: int) -> None:
    """Put damaged videos, a row each, and damaged records into what `write_dataset` wrote.

    Held-out rows stay as they are. Raises ValueError on a negative number.
    """
    require(videos >= 0, "damaged videos", videos, "0 or more")
    require(records >= 0, "damaged rows", records, "0 or more")
    if not videos and not records:
        return
    sources = [out / "STGR-SFT.json", out / "STGR-RL.json"]
    rows = [json.loads(source.read_text()) for source in sources]
    model = next(row for row in rows[-1] if row["video_path"])
    good = (out / "media" / model["video_path"]).read_bytes()
    folder = Path(model["video_path"]).parent
    made = list(damaged_videos(good, out / "media" / folder, videos, seed=seed))
    for source, of_source in zip(sources, rows, strict=True):
        with_video = [row for row in of_source if row["video_path"]]
        of_source += [
            with_video[i % len(with_video)]
            | {"id": f"{name}-{kind}", "video_path": (folder / name).as_posix()}
            for i, (name, kind) in enumerate(made)
        ]
        of_source += damaged_records(of_source[:SEVERAL], records, seed=seed)
        source.write_text(json.dumps(of_source, indent=1) + "\n")


def _damages(record: Mapping[str, Any], rng: Random) -> Iterator[dict[str, Any]]:
    """The record with one thing wrong, once for each thing."""
    task = Task(record["task"])
    by_key = _OF_ANY | {MEDIA_KEY[task]: _PATHS}
    for damages in (by_key, _OF_TASK.get(task, {})):
        for key, values in damages.items():
            for value in values:
                yield {k: v for k, v in (dict(record) | {key: value}).items() if v is not GONE}
    if task is Task.TEMPORAL_SPATIAL:
        for items in _ITEMS:
            idx = str(rng.choice(record["key_frames"])["idx"])
            yield dict(record) | {"key_items": record["key_items"] | {idx: items}}


def _is_id(value: object) -> bool:
    return isinstance(value, str) and bool(value) and value != LONE


def _truncated(path: Path, good: bytes, rng: Random) -> None:
    path.write_bytes(good[: int(len(good) * rng.uniform(0.05, 0.9))])


def _random(path: Path, good: bytes, rng: Random) -> None:
    path.write_bytes(rng.randbytes(rng.randrange(1, len(good))))


def _empty(path: Path, good: bytes, rng: Random) -> None:
    del good, rng
    path.write_bytes(b"")


def _wrong_codec(path: Path, good: bytes, rng: Random) -> None:
    path.write_bytes(good.replace(b"avc1", bytes(rng.choices(range(97, 123), k=4))))


def _folder(path: Path, good: bytes, rng: Random) -> None:
    del good, rng
    path.mkdir(exist_ok=True)


def _link_out(path: Path, good: bytes, rng: Random) -> None:
    """To a file outside the media root, which no row may reach."""
    del good, rng
    _link(path, os.devnull)


def _link_to_nothing(path: Path, good: bytes, rng: Random) -> None:
    del good, rng
    _link(path, "nowhere.mp4")


def _link_to_itself(path: Path, good: bytes, rng: Random) -> None:
    del good, rng
    _link(path, path.name)


def _link(path: Path, target: str) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def _huge_header(path: Path, good: bytes, rng: Random) -> None:
    """Its first box says that it is up to an exabyte long."""
    size = rng.choice((2**31, 2**40, 2**60))
    path.write_bytes((1).to_bytes(4, "big") + good[4:8] + size.to_bytes(8, "big") + good[8:])


def _zeros(path: Path, good: bytes, rng: Random) -> None:
    """A good start, then nothing, as interrupted downloads leave it."""
    start = rng.randrange(32, 64)
    path.write_bytes(good[:start] + bytes(len(good) - start))


def _text(path: Path, good: bytes, rng: Random) -> None:
    """What a server said instead of the file."""
    del good
    path.write_text(f"<html><body>404 not found ({rng.random()})</body></html>\n" * 20)


def _missing(path: Path, good: bytes, rng: Random) -> None:
    del good, rng
    path.unlink(missing_ok=True)


VIDEO_DAMAGE: dict[str, Callable[[Path, bytes, Random], None]] = {
    "truncated": _truncated,
    "random bytes": _random,
    "empty": _empty,
    "wrong codec": _wrong_codec,
    "folder": _folder,
    "link out of the root": _link_out,
    "link to nothing": _link_to_nothing,
    "link to itself": _link_to_itself,
    "huge header": _huge_header,
    "zeros": _zeros,
    "text": _text,
    "missing": _missing,
}
