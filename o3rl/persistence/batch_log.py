"""Batches on disk: what a learner was given, so that it can be given it again without engines.

    DIR/step-000001.json.gz      the scored groups of step 1, as they came to the learner

Plain JSON: prompts, tokens, log-probabilities, rewards, advantages. Frames are not in it; they are
decoded again from the media, and a learner refuses groups whose frames differ.
"""

import asyncio
import gzip
import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter

from o3rl.files import write_bytes
from o3rl.types import ScoredGroup, Version

_GROUPS: TypeAdapter[list[ScoredGroup]] = TypeAdapter(list[ScoredGroup])


class Recording:
    """An observer of the loop that writes each batch into `folder`.

    A run that goes on `after` a step drops what was recorded later. Raises ValueError where a run
    that begins (`after` is None) would mix with another one's batches.
    """

    def __init__(self, folder: Path, *, after: int | None = None):
        folder.mkdir(parents=True, exist_ok=True)
        steps = _steps(folder)
        if steps and after is None:
            raise ValueError(f"--record {folder} holds batches of another run; name a new folder")
        for step in steps:
            if after is not None and step > after:
                _path(folder, step).unlink()
        self._folder = folder

    async def stepped(
        self, step: int, version: Version, groups: Sequence[ScoredGroup], metrics: dict[str, float]
    ) -> None:
        """Write the batch of `step`."""
        del version, metrics
        await asyncio.to_thread(_write, _path(self._folder, step), groups)


def recorded_steps(folder: Path) -> int:
    """How many batches lie there.

    Raises FileNotFoundError where there is none, or one is missing before the last.
    """
    steps = _steps(folder)
    if not steps:
        raise FileNotFoundError(f"{folder} holds no batch; `o3rl train --record` writes them")
    for step in range(1, steps[-1] + 1):
        if step not in steps:
            raise FileNotFoundError(f"{_path(folder, step)} is missing, and later ones are there")
    return steps[-1]


def read_batch(folder: Path, step: int) -> list[ScoredGroup]:
    """The groups of `step`. Raises ValueError for a file that holds something else."""
    path = _path(folder, step)
    try:
        return _GROUPS.validate_python(json.loads(gzip.decompress(path.read_bytes())))
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"{path} is no recorded batch: {error}") from error


def _write(path: Path, groups: Sequence[ScoredGroup]) -> None:
    """A claimed time may be NaN, which JSON as Python writes it can hold."""
    text = json.dumps(_GROUPS.dump_python(list(groups)))
    write_bytes(path, gzip.compress(text.encode(), compresslevel=1, mtime=0))


def _steps(folder: Path) -> list[int]:
    return sorted(int(path.name[5:11]) for path in folder.glob("step-??????.json.gz"))


def _path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:06d}.json.gz"
