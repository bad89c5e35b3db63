"""The architecture as code: imports point inward, and each library is named where it may be."""

import ast
import subprocess
import sys
from collections import Counter
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "o3rl": set(),
    "rewards": {"o3rl"},
    "actors": {"o3rl", "rewards"},
    "learners": {"o3rl", "rewards"},
    "cluster": {"o3rl", "rewards", "actors", "learners"},
}
# Rooms of each folder, and the files beside them, from the inside out: each may import what stands
# before it. `docs/draw_rooms.py` draws them.
ROOMS = {
    "o3rl": (
        ("types", "files", "concurrency", "code_digest", "torch_backend", "stacks", "suggestion"),
        ("chat_endpoint",),
        ("config",),
        ("ray_calls",),
        ("text",),
        ("weights",),
        ("media",),
        ("data",),
        ("tracking",),
        ("persistence",),
        ("loop",),
        ("evaluation",),
        ("observers",),
        ("benchmarks", "annotation"),
        ("synth",),
    ),
    "rewards": (
        ("parts",),
        ("profiles",),
        ("scorer",),
        ("custom", "score_file", "own_target"),
        ("pool",),
    ),
    "actors": (("weights",), ("engine",), ("pool",)),
    "learners": (("model",), ("weights",), ("rank",), ("group",)),
    "cluster": (
        ("arguments", "outputs", "progress"),
        ("services",),
        ("run",),
        ("jobs",),
        ("bench", "plan"),
        ("commands",),
    ),
}
MAY_NAME = {  # libraries that only these folders import
    "ray": {"o3rl", "rewards", "actors", "learners", "cluster"},
    "vllm": {"actors"},
    "deepspeed": {"learners"},
    "trl": set(),
    "mlflow": {"o3rl", "cluster"},
}
LINES = 400
FILES = 12  # of a room
ATTICS = {"utils", "util", "helpers", "misc", "common", "base"}


def sources(*folders: str) -> list[Path]:
    found = [path.relative_to(ROOT) for folder in folders for path in (ROOT / folder).rglob("*.py")]
    assert found, folders
    return sorted(found)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(), str(path))


@cache
def ours(path: Path) -> frozenset[str]:
    """Modules of the project that a file imports, inside functions too, by their dotted names."""
    names: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return frozenset(names & MODULES.keys())


@cache
def imported(path: Path) -> frozenset[str]:
    """Top-level names of all imports of a file, those inside functions too."""
    names: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(path.parts[0] if node.level else str(node.module).split(".")[0])
    return frozenset(names)


LIBRARY = sources(*MAY_IMPORT)
MODULES = {".".join(path.with_suffix("").parts).removesuffix(".__init__"): path for path in LIBRARY}


def place(path: Path) -> int:
    """Of a file's room among those of its folder; a folder's own `__init__` is before all."""
    if path.parts[1] == "__init__.py":
        return -1
    room = path.parts[1].removesuffix(".py")
    places = [i for i, rooms in enumerate(ROOMS[path.parts[0]]) if room in rooms]
    assert len(places) == 1, f"{path} is in no room, or in two, of ROOMS"
    return places[0]


def test_rooms_import_what_stands_before_them():
    upward = [
        f"{path} imports {name}"
        for path in LIBRARY
        for name in ours(path)
        if MODULES[name].parts[0] == path.parts[0] and place(MODULES[name]) > place(path)
    ]
    assert upward == []


def test_no_import_goes_in_a_circle():
    graph = {name: ours(path) - {name} for name, path in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" ← ".join(error.args[1]))


def test_a_room_is_small_enough_to_look_around_in():
    rooms = Counter(path.parent for path in LIBRARY if path.name != "__init__.py")
    assert {room: count for room, count in rooms.items() if count > FILES} == {}


def test_imports_point_inward():
    wrong = {}
    for path in LIBRARY:
        home = path.parts[0]
        ours = imported(path) & (MAY_IMPORT.keys() | {"tests", "tools"})
        wrong[path] = ours - MAY_IMPORT[home] - {home}
    assert {path: names for path, names in wrong.items() if names} == {}


@pytest.mark.parametrize("name", MAY_NAME)
def test_a_library_is_imported_where_it_may_be(name):
    users = {path.parts[0] for path in LIBRARY if name in imported(path)}
    assert users <= MAY_NAME[name]


@pytest.mark.parametrize(
    ("folder", "files"),
    [
        ("o3rl", {"ray_calls.py"}),
        ("rewards", {"pool.py"}),
        ("actors", {"placement.py", "replica_fleet.py", "rollout_pool.py", "weight_sync.py"}),
        ("learners", {"learner_group.py"}),
    ],
)
def test_ray_is_imported_only_where_a_folder_pools(folder, files):
    assert {path.name for path in sources(folder) if "ray" in imported(path)} == files


@pytest.mark.parametrize(
    "module", ["cluster.services.wiring", "cluster.run.train", "tests.faults.fake_engine"]
)
def test_who_needs_no_torch_starts_without_it(module):
    """A controller answers to nobody while it imports, and each restart waits for that."""
    heavy = {"torch", "deepspeed", "vllm", "mlflow"}
    code = f"import sys, {module}; sys.exit(', '.join({heavy} & sys.modules.keys()) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_mlflow_is_imported_in_one_file_of_o3rl():
    assert len([path for path in sources("o3rl") if "mlflow" in imported(path)]) == 1


def test_the_library_never_prints():
    assert [
        f"{path}:{node.lineno}"
        for path in LIBRARY
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ] == []


def test_every_file_opens_with_a_docstring():
    assert [path for path in LIBRARY if not ast.get_docstring(tree(path))] == []


def test_every_file_is_short_enough_to_hold_in_the_head():
    lengths = {path: len((ROOT / path).read_text().splitlines()) for path in LIBRARY}
    assert {path: length for path, length in lengths.items() if length > LINES} == {}


def test_every_file_is_named_for_one_idea():
    assert [path for path in LIBRARY if path.stem in ATTICS] == []


def test_nothing_swallows_every_error():
    """Whoever catches all raises again, or says beside it why anything may come."""
    assert [
        f"{path}:{node.lineno}"
        for path in LIBRARY
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or names(node.type) & {"Exception", "BaseException"})
        and not isinstance(node.body[-1], ast.Raise)
        and not commented(path, node.lineno)
    ] == []


def names(expression: ast.expr) -> set[str]:
    return {node.id for node in ast.walk(expression) if isinstance(node, ast.Name)}


def commented(path: Path, line: int) -> bool:
    before, at = (ROOT / path).read_text().splitlines()[line - 2 : line]
    return "# " in at or before.strip().startswith("# ")


def test_tests_do_not_need_tools():
    assert [path for path in sources("tests") if "tools" in imported(path)] == []
