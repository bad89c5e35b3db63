"""What became of every prompt that was admitted: trained at which version, or set aside and why.

An audit reads it: each row of an epoch is trained once or listed with its reason. Kept in memory,
written as Parquet at each checkpoint and at the end.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from o3rl.types import Prompt, Version

ADMITTED, TRAINED, SET_ASIDE, SKIPPED = "admitted", "trained", "set aside", "skipped"

_SCHEMA = pa.schema(
    [
        ("group", pa.int64()),
        ("row", pa.string()),
        ("attempts", pa.int64()),
        ("outcome", pa.string()),
        ("incarnation", pa.int64()),
        ("version", pa.int64()),
        ("reason", pa.string()),
        ("epoch", pa.int64()),
    ]
)


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One prompt. `version` is the one whose update trained it; -1 before. Epochs are from 0."""

    group: int
    row: str
    attempts: int = 1
    outcome: str = ADMITTED
    incarnation: int = -1
    version: int = -1
    reason: str = ""
    epoch: int = 0


class Ledger:
    """The entries of a run by group number."""

    def __init__(self, entries: Iterable[LedgerEntry] = ()):
        self._entries = {entry.group: entry for entry in entries}

    def admit(self, prompt: Prompt, *, epoch: int = 0) -> None:
        """A prompt's first attempt. A group number names one prompt only."""
        assert prompt.group not in self._entries, f"group {prompt.group} is admitted twice"
        self._entries[prompt.group] = LedgerEntry(prompt.group, prompt.row.id, epoch=epoch)

    def retry(self, prompt: Prompt, reason: str) -> None:
        """Another attempt begins; `reason` says why the last one ended."""
        self._change(prompt.group, attempts=prompt.attempt + 1, reason=reason)

    def set_aside(self, prompt: Prompt, reason: str) -> None:
        """Given up after its last attempt."""
        self._change(prompt.group, outcome=SET_ASIDE, reason=reason)

    def skip(self, group: int, row: str, reason: str, *, epoch: int = 0) -> None:
        """A row that made no prompt: its media could not be read, or it was unfit."""
        assert group not in self._entries, f"group {group} is admitted already"
        self._entries[group] = LedgerEntry(group, row, 0, SKIPPED, reason=reason, epoch=epoch)

    def reopen(self, groups: Iterable[int]) -> None:
        """Forget prompts that a resumed run admits again."""
        for group in groups:
            self._entries.pop(group, None)

    def train(self, prompts: Iterable[Prompt], version: Version) -> None:
        """Trained by the update that made `version`."""
        for prompt in prompts:
            assert self._entries[prompt.group].outcome == ADMITTED, self._entries[prompt.group]
            self._change(
                prompt.group, outcome=TRAINED, incarnation=version.incarnation, version=version.n
            )

    def counts(self) -> dict[str, int]:
        """Entries by outcome."""
        return dict(Counter(entry.outcome for entry in self._entries.values()))

    def rows_of(self, epoch: int) -> tuple[str, ...]:
        """The ids of the rows that an epoch has used so far, skipped ones too, in their order."""
        return tuple(entry.row for entry in self.entries() if entry.epoch == epoch)

    def entries(self) -> tuple[LedgerEntry, ...]:
        """In order of group number."""
        return tuple(self._entries[group] for group in sorted(self._entries))

    def write(self, path: Path) -> None:
        """As Parquet, aside and renamed."""
        path.parent.mkdir(parents=True, exist_ok=True)
        table = pa.Table.from_pylist([asdict(entry) for entry in self.entries()], schema=_SCHEMA)
        aside = path.with_suffix(".writing")
        pq.write_table(table, aside, compression="zstd")
        aside.replace(path)

    @classmethod
    def read(cls, path: Path) -> "Ledger":
        """What `write` wrote."""
        return cls(LedgerEntry(**row) for row in pq.read_table(path, schema=_SCHEMA).to_pylist())

    def _change(self, group: int, **changes: object) -> None:
        self._entries[group] = replace(self._entries[group], **changes)  # pyright: ignore
