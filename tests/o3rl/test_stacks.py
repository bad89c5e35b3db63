"""Stacks of a frozen process, and of none."""

import os
import signal
import subprocess
import sys

from o3rl.stacks import stacks_of

CODE = """
import sys, time

def wait_for_nothing():
    print("ready", flush=True)
    time.sleep(60)

wait_for_nothing()
"""


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
