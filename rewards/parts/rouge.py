"""ROUGE of an answer against the true one: the mean of ROUGE-1, -2 and -L F1, stemmed, in [0, 1].

Equal to the `rouge_score` package on what its tokeniser keeps, with what can be made once made
once: the stemmer, stems of common words, and everything about a truth. The longest common
subsequence is bit-parallel, so time is linear in the answer.
"""

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise

from rouge_score.tokenize import tokenize

from rewards.parts.stemmer import Stemmer

Tokens = Callable[[str], list[str]]

# Scripts written without blanks: each of their characters is a token.
UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x30FF),  # Kana
    (0x3400, 0x9FFF),  # Han
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)


def ascii_rouge(text: str, truth: str) -> float:
    """ROUGE over `[a-z0-9]+`, as published: other scripts have no tokens and score 0."""
    return _rouge(ascii_tokens, text, truth)


def unicode_rouge(text: str, truth: str) -> float:
    """ROUGE over words of every script; equal to `ascii_rouge` where both texts are ASCII."""
    return _rouge(unicode_tokens, text, truth)


def ascii_tokens(text: str) -> list[str]:
    """The package's own tokens, stemmed."""
    return tokenize(text, _STEMMER)


def unicode_tokens(text: str) -> list[str]:
    """Runs of letters, digits and their marks, lower case, NFKC; ASCII words stemmed.

    A character of a script without blanks is a token of its own.
    """
    if text.isascii():
        return ascii_tokens(text)
    words: list[list[str]] = [[]]
    for character in unicodedata.normalize("NFKC", text).lower():
        kind = _kind(character)
        if kind == "other":
            words.append([])
        elif kind == "alone":
            words.extend([[character], []])
        elif kind == "mark" and not words[-1] and len(words) > 1 and words[-2]:
            words[-2].append(character)
        else:
            words[-1].append(character)
    joined = ("".join(word) for word in words if word)
    return [_STEMMER.stem(word) if len(word) > 3 and word.isascii() else word for word in joined]


_STEMMER = Stemmer()


@cache
def _kind(character: str) -> str:
    category = unicodedata.category(character)[0]
    if category == "M":
        return "mark"
    if category not in "LN":
        return "other"
    code = ord(character)
    return "alone" if any(first <= code <= last for first, last in UNSPACED) else "word"


@dataclass(frozen=True, slots=True)
class _Reference:
    words: Counter
    pairs: Counter
    length: int
    places: dict[str, int]  # of each word, as bits


@lru_cache(maxsize=8192)
def _reference(tokens_of: Tokens, truth: str) -> _Reference:
    tokens = tokens_of(truth)
    places: dict[str, int] = {}
    for index, token in enumerate(tokens):
        places[token] = places.get(token, 0) | 1 << index
    return _Reference(Counter(tokens), Counter(pairwise(tokens)), len(tokens), places)


def _rouge(tokens_of: Tokens, text: str, truth: str) -> float:
    reference = _reference(tokens_of, truth)
    if not reference.length:
        return 0.0
    tokens = tokens_of(text)
    length = len(tokens)
    scores = (
        _f1(_shared(tokens, reference.words), length, reference.length),
        _f1(_shared(pairwise(tokens), reference.pairs), length - 1, reference.length - 1),
        _f1(_longest(tokens, reference), length, reference.length),
    )
    return min(1.0, max(0.0, sum(scores) / 3))


def _shared(grams: Iterable, truth: Counter) -> int:
    found = Counter(gram for gram in grams if gram in truth)
    return sum(min(count, truth[gram]) for gram, count in found.items())


def _longest(tokens: list[str], reference: _Reference) -> int:
    """Length of the longest common subsequence (Hyyrö 2004: a row of the table as one integer)."""
    full = (1 << reference.length) - 1
    row = full
    for token in tokens:
        matches = row & reference.places.get(token, 0)
        if matches:
            row = ((row + matches) | (row - matches)) & full
    return reference.length - row.bit_count()


def _f1(shared: int, length: int, true_length: int) -> float:
    precision, recall = shared / max(length, 1), shared / max(true_length, 1)
    return 2 * precision * recall / (precision + recall) if shared else 0.0
