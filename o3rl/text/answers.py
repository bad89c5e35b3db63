"""Answers as people write them: an option, an interval in seconds, numbers and lists as text.

Each function takes what a file has and gives one form, or raises TruthError with a reason that can
be counted. What had to be mended is appended to `mended`, by reason.
"""

import json
import math
import re
import reprlib
from collections.abc import Mapping, Sequence

from o3rl.text.grammar import answer_of, interval_of
from o3rl.types import Interval, Task

AS_TEXT = "answer: a number or list made text"
UNWRAPPED = "answer: tags around it taken away"
LETTERED = "answer: the option's letter made of its text, index, or a longer form"
TIMED = "answer: interval read from another form than [start, end]"
LONGEST = 200  # characters of an interval; beyond it, no form is tried
LARGEST = 1e15  # of a number that is meant as an answer

MARKER = "Correct Option:"

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 120
_SHORT.maxlist = _SHORT.maxdict = 4

_OPTION_LINE = re.compile(r"^[ \t]*[(\[]?([A-Z])[.):\]][ \t]*(\S.*?)[ \t]*$", re.MULTILINE)
# Without lines of their own: `(A) red (B) blue`, `a) red, b) blue`, `**A.** red`, `A - red`.
_LISTED = re.compile(
    r"(?<![^\s,;:*])[*(\[]*(?P<letter>[A-Za-z])\s?(?:[.):\]\uff0e\u3001\uff09\uff1a][*]*|[-–—](?=\s))"
)
_LABEL = re.compile(r"\s*[(\[]?([A-Za-z])[.):\]]+\s*")
_SAID = re.compile(
    r"(?:(?:the\s+)?(?:correct\s+)?(?:answer|option)\s*(?:is\s*|:\s*)?)?"
    r"[(\[]?(?P<letter>[A-Za-z])(?:[)\].:]+\s*(?P<text>.*))?",
    re.IGNORECASE | re.DOTALL,
)
_CLOCK = r"\d+(?::\d{1,2}){1,2}(?:\.\d+)?"
_TIME = rf"(-?(?:{_CLOCK}|\d+\.?\d*|\.\d+))\s*(?:s|secs?|seconds?)?"
_INTERVAL = re.compile(
    rf"[\[(]?\s*(?:from\s+|between\s+)?{_TIME}\s*(?:,|;|-|–|—|~|to|and|until)\s*{_TIME}\s*"
    r"[\])]?\s*\.?",
    re.IGNORECASE,
)
_QUOTES_AND_TAGS = re.compile(r"</?t>|[\"']")


def shown(value: object) -> str:
    """A value of a file for a message: short, whatever its size and depth."""
    return _SHORT.repr(value)[:200]


class TruthError(ValueError):
    """A row whose truth cannot be used. `reason` is short and free of values, so it can be counted;
    the message adds the value."""

    def __init__(self, reason: str, value: object = None):
        super().__init__(reason if value is None else f"{reason}: {shown(value)}")
        self.reason = reason


def answer_text(task: Task, answer: object, mended: list[str]) -> str:
    """The answer of a record as text. Raises TruthError where there is none."""
    if isinstance(answer, Mapping) and {"start", "end"} <= answer.keys():
        answer = [answer["start"], answer["end"]]
    if isinstance(answer, str):
        text = answer
    elif isinstance(answer, list | tuple) and all(map(_is_plain, _flat(answer))):
        text = _of_list(task, answer)
        mended.append(AS_TEXT)
    elif _is_plain(answer):
        text = str(answer)
        mended.append(AS_TEXT)
    else:
        raise TruthError("answer is no text", answer)
    within = answer_of(text) if "<answer>" in text else None
    if within is not None:
        mended.append(UNWRAPPED)
        text = within
    if not text.strip():
        raise TruthError("answer is empty")
    return text


def options_of(options: object, question: str = "") -> dict[str, str]:
    """Texts by letter: of a list or mapping of its own, or of what the question lists.

    Empty where there are none. Raises TruthError where they are of another form.
    """
    if options is None or options == [] or options == {}:
        return _options_in(question)
    if isinstance(options, str) and (found := _options_in(options)):
        return found
    if isinstance(options, Mapping):
        pairs = [(str(key).strip(), text) for key, text in options.items() if text is not None]
    elif isinstance(options, Sequence) and not isinstance(options, str):
        pairs = list(zip(_letters(len(options)), options, strict=False))
    else:
        raise TruthError("options are no list", options)
    if not all(len(key) == 1 and _is_plain(text) for key, text in pairs):
        raise TruthError("options are no list of texts", options)
    return {key.upper(): _LABEL.sub("", str(text), count=1).strip() for key, text in pairs}


def parse_letter(
    answer: object, options: Mapping[str, str] | None = None, mended: list[str] | None = None
) -> str:
    """The option's letter: of `B`, `B.`, `(B)`, `B. text`, of an option's text, of its index.

    `options` are the texts by letter, as far as they are known; an index is counted from 0, and
    asks for them. Raises TruthError.
    """
    options, text = options or {}, str(answer).strip()
    if text in options and len(text) == 1 and "A" <= text <= "Z":  # nearly every answer
        return text
    letter = _letter_of(text, options)
    if letter is None:
        raise TruthError("answer is no option letter", answer)
    if options and letter not in options:
        raise TruthError("answer names no option", answer)
    if letter != text and mended is not None:
        mended.append(LETTERED)
    return letter


