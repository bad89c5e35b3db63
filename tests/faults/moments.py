"""When `make faults` strikes: at any moment of a step, or in the middle of what a run must
never be found to have done by half.

Moments are chosen from outside, by what lies in the run's folder: nothing in the run knows of it.
"""

import random
import time
from pathlib import Path

from cluster.services.weight_store import MANIFEST

MOMENTS = ("any", "checkpoint", "publication")
STEP_SECONDS = 1.0  # "any": so long at most after the run is whole again
FILE_SECONDS = 0.01  # that a file's time may lag behind the clock
POLL_SECONDS = 0.005


class Moment:
    """The moment `name` of the run in `folder`, from now on.

    | moment        | is here                                                                 |
    |---------------|-------------------------------------------------------------------------|
    | `any`         | after a random part of `STEP_SECONDS`                                   |
    | `checkpoint`  | while one is written, before it gets its name                           |
    | `publication` | while the weight store takes a version, before that is readable         |
    """

    def __init__(self, name: str, folder: Path, *, luck: random.Random):
        self.name = name
        self._folder = folder
        self._began = time.time()
        self._after = self._began + luck.uniform(0.0, STEP_SECONDS)

    def is_here(self) -> bool:
        """Whether it is now. What an earlier strike has left half done does not count."""
        if self.name == "checkpoint":
            begun = self._folder.glob("checkpoints/*.writing")
            return any(self._is_new(path) for path in begun)
        if self.name == "publication":
            versions = self._folder.glob("weights/*")
            return any(not (v / MANIFEST).exists() and self._is_new(v) for v in versions)
        return time.time() >= self._after

    def _is_new(self, path: Path) -> bool:
        try:
            return path.stat().st_mtime >= self._began - FILE_SECONDS
        except FileNotFoundError:  # it has got its name, or was dropped
            return False
