"""Files that are whole or absent: written aside, then renamed over the old one."""

import os
import shutil
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text; a reader sees the old file or the new one, never half of it.

    Folders above are made. Raises OSError as the file system does.
    """
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """`write_text` for bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def replace_folder(folder: Path, new: Path) -> None:
    """Give a whole folder `new` the name `folder`; the old one goes when the new one has it."""
    old = put_aside(folder) if folder.exists() else None
    try:
        new.rename(folder)
    except OSError:
        if old is not None:
            old.rename(folder)
        raise
    shutil.rmtree(_dropped(folder), ignore_errors=True)


def put_aside(folder: Path) -> Path:
    """A folder without its name, to be deleted: what is half deleted must not have it."""
    dropped = _dropped(folder)
    shutil.rmtree(dropped, ignore_errors=True)
    return folder.rename(dropped)


def _dropped(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.dropped")
