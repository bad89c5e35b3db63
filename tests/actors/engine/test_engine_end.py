"""What an ended engine leaves to the end of its process: nothing to be said."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

# Held by what outlives vLLM's modules, as an engine in a cycle is; it was never started.
HELD = """
import builtins
from actors.engine.engine import Llm

builtins.held = Llm.__new__(Llm)
builtins.held.shutdown()
"""


def test_nothing_is_said_when_python_ends():
    done = subprocess.run(
        [sys.executable, "-c", HELD],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=550,
    )
    assert done.returncode == 0, done.stderr
    assert "AsyncLLM" not in done.stderr
