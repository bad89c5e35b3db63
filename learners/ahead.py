"""Work done one item ahead, in a thread, while the caller is busy with the item before it."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """`work` of each item, in order; an error comes where its result would have.

    One thread, so that `work` is never called twice at once; `work` bounds its own waits.
    """
    coming: Future[Result] | None = None
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as thread:
        for item in items:
            following = thread.submit(work, item)
            if coming is not None:
                yield coming.result()
            coming = following
        if coming is not None:
            yield coming.result()
