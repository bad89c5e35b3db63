"""A user's own functions and classes, named `module:name`."""

import importlib
import traceback
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any


def names_member(target: str) -> bool:
    """Whether it reads `module:name`."""
    module, _, name = target.partition(":")
    return bool(module and name)


def check_module(target: str, *, where: str) -> None:
    """Raises ValueError, `where` first, if the module of `target` is not there; loads none."""
    module = target.partition(":")[0]
    try:
        found = find_spec(module)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise ValueError(f"{where} is {target!r}; there is no module {module} on the Python path")


def load_function(target: str, *, where: str, hint: str) -> Callable[..., Any]:
    """The function, or class. Raises ValueError, `where` first, if there is none; `hint` is about
    the module.

    Whatever the module raises while it is imported is told as such an error, with its place.
    """
    if not names_member(target):
        raise ValueError(f"{where} must read module:function")
    module, _, name = target.partition(":")
    try:
        function = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise ValueError(f"{where}: {error}; the module must be importable{hint}") from error
    except Exception as error:  # a user's module may raise anything
        raise ValueError(
            f"{where}: importing {module} raised {type(error).__name__} at {place_of(error)}: "
            f"{error!s:.300}"
        ) from error
    if not callable(function):
        raise ValueError(f"{where}: {module} has no function or class {name!r}")
    return function


def place_of(error: Exception) -> str:
    """File and line where it was raised."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{last.filename}:{last.lineno}"
