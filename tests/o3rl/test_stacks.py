"""Stacks of a frozen process, and of none."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from o3rl import stacks
from o3rl.stacks import dump_stacks, log_stacks

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
        assert "wait_for_nothing (<string>:" in dump_stacks(process.pid)
    finally:
        process.kill()
        process.communicate()


def test_a_process_that_is_not_there_is_told_in_a_line():
    told = dump_stacks(2**22 + 1)  # beyond what Linux gives out
    assert told.startswith("its stacks cannot be had: ")
    assert "\n" not in told


def test_stacks_are_told_and_so_is_why_there_are_none(caplog, monkeypatch):
    monkeypatch.setattr(stacks, "ELSEWHERE_SECONDS", 0.05)

    async def told() -> str:
        return "in main"

    async def lost() -> str:
        raise ConnectionError("the node is gone\nand more")

    async def slow() -> str:
        await asyncio.sleep(60)
        return "too late"

    for source in (told, lost, slow):
        asyncio.run(log_stacks(source.__name__, source()))
    assert caplog.messages == [
        "told says nothing; it is here:\nin main",
        "lost says nothing; it is here:\nits stacks cannot be had: "
        "ConnectionError the node is gone",
        "slow says nothing; it is here:\nits stacks cannot be had: TimeoutError ",
    ]
