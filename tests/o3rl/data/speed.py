"""Rows that import accepts in a second of CPU, of a file in the form of `STGR-RL.json`."""

import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from o3rl.data.parquet import read_rows
from o3rl.data.stgr import import_file
from rewards.own_target import unearned
from tests.o3rl.data.published import records


def main(count: int = 100_000) -> None:
    """Make so many records, import them, read them back; tell what it took."""
    with TemporaryDirectory() as folder:
        source, out = Path(folder, "STGR-RL.json"), Path(folder, "rows")
        source.write_text(json.dumps(list(records(count, sft=False))))
        start = time.process_time()
        report = import_file(source, out, unearned=unearned())
        imported = time.process_time() - start
        assert report.rows == count
        start = time.process_time()
        assert len(read_rows(out)) == count
        read = time.process_time() - start
    sys.stdout.write(
        f"imported: {count / imported:.0f} rows a CPU second; read back: {read:.2f} CPU seconds\n"
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
