"""Multiple choice: the letter that a reply means, and accuracies.

`letter_of` is ours: it reads what a careful reader would, or nothing, and nothing is wrong. The
published readers of one benchmark stand in its file. No reader raises on any text.
"""

import re
import string
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from o3rl.benchmarks.reading import answer_part
from o3rl.benchmarks.runner import Row
from o3rl.text.grammar import answer_of, thought_of

NA = "NA"  # what Open-o3's reader says where it reads nothing

_MARKUP = re.compile(r"\\(?:boxed|text|mathrm)\s*+|[*_`{}$]")
_ALONE = re.compile(r"[(\[\"' ]*([A-Za-z])[)\]\"' ]*[.:,;!)。]?")
_FIRST = re.compile(r"[(\[]?([A-Z])[)\]]?(?:[.:)、]|(?=\s*\n))\s*(.*)", re.DOTALL)
_SAID = re.compile(
    r"\b(?:answer|option|choice|pick|choose|select)\s*+(?:is|was|:|=|would be|should be|must be)*+"
    r"\s*+(?:option|choice|letter)?+\s*+[:=]?+\s*+[(\[\"']*+\b([A-Za-z])\b(?=(?P<after>.{0,12}))"
    r"|(?:答案|选项?|選)(?:是|为|為|:|应该是)*+\s*+[(\[]*+([A-Za-z])(?![A-Za-z])"
    r"|(?<![\w'])([A-Z])\s++(?:is|seems|must be)\s++(?:the\s++)?+(?:right|correct|best|true)\b",
    re.IGNORECASE | re.DOTALL,
)
_ENDS = re.compile(r"[)\]\"']*+[ \t]*+(?:$|[.,;:!?。(\n–-]|(?:because|since|as|for)\b)")
_RULED_OUT = re.compile(r"\b[Nn]ot\s++(?:option\s++)?[(\[]?[A-Z]\b[)\]]?[,;]?\s*+(?:but\b)?\s*+")
_OTHER = re.compile(r"(?<![\w'])[(\[]?([A-Z])[.:)\]]")
_MORE = re.compile(r"[)\]\"']*+\s*+[,;&/]\s*+(?:and\s|or\s)?+[(\[]?[A-Z]\b(?!\s*+\w)")
_NEGATION = re.compile(r"\b(?:not|no|never|neither|nor|none|cannot)\b|n['’]t|不|没")


def plain_options(options: Sequence[str]) -> tuple[str, ...]:
    """Option texts without the letters that some files put before them (`A. …`)."""
    marked = all(text.startswith(f"{letter}.") for letter, text in lettered(options))
    return tuple(text[2:].strip() if marked else text.strip() for text in options)


def listed_options(options: Sequence[str]) -> str:
    """One option a line, `A. …`, whether or not the file has the letters."""
    return "\n".join(f"{letter}. {text}" for letter, text in lettered(plain_options(options)))


def lettered(options: Sequence[str]) -> list[tuple[str, str]]:
    """Letters from A and the options; ValueError beyond Z."""
    if len(options) > 26:
        raise ValueError(f"a question has {len(options)} options; letters end at 26")
    return list(zip(string.ascii_uppercase, options, strict=False))


def letter_of(text: str, options: Sequence[str]) -> str | None:
    """The letter that a reply means; None where it means none, two, or one beyond the options.

    >>> letter_of("<think>Not A.</think> The answer is (b).", ["red", "blue"])
    'B'
    """
    part = unicodedata.normalize("NFKC", answer_part(text))
    part = _MARKUP.sub("", part).strip()
    letters = {letter for letter, _ in lettered(options)}
    for read in (_alone, _said, _first):
        found = read(part, options)
        if found:
            return next(iter(found)) if len(found) == 1 and found <= letters else None
    return _by_text(part, options)


def _alone(part: str, _: Sequence[str]) -> set[str]:
    """The whole of it is one letter, in brackets or not."""
    match = _ALONE.fullmatch(_RULED_OUT.sub("", part))
    return {match[1].upper()} if match else set()


def _said(part: str, _: Sequence[str]) -> set[str]:
    """Letters after an answer phrase (`the answer is C`), or called right (`C is correct`)."""
    found = set()
    for match in _SAID.finditer(part):
        letter, after = match[1] or match[3] or match[4], match["after"] or ""
        if _MORE.match(after):
            found |= {letter.upper(), "two"}
        elif _ENDS.match(after):  # not "the answer is A red bicycle", "… is a bit unclear"
            found.add(letter.upper())
    return found


