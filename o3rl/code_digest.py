"""A digest of the project's own source, by which processes find out that they run the same code."""

from functools import cache
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("o3rl", "rewards", "actors", "learners", "cluster")


@cache
def source_digest() -> str:
    """16 hex digits over names and bytes of every *.py file of the packages, as first asked for."""
    digest = blake2b(digest_size=8)
    for package in PACKAGES:
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise ModuleNotFoundError(
                f"package {package} is not installed; install the project's wheel, or `make setup`"
            )
        for path in sorted(Path(spec.submodule_search_locations[0]).rglob("*.py")):
            root = Path(spec.submodule_search_locations[0])
            digest.update(f"{package}/{path.relative_to(root).as_posix()}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
