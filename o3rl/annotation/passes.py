"""A pass: one stage over all items, stopped and resumed, its outcomes kept in Parquet.

Laws: an outcome is in a part file whole or not at all, and an item with one is not worked on again.
An item that the endpoint failed has none: it is left for the next run, and counted. Replies that
were paid for are kept by the endpoint, so what is killed between two parts pays for no second one.
"""

import json
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from o3rl.chat_endpoint import EndpointFailed, EndpointRefused
from o3rl.concurrency import gather_first_error
from o3rl.data.stgr import Counted, count
from o3rl.files import write_bytes
from o3rl.media.decoder import MediaUnready
from o3rl.tracking.metrics_log import append_lines, drop_torn_line

PART = 64  # outcomes a file
LEFT = "left"  # for the next run, as a watcher is told
MADE_BY = b"o3rl.build"
UNUSABLE = frozenset({401, 403, 404})  # statuses with which an endpoint refuses everything
_SCHEMA = {"id": pa.string(), "reason": pa.string(), "example": pa.string(), "record": pa.string()}

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an item: its record, and why it was dropped (empty: it goes on)."""

    id: str
    record: Record
    reason: str = ""
    example: str = ""


@dataclass
class StagePass:
    """The outcomes of one stage in `folder`; `made_by` tells whose: of which model and prompts."""

    folder: Path
    made_by: str
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    left: dict[str, Counted] = field(default_factory=dict)  # for the next run, by reason
    _new: list[Outcome] = field(default_factory=list)

    def __post_init__(self):
        for path in sorted(self.folder.glob("part-*.parquet")):
            with pq.ParquetFile(path) as file:
                found = (file.schema_arrow.metadata or {}).get(MADE_BY, b"").decode()
                if found != self.made_by:
                    raise ValueError(
                        f"{path} was built by another model, prompts or settings: "
                        f"name another --out, or delete {self.folder.parent}"
                    )
                for each in file.read().to_pylist():
                    each["record"] = json.loads(each["record"])
                    self.outcomes[each["id"]] = Outcome(**each)

    async def run(
        self,
        items: Iterable[Record],
        work: Callable[[Record], Awaitable[Outcome]],
        *,
        at_once: int,
        patience: int,
        advance: Callable[[str], None],
    ) -> None:
        """Work on every item that has no outcome, `at_once` at a time.

        Raises EndpointRefused where the endpoint refuses everything, and EndpointFailed after
        `patience` failures in a row; what was done is kept.
        """
        waiting = self._waiting(items, advance)
        failures, ended = 0, list[Exception]()

        async def worker() -> None:
            nonlocal failures
            for item in waiting:
                try:
                    outcome = await work(item)
                except (EndpointFailed, EndpointRefused, MediaUnready) as error:
                    failures += 1
                    count(self.left, _short(error), f"{item['id']}: {error}")
                    advance(LEFT)
                    if failures >= patience or getattr(error, "status", 0) in UNUSABLE:
                        ended.append(error)
                else:
                    failures = 0
                    self._add(outcome)
                    advance(outcome.reason)
                if ended:  # the others finish what is paid for
                    return

        try:
            await gather_first_error(worker() for _ in range(at_once))
        finally:
            self._flush()
        if ended:
            raise ended[0]

    def kept(self, items: Iterable[Record]) -> Iterator[Record]:
        """The records that go on, in the order of `items`."""
        for item in items:
            outcome = self.outcomes.get(item["id"])
            if outcome is not None and not outcome.reason:
                yield outcome.record

    def dropped(self, items: Iterable[Record]) -> Iterator[Outcome]:
        """The outcomes of items that were dropped here, in the order of `items`."""
        for item in items:
            outcome = self.outcomes.get(item["id"])
            if outcome is not None and outcome.reason:
                yield outcome

    def _waiting(self, items: Iterable[Record], advance: Callable[[str], None]) -> Iterator[Record]:
        for item in items:
            if item["id"] in self.outcomes:
                advance("")
            else:
                yield item

    def _add(self, outcome: Outcome) -> None:
        self.outcomes[outcome.id] = outcome
        self._new.append(outcome)
        if len(self._new) >= PART:
            self._flush()

    def _flush(self) -> None:
        if not self._new:
            return
        columns: dict[str, list[str]] = {
            "id": [each.id for each in self._new],
            "reason": [each.reason for each in self._new],
            "example": [each.example for each in self._new],
            "record": [json.dumps(each.record) for each in self._new],
        }
        fields = [pa.field(name, kind, nullable=False) for name, kind in _SCHEMA.items()]
        schema = pa.schema(fields, metadata={MADE_BY: self.made_by.encode()})
        out = pa.BufferOutputStream()
        pq.write_table(pa.table(columns, schema=schema), out, compression="zstd")
        number = len(list(self.folder.glob("part-*.parquet")))
        write_bytes(self.folder / f"part-{number:05d}.parquet", out.getvalue().to_pybytes())
        self._new.clear()


@dataclass
class Spending:
    """What each answer of an endpoint cost, a line each, so that no kill loses it."""

    path: Path

    def __post_init__(self):
        drop_torn_line(self.path)

    def spend(self, stage: str, reason: str, costs: Mapping[str, int]) -> None:
        """One answer over HTTP; `reason` says why it was of no use."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        append_lines(self.path, [json.dumps({"stage": stage, "reason": reason, **costs})])

    def totals(self) -> dict[str, dict[str, int]]:
        """By stage: answers, those of no use, tokens in and out."""
        found: dict[str, dict[str, int]] = {}
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        for line in text.splitlines():
            with suppress(ValueError):  # the last line of what was killed
                spent = json.loads(line)
                of = found.setdefault(
                    spent["stage"],
                    dict.fromkeys(("answers", "unusable", "prompt_tokens", "completion_tokens"), 0),
                )
                of["answers"] += 1
                of["unusable"] += bool(spent["reason"])
                for key in ("prompt_tokens", "completion_tokens"):
                    of[key] += spent[key]
        return found


def _short(error: Exception) -> str:
    if isinstance(error, EndpointRefused):
        return f"refused with status {error.status}"
    return error.reason if isinstance(error, EndpointFailed) else "no reader of media starts"
