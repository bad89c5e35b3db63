"""A user's own function, named `module:function`."""

import importlib
import traceback
from collections.abc import Callable
from typing import Any


def load_function(target: str, *, where: str, hint: str) -> Callable[..., Any]:
    """The function. Raises ValueError, `where` first, if there is none; `hint` is about the module.

    Whatever the module raises while it is imported is told as such an error, with its place.
    """
    module, separator, name = target.partition(":")
    if not (module and separator and name):
        raise ValueError(f"{where} must read module:function")
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
        raise ValueError(f"{where}: {module} has no function {name!r}")
    return function


def place_of(error: Exception) -> str:
    """File and line where it was raised."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{last.filename}:{last.lineno}"
