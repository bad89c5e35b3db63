"""A data set to look at: imported rows in Parquet, or a file that was not imported yet."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from o3rl.flow import Row
from o3rl.json_records import read_records
from o3rl.stgr import Counted, ImportReport, accepted_rows
from o3rl.store import each_row


def open_rows(
    source: Path,
    *,
    adapter: Callable[[Path], Iterable[object]] | None = None,
    source_map: Mapping[str, str] | None = None,
) -> tuple[Iterator[Row], ImportReport]:
    """The rows of `source`, one by one, and the report that is complete when they are used up.

    A folder is a data set, and its report that of its import; a file, or what `adapter` makes of
    it, goes through what import asks of it. Raises as `import_file` and `read_rows`.
    """
    if source.is_dir() and adapter is None:
        return each_row(source), _report_of_import(source)
    report = ImportReport(source=str(source))
    records = (adapter or read_records)(source)
    return _counted(accepted_rows(records, report, source_map=source_map), report), report


def _counted(rows: Iterator[Row], report: ImportReport) -> Iterator[Row]:
    for row in rows:
        report.rows += 1
        yield row


def _report_of_import(folder: Path) -> ImportReport:
    """What `import.json` beside the rows says; empty but for the name where it is not there."""
    path = folder / "import.json"
    if not path.is_file():
        return ImportReport(source=str(folder))
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        for name in ("rejected", "mended"):
            said[name] = {reason: Counted(**counted) for reason, counted in said[name].items()}
        return ImportReport(**said)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path} is no report of an import ({error}): run `o3rl data import` again"
        ) from error