def parse_interval(answer: object, mended: list[str] | None = None) -> Interval:
    """`[s, e]` in seconds, 0 <= s <= e; also `(s, e)`, `s-e`, `1:05 to 1:20`, tagged times.

    Raises TruthError.
    """
    numbers = _list_of(answer) if isinstance(answer, str) else answer
    if numbers is None:
        numbers = _times_of(str(answer))
        if mended is not None and numbers is not None:
            mended.append(TIMED)
    if not isinstance(numbers, list | tuple) or len(numbers) != 2:
        raise TruthError("answer has no interval", answer)
    if any(isinstance(number, list) for number in numbers):
        raise TruthError("answer has no interval", answer)
    start, end = (parse_seconds(number, "interval is no pair of numbers") for number in numbers)
    if start < 0 or end < start:
        raise TruthError("interval is negative or reversed", answer)
    return start, end


def parse_seconds(time: object, reason: str) -> float:
    """Seconds: a number, or `mm:ss` or `hh:mm:ss` as text. Raises TruthError with `reason`."""
    if isinstance(time, str) and ":" in time:
        if re.fullmatch(_CLOCK, time.strip()) is None:
            raise TruthError(reason, time)
        seconds = 0.0
        for part in time.split(":"):
            seconds = 60 * seconds + float(part)
        return seconds
    return finite(time, reason)


def finite(number: object, reason: str) -> float:
    """A finite float; numeric strings pass, booleans do not. Raises TruthError with `reason`."""
    if type(number) is float and math.isfinite(number):
        return number
    if isinstance(number, bool) or not isinstance(number, int | float | str):
        raise TruthError(reason, number)
    try:
        value = float(number)
    except (ValueError, OverflowError):
        raise TruthError(reason, number) from None
    if not math.isfinite(value):
        raise TruthError(reason, number)
    return value


def _letters(count: int) -> list[str]:
    return [chr(ord("A") + index) for index in range(min(count, 26))]


def _options_in(text: str) -> dict[str, str]:
    """The options that a text lists, from its last label of A on; empty where it lists none."""
    found = dict(_OPTION_LINE.findall(text))
    rising = list(found) == sorted(found) and "A" in found
    # Of three lines, a letter may be left out.
    if rising and (len(found) > 2 or list(found) == ["A", "B"]):
        return found
    labels = list(_LISTED.finditer(text))
    for first in (at for at in reversed(range(len(labels))) if labels[at]["letter"] in "Aa"):
        listed = [labels[first]]
        for label in labels[first + 1 :]:
            if ord(label["letter"]) == ord(listed[-1]["letter"]) + 1:
                listed.append(label)
        if len(listed) > 1:
            ends = [*(label.start() for label in listed[1:]), len(text)]
            found = {
                label["letter"].upper(): text[label.end() : end].strip().rstrip(" \t\r\n,;-*•")
                for label, end in zip(listed, ends, strict=True)
            }
            return found if found["A"] else {}  # else initials, as of A. B. Smith
    return {}


def _is_plain(value: object) -> bool:
    if isinstance(value, str):
        return True
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def _flat(values: Sequence) -> list[object]:
    """The values of a list, and of lists right in it."""
    return [each for value in values
            for each in (value if isinstance(value, list | tuple) else (value,))]  # fmt: skip


def _of_list(task: Task, values: Sequence) -> str:
    if task is Task.TEMPORAL_MCQ and len(values) == 2:
        return f"{values[0]}\n{json.dumps(values[1])}"
    if task is Task.TEMPORAL:
        return json.dumps(values)
    if task is Task.VISUAL and len(values) == 4 and not any(isinstance(v, str) for v in values):
        return f"<box>{json.dumps(values)}</box>"
    if any(isinstance(value, list | tuple) for value in values):
        raise TruthError("answer is no text", values)
    return ", ".join(map(str, values))


def _letter_of(text: str, options: Mapping[str, str]) -> str | None:
    same = [letter for letter, option in options.items() if _plain(option) == _plain(text)]
    if len(same) == 1 and (len(text) > 1 or text.isdecimal()):
        return same[0]
    if text.isdecimal() and len(text) < 3:
        letters = list(options)
        return letters[int(text)] if int(text) < len(letters) else None
    match = _SAID.fullmatch(text) if len(text) < 10_000 else None
    if match is None or not match["letter"].isascii():
        return None
    letter = match["letter"].upper() if options else match["letter"]
    said = _plain(match["text"])
    other = [key for key, option in options.items() if said and _plain(option) == said]
    return None if other and letter not in other else letter


def _plain(text: str | None) -> str:
    return (text or "").strip().strip(".").casefold()


def _list_of(text: str) -> object:
    """What the text is as JSON, if that is a list; None if not."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, list) else None


def _times_of(text: str) -> tuple[str, str] | None:
    tagged = interval_of(text)
    if tagged is not None or len(text) > LONGEST:
        return tagged
    match = _INTERVAL.fullmatch(_QUOTES_AND_TAGS.sub("", text).strip())
    return None if match is None else (match[1], match[2])
