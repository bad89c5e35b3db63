"""Where the media of a source lie below the media root: the published map, and a user's own."""

import posixpath
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import yaml

from o3rl.media.decoder import MediaError

# Source patterns to folders below the media root; {a,b} holds the media in a, key frames in b.
SOURCES = {
    "STR_plm*": "stgr/plm/{videos,kfs}",
    "STR_*": "stgr/temporal_grounding/{videos,kfs}",
    "TVG_*": "tvg_r1",
    "timerft": "timerft",
    "TreeVGR": "treevgr",
    "gqa": "gqa",
    "videoespresso_train_video": "videoespresso/{videos,kfs}",
    "videor1*": "videor1",
}

_TIDY = re.compile(r"(?:(?!\.{1,2}/)[^/\0]+/)*(?!\.{1,2}$)[^/\0]+")
_FOLDERS = re.compile(r"([^{}]*)\{([^{},]+),([^{},]+)\}")


def read_source_map(path: Path | None) -> dict[str, str]:
    """A map of a user's own from YAML, `pattern: folder` a line; empty without a file.

    Raises FileNotFoundError, and ValueError unless it holds text by text.
    """
    if path is None:
        return {}
    if not path.is_file():
        raise FileNotFoundError(f"there is no map of sources at {path}")
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"the map of sources {path} is no YAML: {error}") from error
    if not isinstance(found, dict) or not all(
        isinstance(word, str) for pair in found.items() for word in pair
    ):
        raise ValueError(
            f"the map of sources {path} must hold lines `pattern: folder`, such as "
            "'STR_plm*: stgr/plm/{videos,kfs}'"
        )
    return found


class MediaRoots:
    """Where the files of a source lie below the media root; first match wins, own ones first."""

    def __init__(self, own: Mapping[str, str]):
        self._roots = [
            (pattern, *_folders(pattern, root))
            for pattern, root in (dict(own) | _rest(own)).items()
        ]
        self._found: dict[str, tuple[str, str]] = {}  # by source

    def media(self, source: str, path: str) -> str:
        """The media file of a record of `source`. Raises MediaError if it leaves the root."""
        return _below(self._find(source)[0], path)

    def key_frame(self, source: str, path: str) -> str:
        """The image of a key frame, likewise."""
        return _below(self._find(source)[1], path)

    def _find(self, source: str) -> tuple[str, str]:
        if source not in self._found:
            fitting = (folders for pattern, *folders in self._roots if fnmatchcase(source, pattern))
            media, key_frames = next(fitting, ("", ""))
            self._found[source] = media, key_frames
        return self._found[source]


def _rest(own: Mapping[str, str]) -> dict[str, str]:
    return {pattern: root for pattern, root in SOURCES.items() if pattern not in own}


def _folders(pattern: str, root: str) -> tuple[str, str]:
    match = _FOLDERS.fullmatch(root)
    folders = (match[1] + match[2], match[1] + match[3]) if match else (root, root)
    for folder in folders:
        if "{" in folder or "}" in folder or _leaves(folder):
            raise ValueError(
                f"media folder of source {pattern!r} is {root!r}; it must be a path below the "
                "media root, such as 'gqa' or 'stgr/plm/{videos,kfs}'"
            )
    return folders


def _below(folder: str, path: str) -> str:
    """`folder/path`, tidied. Raises MediaError if the path is absolute or climbs out."""
    if _TIDY.fullmatch(path) and (not folder or _TIDY.fullmatch(folder)):
        return f"{folder}/{path}" if folder else path
    joined = posixpath.normpath(posixpath.join(folder, path))
    if _leaves(path) or _leaves(joined) or "\0" in path:
        raise MediaError(path, "path leaves the media root")
    return joined


def _leaves(path: str) -> bool:
    return path.startswith("/") or posixpath.normpath(path).split("/")[0] == ".."
