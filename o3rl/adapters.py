"""Where records come from: STGR's JSON, or a user's own function for data of another form.

    def adapter(source: Path) -> Iterable[Mapping[str, object]]

It is given the FILE (or folder) of `o3rl data import FILE --adapter module:function` and gives one
mapping a row in STGR's keys: `id, task, question, answer, video_path` (or `image_path` and
`image_size`), and where the task has them `source, key_frames, key_items, reasoning_process`. Paths
are below the media root. Rows are taken one by one, so a generator needs little memory. What it
cannot make a row of it gives as `BadRecord(reason, where)`, which is counted like any other.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from o3rl.functions import load_function, place_of

Adapter = Callable[[Path], Iterable[object]]


def load_adapter(target: str) -> Adapter:
    """The function that `module:function` names, its faults told as ValueError with their place.

    Raises ValueError if it cannot be imported, is no function, or gives no rows one can go through.
    """
    where = f"adapter {target!r}"
    hint = ": install it, or set PYTHONPATH to its folder"
    function = load_function(target, where=where, hint=hint)

    def records(source: Path) -> Iterator[object]:
        count = 0
        try:
            for record in function(source):
                yield record
                count += 1
        except Exception as error:
            raise ValueError(
                f"{where} raised {type(error).__name__} at {place_of(error)} after {count} "
                f"records: {error!s:.300}"
            ) from error

    return records
