"""Draws docs/shared_prefix.svg: who sees whom in a pack of two groups, from the learner's own law.

python docs/draw_mask.py
"""

from pathlib import Path

from learners.model.attention import Span, attention_mask

LAYOUT = (Span(0, 6, (9, 12, 14)), Span(14, 18, (20, 23)))
CELL, LEFT, TOP = 15, 64, 64
PROMPT, OWN, NOTHING, INK = "#3b6fb6", "#e0a030", "#f1f3f5", "#333"


def main() -> None:
    """Write the picture beside this file."""
    seen = attention_mask(LAYOUT).tolist()
    side = LEFT + CELL * len(seen) + 12
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {side} {side + 46}" '
        f'width="{side}" height="{side + 46}" font-family="sans-serif" font-size="12">',
        f'<rect width="{side}" height="{side + 46}" fill="white"/>',
    ]
    prompt_keys = {key for span in LAYOUT for key in range(span.start, span.prompt_end)}
    for query, row in enumerate(seen):
        for key, sees in enumerate(row):
            colour = NOTHING if not sees else PROMPT if key in prompt_keys else OWN
            parts.append(
                f'<rect x="{LEFT + CELL * key}" y="{TOP + CELL * query}" width="{CELL - 1}" '
                f'height="{CELL - 1}" fill="{colour}"/>'
            )
    parts += [label for name, at in names() for label in labels(name, at)]
    parts += legend(side)
    Path(__file__).with_name("shared_prefix.svg").write_text("\n".join([*parts, "</svg>", ""]))


def names() -> list[tuple[str, slice]]:
    """Each part of the pack and where it lies."""
    found = []
    for number, span in enumerate(LAYOUT, 1):
        found.append((f"prompt {number}", slice(span.start, span.prompt_end)))
        found += [(f"c{g}", part) for g, part in enumerate(span.completions(), 1)]
    return found


def labels(name: str, at: slice) -> list[str]:
    """At the rows (queries) and at the columns (keys), with a line where the part begins."""
    middle = CELL * (at.start + at.stop) / 2
    first = CELL * at.start - 0.5
    end = CELL * LAYOUT[-1].end
    return [
        f'<text x="{LEFT - 6}" y="{TOP + middle + 4}" text-anchor="end" fill="{INK}">{name}</text>',
        f'<text x="{LEFT + middle}" y="{TOP - 6}" text-anchor="middle" fill="{INK}">{name}</text>',
        f'<path d="M{LEFT} {TOP + first} h{end} M{LEFT + first} {TOP} v{end}" stroke="#bbb"/>',
    ]


def legend(side: int) -> list[str]:
    """What the colours mean, below; what the sides are, at the corner."""
    kinds = [("a prompt, computed once", PROMPT), ("the completion itself", OWN)]
    found = [f'<text x="{LEFT}" y="20" fill="{INK}">keys →   (queries ↓)</text>']
    for place, (text, colour) in enumerate(kinds):
        x = LEFT + 190 * place
        found.append(f'<rect x="{x}" y="{side + 14}" width="12" height="12" fill="{colour}"/>')
        found.append(f'<text x="{x + 18}" y="{side + 24}" fill="{INK}">{text}</text>')
    return found


if __name__ == "__main__":
    main()
