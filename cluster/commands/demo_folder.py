"""A demo's folder: one demo at a time, which removes by name what an earlier one made there.

Anything else in the folder is the user's. Where there is such a thing nothing is removed at all,
nor while a demo or a run lives in it.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from o3rl.persistence.lease import living, take

_MODEL = r"[\w.-]+\.(json|jinja|safetensors|txt|model)"
_STAGE = rf"""
    media-plans\.jsonl
  | config\.yaml | params\.json | metrics\.jsonl | tracking\.json | incarnation | ledger\.parquet
  | tables/\w+\.jsonl | pages/step-\d+\.html | (model|best)(\.writing|\.dropped)?/{_MODEL}
  | attempts/\d+\.json
  | checkpoints/step-\d+(\.\w+)?/(model/{_MODEL} | learner/.+ | [a-z]+\.(json|parquet))
  | weights/[\d.]+/.+
"""
MADE = re.compile(
    rf"""
    demo\.yaml | report\.json | curves\.png | index\.html | mlflow\.db([-\w]*) | attempts/\d+\.json
  | artifacts/[0-9a-f]{{32}}/artifacts/.+
  | data/STGR-(SFT|RL|held-out)\.json
  | data/media/(videos|images)/(train|held-out)-(video|picture)-\d+\.(mp4|png)
  | rows/(sft|rl|held-out)/(import\.json | (\.\w+/)?task=\w+/part-\d+\.parquet)
  | (sft|rl)/({_STAGE})
  | evaluation/({_STAGE} | (base|sft|rl)(-greedy|-sampled)?\.(json|jsonl|html)
                | side-by-side\.html)
    """,
    re.VERBOSE,
)
_ASIDE = re.compile(r"\.(.+)\.(\d+|writing)")  # a file that a kill left half written


@contextmanager
def demo_folder(folder: Path) -> Iterator[None]:
    """`folder` for one demo, empty of what an earlier one made.

    Raises ValueError where another demo or a run lives in it, or where it holds anything else.
    """
    if folder.exists():
        if any(folder.iterdir()) and not (folder / "demo.yaml").is_file():
            raise ValueError(f"{folder} is there and no earlier demo's; name another --folder")
        if others := foreign(folder):
            raise ValueError(
                f"{folder} holds what no demo made: {', '.join(others[:3])}"
                f"{f' and {len(others) - 3} more' if len(others) > 3 else ''}; move it, or name "
                "another --folder"
            )
        if holder := living(folder / "rl"):
            raise ValueError(f"{holder} trains in {folder / 'rl'}; stop it, or name another folder")
    with take(folder):
        _clear(folder)
        yield


def foreign(folder: Path) -> list[str]:
    """The files in `folder`, as seen from it, whose names no demo gives."""
    return [name for path in _files(folder) if not _is_ours(name := _name(path, folder))]


def _clear(folder: Path) -> None:
    """Attempts stay: their numbers are given once."""
    for path in _files(folder):
        name = _name(path, folder)
        if path.parent.name == "attempts" or not _is_ours(name):
            continue
        path.unlink()
        above = path.parent
        while above != folder and not any(above.iterdir()):
            above.rmdir()
            above = above.parent


def _is_ours(name: str) -> bool:
    head, slash, last = name.rpartition("/")
    whole = _ASIDE.fullmatch(last)
    return bool(MADE.fullmatch(name) or (whole and MADE.fullmatch(f"{head}{slash}{whole[1]}")))


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
