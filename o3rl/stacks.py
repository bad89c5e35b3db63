"""What a process that says nothing is doing: its Python stacks, read from outside. No Ray here."""

import asyncio
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable
from pathlib import Path

SECONDS = 5.0  # to read them; it takes a few hundredths
ELSEWHERE_SECONDS = 15.0  # for who asks the process's node for them

log = logging.getLogger(__name__)


def dump_stacks(pid: int) -> str:
    """The stack of each thread of a Python process on this machine, by py-spy (Ray brings it).

    The process need not run: one that is frozen has stacks too. Where they cannot be had, as in a
    container without the right to look at other processes, one line says why.
    """
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    spy = shutil.which("py-spy", path=places) or "py-spy"
    command = [spy, "dump", "--nonblocking", "--pid", str(pid)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"its stacks cannot be had: {error}"
    if done.returncode:
        return f"its stacks cannot be had: {' '.join(done.stderr.split())[:200]}"
    return done.stdout.strip()


async def log_stacks(who: str, stacks: Awaitable[str]) -> None:
    """Log what `who`, a process that says nothing, is doing: `stacks` are its node's to give."""
    try:
        told = await asyncio.wait_for(stacks, ELSEWHERE_SECONDS)
    except Exception as error:  # its node may be lost too, in any of the ways that Ray has for it
        cause = getattr(error, "cause", None) or error
        line = next(iter(str(cause).splitlines()), "")
        told = f"its stacks cannot be had: {type(cause).__name__} {line}"
    log.warning("%s says nothing; it is here:\n%s", who, told)
