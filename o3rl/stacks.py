"""What a process that says nothing is doing: its Python stacks, read from outside. No Ray here."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

SECONDS = 5.0  # to read them; it takes a few hundredths
ELSEWHERE_SECONDS = 15.0  # for who asks the process's node for them


def stacks_of(pid: int) -> str:
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
