"""Processes of this machine, found by a mark in the environment that they inherited."""

import os
import signal
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path


def carrying(name: str, value: str) -> Iterator[int]:
    """Those that live and in whose environment the variable `name` has this value."""
    mark = f"{name}={value}".encode()
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            alive = path.joinpath("stat").read_text().rpartition(")")[2].split()[0] != "Z"
            if alive and mark in path.joinpath("environ").read_bytes().split(b"\0"):
                yield int(path.name)


def title_of(pid: int) -> str:
    """What it was started with, or calls itself; empty where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


def session_of(pid: int) -> int:
    """Its session's leader; -1 where it has ended."""
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return -1


def kill(pids: Iterable[int]) -> None:
    """At once, those that still live."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def free_port() -> int:
    """Of this machine, for a server that is started at once."""
    with socket.socket() as found:
        found.bind(("", 0))
        return found.getsockname()[1]
