"""What a command may write over: what it wrote itself before, and nothing of the user's."""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from o3rl.types import Task

_PAGE = re.compile(r"<!doctype html>[\s\S]*?<meta http-equiv=.Content-Security-Policy.")


def require_own(path: Path, option: str, is_own: Callable[[str], bool]) -> None:
    """Raise ValueError where `path` is there and `is_own` does not know its text."""
    try:
        own = not path.exists() or is_own(path.read_text(encoding="utf-8"))
    except (ValueError, IsADirectoryError):  # no text, no JSON, no file at all
        own = False
    if not own:
        _refuse(path, option)


def require_free(folder: Path, option: str, names: Iterable[str]) -> None:
    """Raise ValueError where the folder holds one of `names` (patterns of pathlib)."""
    for name in names:
        for path in folder.glob(name):
            _refuse(path, option)


def require_own_rows(folder: Path) -> None:
    """Raise ValueError where an import into `folder` would remove what no import wrote."""
    tasks = {f"task={task.name}" for task in Task}
    imported = (folder / "import.json").is_file()
    for part in folder.glob("task=*"):
        if not imported or part.name not in tasks or not part.is_dir():
            _refuse(part, "--out")
        for path in part.iterdir():
            if not re.fullmatch(r"part-\d+\.parquet", path.name):
                _refuse(path, "--out")


def is_page(text: str) -> bool:
    """Whether it is one of our pages."""
    return bool(_PAGE.match(text[:1000]))


def is_object_with(*keys: str) -> Callable[[str], bool]:
    """Whether it is a JSON object, or lines of them, with these keys in the (first) one."""

    def is_one(text: str) -> bool:
        value = json.JSONDecoder().raw_decode(text.lstrip())[0]
        return isinstance(value, dict) and set(keys) <= value.keys()

    return is_one


def _refuse(path: Path, option: str) -> None:
    raise ValueError(
        f"{path} is there, and not of this command's making: move it, or name another {option}"
    )
