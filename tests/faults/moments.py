"""When `make faults` strikes: at any moment of a step, or in the middle of what a run must
never be found to have done by half.

Moments are chosen from outside, by what lies in the run's folder and in the node's memory: nothing
in the run knows of it.
"""

import random
import tempfile
import time
from pathlib import Path

from actors.weights.node_cache import MADE, PREFIX

MOMENTS = ("any", "checkpoint", "publication")
STEP_SECONDS = 1.0  # "any": so long at most after the run is whole again
FILE_SECONDS = 0.01  # that a file's time may lag behind the clock
POLL_SECONDS = 0.005
ROOTS = (Path("/dev/shm"), Path(tempfile.gettempdir()))  # where replicas put what they pull


class Moment:
    """The moment `name` of the run in `folder`, from now on.

    | moment        | is here                                                                 |
    |---------------|-------------------------------------------------------------------------|
    | `any`         | after a random part of `STEP_SECONDS`                                   |
    | `checkpoint`  | while one is written, before it gets its name                           |
    | `publication` | while a replica pulls a version from the weight store                   |
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
            pulled = [folder for root in ROOTS for folder in root.glob(f"{PREFIX}*")]
            return any(not (each / MADE).exists() and self._is_new(each) for each in pulled)
        return time.time() >= self._after

    def _is_new(self, path: Path) -> bool:
        try:
            return path.stat().st_mtime >= self._began - FILE_SECONDS
        except FileNotFoundError:  # it has got its name, or was dropped
            return False
