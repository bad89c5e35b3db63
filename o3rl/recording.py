"""Batches on disk: what a learner was given, so that it can be given it again without engines.

    DIR/step-000001.json.gz      the scored groups of step 1, as they came to the learner

Plain JSON: prompts, tokens, log-probabilities, rewards, advantages. Frames are not in it; they are
decoded again from the media, and a learner refuses groups whose frames differ.
"""

import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import TypeAdapter

from o3rl.files import write_bytes
from o3rl.flow import ScoredGroup, Version

_GROUPS: TypeAdapter[list[ScoredGroup]] = TypeAdapter(list[ScoredGroup])


class Recording:
    """An observer of the loop that writes each batch into `folder`."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    async def stepped(
        self, step: int, version: Version, groups: Sequence[ScoredGroup], metrics: dict[str, float]
    ) -> None:
        """Write the batch of `step`, over one that an earlier attempt at it wrote."""
        del version, metrics
        write_batch(self._folder, step, groups)


def write_batch(folder: Path, step: int, groups: Sequence[ScoredGroup]) -> None:
    """Aside and renamed. A claimed time may be NaN, which JSON as Python writes it can hold."""
    text = json.dumps(_GROUPS.dump_python(list(groups)))
    write_bytes(_path(folder, step), gzip.compress(text.encode(), mtime=0))


def read_batches(folder: Path) -> Iterator[tuple[int, list[ScoredGroup]]]:
    """(step, groups), from step 1 on.

    Raises FileNotFoundError where there is none or one is missing between others, ValueError for
    a file that holds something else; both name it.
    """
    steps = sorted(int(path.name[5:11]) for path in folder.glob("step-??????.json.gz"))
    if not steps:
        raise FileNotFoundError(
            f"{folder} holds no recorded batch; `o3rl train --record` writes them"
        )
    for step in range(1, steps[-1] + 1):
        path = _path(folder, step)
        if step not in steps:
            raise FileNotFoundError(f"{path} is missing; a replay needs every step before the last")
        try:
            yield step, _GROUPS.validate_python(json.loads(gzip.decompress(path.read_bytes())))
        except (OSError, EOFError, ValueError) as error:
            raise ValueError(f"{path} is no recorded batch: {error}") from error


def _path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:06d}.json.gz"
