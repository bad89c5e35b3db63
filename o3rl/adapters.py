"""Where records come from: STGR's JSON, or a user's own function for data of another form.

    def adapter(source: Path) -> Iterable[Mapping[str, object]]

It is given the FILE (or folder) of `o3rl data import FILE --adapter module:function` and gives one
mapping a row in STGR's keys: `id, task, question, answer, video_path` (or `image_path` and
`image_size`), and where the task has them `source, key_frames, key_items, reasoning_process`. Paths
are below the media root. Rows are taken one by one, so a generator needs little memory. What it
cannot make a row of it gives as `BadRecord(reason, where)`, which is counted like any other.
"""

import importlib
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

Adapter = Callable[[Path], Iterable[object]]


def load_adapter(target: str) -> Adapter:
    """The function that `module:function` names, its faults told as ValueError with their place.

    Raises ValueError if it cannot be imported, is no function, or gives no rows one can go through.
    """
    where = f"adapter {target!r}"
    module, separator, attribute = target.partition(":")
    if not (module and separator and attribute):
        raise ValueError(f"{where} must read module:function")
    try:
        function: Adapter | None = getattr(importlib.import_module(module), attribute, None)
    except ImportError as error:
        raise ValueError(
            f"{where}: {error}; the module must be importable: install it, or set PYTHONPATH to "
            "its folder"
        ) from error
    except Exception as error:  # the user's module may raise anything
        raise ValueError(
            f"{where}: importing {module} raised {type(error).__name__} at {_place(error)}: "
            f"{error!s:.300}"
        ) from error
    if not callable(function):
        raise ValueError(f"{where}: {module} has no function {attribute!r}")

    def records(source: Path) -> Iterator[object]:
        count = 0
        try:
            for record in function(source):
                yield record
                count += 1
        except Exception as error:
            raise ValueError(
                f"{where} raised {type(error).__name__} at {_place(error)} after {count} records: "
                f"{error!s:.300}"
            ) from error

    return records


def _place(error: Exception) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{last.filename}:{last.lineno}"
