"""The one way to refuse a value: by name, value and rule; at once, or all of them together."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_noted: ContextVar[list[str] | None] = ContextVar("noted", default=None)


def require(ok: bool, name: str, value: object, rule: str) -> None:
    """Raise ValueError with name, value and rule unless `ok`; within `noted`, note it instead."""
    if ok:
        return
    problem = f"{name} is {value!r}; it must be {rule}"
    problems = _noted.get()
    if problems is None:
        raise ValueError(problem)
    problems.append(problem)


@contextmanager
def noted() -> Iterator[list[str]]:
    """All that `require` finds wrong within the block, where else the first would be raised."""
    problems: list[str] = []
    before = _noted.set(problems)
    try:
        yield problems
    finally:
        _noted.reset(before)


def all_right() -> bool:
    """Whether nothing was noted so far; always outside `noted`."""
    return not _noted.get()
