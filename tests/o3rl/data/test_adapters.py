"""A user's own data set: the example of the docs, what a wrong adapter is told, bounded memory."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from o3rl.data.json_records import load_adapter
from o3rl.data.parquet import read_rows
from o3rl.data.stgr import import_file
from o3rl.types import Task

PAGE = (Path(__file__).parents[3] / "docs" / "data.md").read_text()


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module of this source where it can be imported; its name."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(source: str, name: str = "my_data") -> str:
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return name

    return write


def test_the_example_of_the_docs(module, tmp_path):
    name = module(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0])
    source = tmp_path / "clips.csv"
    source.write_text(
        "clip,question,start,end\nc/1.mp4,When does it rain?,2.5,8\nc/2.mp4,When?,soon,9\n"
    )
    report = import_file(source, tmp_path / "out", adapter=load_adapter(f"{name}:clips"))
    assert (report.read, report.rows) == (2, 1)
    [row] = read_rows(tmp_path / "out")
    assert (row.task, row.media, row.truth.interval) == (Task.TEMPORAL, "c/1.mp4", (2.5, 8.0))
    assert {reason: each.example for reason, each in report.rejected.items()} == {
        "no times": "line 3 of clips.csv"
    }


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("", "my_data", "must read module:function"),
        ("", "nowhere_at_all:f", r"No module named 'nowhere_at_all'.*PYTHONPATH"),
        ("f = 3", "my_data:f", "has no function or class 'f'"),
        ("def f(source): return 3", "my_data:f", "raised TypeError at .* after 0 records"),
        (
            "def f(source):\n    yield {}\n    raise KeyError('clip')",
            "my_data:f",
            r"raised KeyError at .*my_data.py:3 after 1 records: 'clip'",
        ),
    ],
)
def test_what_a_wrong_adapter_is_told(module, tmp_path, source, target, message):
    module(source)
    with pytest.raises(ValueError, match=message):
        import_file(tmp_path, tmp_path / "out", adapter=load_adapter(target))


def test_a_large_file_needs_little_memory(tmp_path):
    """Resident memory, Arrow's included, while 100 MB are imported as a list and as lines."""
    record = {"task": "General video QA Free-form", "question": "What?", "answer": "Two.",
              "video_path": "v.mp4", "unused": "x" * 20_000}  # fmt: skip
    lines = [json.dumps(record | {"id": str(i)}) for i in range(2500)]
    (tmp_path / "list.json").write_text(f"[{','.join(lines)}]")
    (tmp_path / "lines.jsonl").write_text("\n".join(lines))
    code = (
        "import resource, sys\nfrom pathlib import Path\nfrom o3rl.data.stgr import import_file\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "out = Path(sys.argv[1])\n"
        "(out / 'one.jsonl').write_text((out / 'lines.jsonl').open().readline())\n"
        "import_file(out / 'one.jsonl', out / 'a')\nbefore = peak()\n"
        "rows = [import_file(out / n, out / 'a').rows for n in ('list.json', 'lines.jsonl')]\n"
        "sys.stdout.write(f'{rows[0]} {rows[1]} {(peak() - before) // 1024}')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    first, second, mebibytes = map(int, done.stdout.split())
    assert (first, second) == (2500, 2500)
    assert mebibytes < 24
