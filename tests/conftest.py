"""For all tests: `gpu` ones skip with a reason where there is none; randomness starts anew each."""

import random
import shutil
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
from hypothesis import settings

settings.register_profile("o3rl", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("o3rl")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked `gpu` on a machine without one."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    reason = why_no_gpu() if marked else ""
    if reason:
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=reason))


@cache
def why_no_gpu() -> str:
    """Empty if an NVIDIA GPU answers; torch is not imported for it."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return "needs an NVIDIA GPU: there is no nvidia-smi"
    try:
        found = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=30)
    except subprocess.TimeoutExpired:
        return "needs an NVIDIA GPU: nvidia-smi did not answer in 30 s"
    if found.returncode or "GPU" not in found.stdout:
        return f"needs an NVIDIA GPU: {(found.stderr or found.stdout).strip() or 'none listed'}"
    return ""


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Python's, numpy's and, where it is loaded, torch's random numbers."""
    random.seed(0)
    np.random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)
