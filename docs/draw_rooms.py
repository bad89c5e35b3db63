"""Draws docs/rooms.svg: which room imports which, read from the imports themselves.

Rooms stand in the order of tests/test_layers.py, from the inside out: each may import what is above
it, so every dot lies left of the diagonal. Run it from the repository: `python docs/draw_rooms.py`.
"""

import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.test_layers import LIBRARY, MODULES, ROOMS, ours

STEP, LEFT, TOP = 20, 190, 150
TINTS = ("#e8eef7", "#eaf5ea", "#fbf0e2", "#f5e9f5", "#eeeeee")
INK, DOT = "#24292f", "#3b6fb6"


def order() -> list[str]:
    """`folder/room` from the inside out; what a folder does not have yet is left out."""
    there = {name(path) for path in LIBRARY}
    rooms = [f"{folder}/{room}" for folder in ROOMS for level in ROOMS[folder] for room in level]
    return [room for room in rooms if room in there]


def name(path: Path) -> str:
    """The room of a file, or the file itself where it stands beside the rooms."""
    return f"{path.parts[0]}/{path.parts[1].removesuffix('.py')}"


def edges() -> Counter[tuple[str, str]]:
    """(importer, imported) rooms, and how many imports between them."""
    pairs = ((name(path), name(MODULES[module])) for path in LIBRARY for module in ours(path))
    return Counter((a, b) for a, b in pairs if a != b)


def main() -> None:
    """Write the picture beside this file."""
    rooms = order()
    place = {room: i for i, room in enumerate(rooms)}
    side = STEP * len(rooms)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + side + 90}" '
        f'height="{TOP + side + 20}" font-family="sans-serif" font-size="12" fill="{INK}">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for folder, tint in zip(ROOMS, TINTS, strict=True):
        inside = [place[room] for room in rooms if room.startswith(f"{folder}/")]
        start, size = STEP * min(inside), STEP * len(inside)
        parts.append(
            f'<rect x="{LEFT}" y="{TOP + start}" width="{side}" height="{size}" fill="{tint}"/>'
        )
        parts.append(
            f'<rect x="{LEFT + start}" y="{TOP + start}" width="{size}" height="{size}" '
            f'fill="none" stroke="{INK}" stroke-width="0.8"/>'
        )
    for room, i in place.items():
        middle = STEP * i + STEP / 2
        parts.append(f'<text x="{LEFT - 8}" y="{TOP + middle + 4}" text-anchor="end">{room}</text>')
        parts.append(
            f'<text transform="translate({LEFT + middle + 4} {TOP - 8}) rotate(-60)">{room}</text>'
        )
        parts.append(
            f'<rect x="{LEFT + STEP * i}" y="{TOP + STEP * i}" width="{STEP}" height="{STEP}" '
            'fill="#c9ced6"/>'
        )
    for (importer, imported), count in sorted(edges().items()):
        if importer not in place or imported not in place:
            continue  # a folder's own __init__
        x, y = (STEP * place[room] + STEP / 2 for room in (imported, importer))
        radius = min(3 + count**0.5, STEP / 2 - 1)
        parts.append(
            f'<circle cx="{LEFT + x}" cy="{TOP + y}" r="{radius:.1f}" fill="{DOT}">'
            f"<title>{importer} imports {imported}: {count}</title></circle>"
        )
    Path(__file__).with_name("rooms.svg").write_text("\n".join([*parts, "</svg>", ""]))


if __name__ == "__main__":
    main()
