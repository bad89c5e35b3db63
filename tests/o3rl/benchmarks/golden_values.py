"""Golden files of the published scorers, and where something differs from them."""

import json
import math
from pathlib import Path
from typing import Any

DATA = Path(__file__).parents[2] / "data"


def golden(name: str) -> dict[str, Any]:
    """A golden file of tests/data."""
    return json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))


def differences(wanted: Any, found: Any, path: str = "") -> list[str]:
    """Where `found` lacks or differs from what is wanted by more than 1e-9; more keys are fine."""
    if wanted == "inf" and found == math.inf:
        return []
    if isinstance(wanted, dict) and isinstance(found, dict):
        lacking = [f"{path}/{key} is not there" for key in wanted if key not in found]
        return lacking + [
            line
            for key in wanted.keys() & found.keys()
            for line in differences(wanted[key], found[key], f"{path}/{key}")
        ]
    if isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        pairs = enumerate(zip(wanted, found, strict=True))
        return [line for i, pair in pairs for line in differences(*pair, f"{path}/{i}")]
    if _is_number(wanted) and _is_number(found):
        same = abs(wanted - found) <= 1e-9
    else:
        same = type(wanted) is type(found) and wanted == found
    return [] if same else [f"{path} is {found!r}, not {wanted!r}"]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
