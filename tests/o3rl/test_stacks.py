"""Stacks of a frozen process, and of none."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from o3rl.stacks import stacks_of

CODE = """
import sys, time

def wait_for_nothing():
    print("ready", flush=True)
    time.sleep(60)

wait_for_nothing()
"""


def may_look() -> bool:
    """Whether a process may read one that it has not started itself: Yama lets root alone."""
    yama = Path("/proc/sys/kernel/yama/ptrace_scope")
    return os.geteuid() == 0 or not yama.exists() or yama.read_text().strip() == "0"


@pytest.mark.skipif(not may_look(), reason="Yama keeps users from looking at other processes")
def test_a_frozen_process_shows_where_it_is():
    process = subprocess.Popen([sys.executable, "-c", CODE], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        os.kill(process.pid, signal.SIGSTOP)
        assert "wait_for_nothing (<string>:" in stacks_of(process.pid)
    finally:
        process.kill()
        process.communicate()


def test_a_process_that_is_not_there_is_told_in_a_line():
    told = stacks_of(2**22 + 1)  # beyond what Linux gives out
    assert told.startswith("its stacks cannot be had: ")
    assert "\n" not in told
