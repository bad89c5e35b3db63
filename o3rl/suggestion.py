"""Of names that are there, the one that was probably meant."""

from collections.abc import Sequence
from difflib import get_close_matches


def suggestion(wrong: str, known: Sequence[str]) -> str:
    """To be put behind what is wrong: `(did you mean 'X'?)`, or nothing where none is near."""
    near = get_close_matches(wrong, known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
