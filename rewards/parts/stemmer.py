"""The Porter stemmer as `rouge_score` uses it: NLTK's, with its extensions, word for word.

NLTK's own is not imported: loading its package costs every scorer seconds. Source: M. F. Porter,
"An algorithm for suffix stripping", 1980; NLTK for the extensions. A test holds the two equal.
"""

from functools import lru_cache

LONGEST_REMEMBERED = 32

UNCHANGED = (
    "sky",
    "news",
    "inning",
    "outing",
    "canning",
    "howe",
    "proceed",
    "exceed",
    "succeed",
)
IRREGULAR = {
    "skies": "sky",
    "dying": "die",
    "lying": "lie",
    "tying": "tie",
    "innings": "inning",
    "outings": "outing",
    "cannings": "canning",
    **{word: word for word in UNCHANGED},
}

STEP_2 = (
    ("ational", "ate"),
    ("tional", "tion"),
    ("enci", "ence"),
    ("anci", "ance"),
    ("izer", "ize"),
    ("bli", "ble"),
    ("alli", "al"),
    ("entli", "ent"),
    ("eli", "e"),
    ("ousli", "ous"),
    ("ization", "ize"),
    ("ation", "ate"),
    ("ator", "ate"),
    ("alism", "al"),
    ("iveness", "ive"),
    ("fulness", "ful"),
    ("ousness", "ous"),
    ("aliti", "al"),
    ("iviti", "ive"),
    ("biliti", "ble"),
    ("fulli", "ful"),
)
STEP_3 = (
    ("icate", "ic"),
    ("ative", ""),
    ("alize", "al"),
    ("iciti", "ic"),
    ("ical", "ic"),
    ("ful", ""),
    ("ness", ""),
)
STEP_4 = (
    ("al", ""),
    ("ance", ""),
    ("ence", ""),
    ("er", ""),
    ("ic", ""),
    ("able", ""),
    ("ible", ""),
    ("ant", ""),
    ("ement", ""),
    ("ment", ""),
    ("ent", ""),
    ("ou", ""),
    ("ism", ""),
    ("ate", ""),
    ("iti", ""),
    ("ous", ""),
    ("ive", ""),
    ("ize", ""),
)


class Stemmer:
    """What `rouge_score.tokenize` asks for: `stem`."""

    def stem(self, word: str) -> str:
        """The stem of a lower-case word; linear in its length."""
        return _remembered(word) if len(word) <= LONGEST_REMEMBERED else _stem(word)


def _stem(word: str) -> str:
    if word in IRREGULAR:
        return IRREGULAR[word]
    if len(word) <= 2:
        return word
    word = _past(_plural(word))
    if word.endswith("y") and len(word) > 2 and _shape(word[:-1])[-1] == "c":
        word = word[:-1] + "i"
    word = _doubled_suffix(word)
    word = _first_rule(word, STEP_3, above=0)
    return _final_l(_final_e(_last_suffix(word)))


_remembered = lru_cache(maxsize=65_536)(_stem)


def _plural(word: str) -> str:
    """Step 1a; of four letters, "dies" becomes "die"."""
    if word.endswith("ies"):
        return word[:-1] if len(word) == 4 else word[:-2]
    if word.endswith("sses"):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _past(word: str) -> str:
    """Step 1b; of four letters, "died" becomes "die"."""
    if word.endswith("ied"):
        return word[:-1] if len(word) == 4 else word[:-2]
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    for suffix in ("ed", "ing"):
        if word.endswith(suffix) and "v" in _shape(word[: -len(suffix)]):
            return _restored(word[: -len(suffix)])
    return word


def _restored(stem: str) -> str:
    """What step 1b puts back after "ed" or "ing"."""
    if stem.endswith(("at", "bl", "iz")):
        return stem + "e"
    if len(stem) >= 2 and stem[-1] == stem[-2] and _shape(stem)[-1] == "c":
        return stem if stem[-1] in "lsz" else stem[:-1]
    return stem + "e" if _measure(stem) == 1 and _ends_short(stem) else stem


def _doubled_suffix(word: str) -> str:
    """Step 2; "alli" goes first and again, "logi" keeps its "l" for the measure."""
    if word.endswith("alli") and _measure(word[:-4]) > 0:
        word = word[:-2]
    if word.endswith("logi"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    return _first_rule(word, STEP_2, above=0)


def _last_suffix(word: str) -> str:
    """Step 4; "ion" only after "s" or "t"."""
    if word.endswith("ion"):
        return word[:-3] if _measure(word[:-3]) > 1 and word[-4] in "st" else word
    return _first_rule(word, STEP_4, above=1)


def _final_e(word: str) -> str:
    if not word.endswith("e"):
        return word
    measure = _measure(word[:-1])
    drop = measure > 1 or (measure == 1 and not _ends_short(word[:-1]))
    return word[:-1] if drop else word


def _final_l(word: str) -> str:
    return word[:-1] if word.endswith("ll") and _measure(word[:-1]) > 1 else word


def _first_rule(word: str, rules: tuple[tuple[str, str], ...], *, above: int) -> str:
    """The first rule whose suffix fits decides, by the measure of what stands before it."""
    for suffix, replacement in rules:
        if word.endswith(suffix):
            stem = word[: -len(suffix)]
            return stem + replacement if _measure(stem) > above else word
    return word


def _shape(word: str) -> str:
    """`c` or `v` for each letter; "y" is a vowel after a consonant."""
    shape = []
    vowel = True  # before the first letter: "y" is a consonant there
    for letter in word:
        vowel = letter in "aeiou" or (letter == "y" and not vowel)
        shape.append("v" if vowel else "c")
    return "".join(shape)


def _measure(stem: str) -> int:
    """Porter's m: how often a vowel is followed by a consonant."""
    return _shape(stem).count("vc")


def _ends_short(word: str) -> bool:
    """Whether it ends consonant, vowel, consonant (not w, x, y), or is vowel, consonant."""
    shape = _shape(word)
    return shape == "vc" or (shape.endswith("cvc") and word[-1] not in "wxy")
