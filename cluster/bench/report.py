"""What a benchmark prints: its report, and nothing of the libraries that it runs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def only_the_report() -> Iterator[None]:
    """What libraries and their processes print meanwhile goes to standard error."""
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