def _first(part: str, options: Sequence[str]) -> set[str]:
    """A letter that opens the reply (`B. …`, `B) …`, or a line of its own)."""
    match = _FIRST.match(part)
    if match is None:
        return set()
    letter, rest = match[1], match[2]
    said = {letter} | set(_OTHER.findall(rest))
    by_text = _by_text(rest.splitlines()[0], options) if rest else None
    own_line = "\n" in part[match.end(1) : match.start(2)]
    return said if by_text is None or own_line else said | {by_text}


def _by_text(part: str, options: Sequence[str]) -> str | None:
    """The one option whose whole text stands in the reply, not within a longer option's."""
    rest = _folded(part)
    found: list[str] = []
    by_length = sorted(lettered(plain_options(options)), key=lambda pair: -len(pair[1]))
    for letter, text in by_length:
        folded = _folded(text)
        if not folded:
            continue
        cut = re.sub(rf"(?<![\w-]){re.escape(folded)}(?![\w-]|[.,]\d)", " ", rest)
        if cut != rest:
            found.append(letter)
            rest = cut
    return found[0] if len(found) == 1 and not _NEGATION.search(rest) else None


def _folded(text: str) -> str:
    text = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(text.split()).strip(" .,;:!?\"'")


def tagged_letter(text: str, letters: Iterable[str]) -> str:
    """Open-o3's think mode: exactly one letter within `<answer>`, or NA."""
    answer = answer_of(text)
    return answer if answer is not None and answer in set(letters) else NA


def released_letter(text: str, letters: Iterable[str]) -> str:
    """What Open-o3 scores of one sample: its letter; A without one, or without a thought."""
    letter = tagged_letter(text, letters)
    return "A" if letter == NA or thought_of(text) is None else letter


def padded_reply(text: str) -> str:
    """The reply without `, . ! ? ; : '` at its ends, each taken in turn, between two blanks."""
    for mark in ",.!?;:'":
        text = text.strip(mark)
    return f" {text} "


@dataclass(frozen=True, slots=True)
class Asked:
    """A stored reply to a question, as the scorers of all three benchmarks take it.

    >>> Asked(("red", "blue"), "A", "The answer is A.", {"id": "1"})
    """

    options: tuple[str, ...]  # empty: an open question
    answer: str
    response: str
    stored: Row

    @property
    def letters(self) -> str:
        return string.ascii_uppercase[: len(self.options)]


def asked(records: Sequence[Row]) -> list[Asked]:
    """Stored replies. ValueError names the one that is none."""
    replies = []
    for number, stored in enumerate(records):
        options, answer = stored.get("options") or (), stored.get("answer")
        response = "" if stored.get("reason") else stored.get("response")
        if not isinstance(options, list | tuple) or not isinstance(answer, str):
            raise ValueError(f"reply {number} has no options (a list) and answer (a letter)")
        if not isinstance(response, str):
            raise ValueError(f"reply {number} has no response (a text), but {response!r:.80}")
        lettered(options)
        replies.append(Asked(tuple(map(str, options)), answer.strip(), response, stored))
    return replies


def record(row: Row, texts: Mapping[str, str], reason: str) -> Row:
    """A question as its reply is stored and scored."""
    return row | {"response": texts.get("response", ""), "reason": reason}


def meant(reply: Asked) -> str:
    """`letter_of` for a table of readers: NA where nothing is meant."""
    return letter_of(reply.response, reply.options) or NA


def scored(reply: Asked, letter: str) -> dict[str, Any]:
    """What was made of a reply."""
    known = {
        key: reply.stored[key] for key in ("id", "question_id", "index") if key in reply.stored
    }
    correct = letter == reply.answer
    return known | {"letter": letter, "correct": correct, "read": letter in tuple(reply.letters)}


def accuracy(rows: Sequence[Mapping[str, Any]]) -> float:
    """Share of rows that are correct; 0 of none."""
    return sum(row["correct"] for row in rows) / len(rows) if rows else 0.0


def by_group(
    replies: Sequence[Asked], rows: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Accuracy in per cent by each of `names` that the replies have; a list counts in each."""
    found: dict[str, dict[str, float]] = {}
    for name in names:
        groups: dict[str, list[Mapping[str, Any]]] = {}
        for reply, row in zip(replies, rows, strict=True):
            value = reply.stored.get(name)
            for each in value if isinstance(value, list) else [value]:
                if each is not None:
                    groups.setdefault(str(each), []).append(row)
        if groups:
            found[f"by_{name}"] = {group: 100 * accuracy(each) for group, each in groups.items()}
    return found
