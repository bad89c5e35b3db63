"""Records of JSON in its forms, one by one: a large file needs little memory."""

import json
import math
import re
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from o3rl.config.user_functions import load_function, place_of

CHUNK = 2**20
LONGEST = 64 * 2**20  # characters of one record; beyond it the file is damaged
LONGEST_NUMBER = 1000  # digits; Python refuses longer integers, and no field of ours holds one

RECORD_KEYS = {
    "id",
    "task",
    "question",
    "answer",
    "source",
    "video_path",
    "image_path",
    "key_frames",
}

_MARK = re.compile(r'\\.|["\[\]{}]', re.DOTALL)
_OPENED, _COMMA = re.compile(r"\{"), re.compile(r"\s*,")
_KEY = re.compile(r'\s*"([^"\\]*)"\s*:\s*')
_LIST = re.compile(r"\[\s*(?:\{|\]|$)")


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that cannot be read: why, in words that can be counted, and which."""

    reason: str
    where: str


class Readable(Protocol):
    """A file of bytes, or what unpacks one."""

    def read(self, size: int = -1, /) -> bytes: ...
    def readline(self, size: int = -1, /) -> bytes: ...
    def seek(self, place: int, /) -> object: ...


def read_json(file: Readable, path: Path) -> Iterator[object]:
    """Each record of a JSON list, of the lists in one object (`{"data": [...]}`), of JSON lines, or
    of objects one after the other; one that cannot be read alone is a BadRecord.

    Raises ValueError where what follows damage cannot be told: anywhere but in JSON lines.
    """
    head = file.read(CHUNK)
    start = 3 if head.startswith(b"\xef\xbb\xbf") else 0
    text = head[start:].decode(errors="surrogateescape").lstrip()
    file.seek(start)
    first, _, rest = text.partition("\n")
    if text.startswith("["):
        yield from _Stream(file, path).elements()
    elif rest.strip() and _is_whole(first):
        yield from _lines(file)
    elif _is_envelope(text):
        yield from _Stream(file, path).lists()
    elif _spans_lines(text):
        yield from _Stream(file, path).values()
    else:
        yield from _lines(file)


def _is_envelope(text: str) -> bool:
    """Whether it begins as an object that is no record and holds a list of objects."""
    at = _OPENED.match(text)
    while at is not None:
        key = _KEY.match(text, at.end())
        if key is None or key[1] in RECORD_KEYS:
            return False
        if _LIST.match(text, key.end()):
            return True
        try:
            _, end = _DECODER.raw_decode(text, key.end())
        except (ValueError, RecursionError):
            return False
        at = _COMMA.match(text, end)
    return False


def _is_whole(text: str) -> bool:
    try:
        return isinstance(_DECODER.decode(text), dict)
    except (ValueError, RecursionError):
        return False


def _spans_lines(text: str) -> bool:
    """Whether its first value is an object that goes on over its first line and ends well."""
    try:
        value, end = _DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and "\n" in text[:end]


def _lines(file: Readable) -> Iterator[object]:
    number = 0
    while line := file.readline(LONGEST + 1):
        number += 1
        if len(line) > LONGEST:
            while line and not line.endswith(b"\n"):
                line = file.readline(LONGEST)
            yield BadRecord("record is too long", f"line {number}")
        elif line.strip():
            yield _line(line, number)


def _line(line: bytes, number: int) -> object:
    try:
        return _DECODER.decode(line.decode())
    except UnicodeDecodeError:
        return BadRecord("record is not valid Unicode", f"line {number}")
    except RecursionError:
        return BadRecord("record is nested too deeply", f"line {number}")
    except ValueError as error:
        return BadRecord("record is no JSON", f"line {number}: {error}")


def _integer(digits: str) -> int | float:
    """Beyond all bounds where Python would refuse, so that the record's own check rejects it."""
    if len(digits) > LONGEST_NUMBER:
        return -math.inf if digits.startswith("-") else math.inf
    return int(digits)


_DECODER = json.JSONDecoder(parse_int=_integer)


class _Stream:
    """The values of a JSON file, with no more of the text held than one of them and a chunk."""

    def __init__(self, file: Readable, path: Path):
        self._file = file
        self._path = path
        # Bytes that are no UTF-8 become surrogates, so that their row can be refused alone.
        self._decode = getincrementaldecoder("utf-8")("surrogateescape").decode
        self._text = ""
        self._at = 0  # the text before is done with
        self._before = 0  # characters of the file that were dropped
        self._ended = False
        self._count = 0

    def elements(self) -> Iterator[object]:
        """Of one list, which is all that there is."""
        yield from self._elements()
        self._expect_end()

    def lists(self) -> Iterator[object]:
        """Of each list of one object; its other values are passed over."""
        self._expect("{")
        while self._peek() != "}":
            self._element()
            self._expect(":")
            if self._peek() == "[":
                yield from self._elements()
            else:
                self._element()
            if self._peek() != "}":
                self._expect(",")
        self._expect("}")
        self._expect_end()

    def values(self) -> Iterator[object]:
        """One after the other, with or without commas between."""
        while self._peek():
            yield self._element()
            if self._peek() == ",":
                self._expect(",")

    def _elements(self) -> Iterator[object]:
        self._expect("[")
        self._count = 0
        if self._peek() != "]":
            yield self._element()
            while self._peek() == ",":
                self._expect(",")
                yield self._element()
        self._expect("]")

    def _expect_end(self) -> None:
        if self._peek():
            raise self._damaged("text follows the end of the list")

    def _element(self) -> object:
        self._peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                self._more_or_raise(error)
                continue
            except RecursionError as error:
                end = self._closing()
                if end is None:
                    self._more_or_raise(error)
                    continue
                value = BadRecord("record is nested too deeply", f"record {self._count + 1}")
            # A number may go on in what was not read yet: "1" of "1e+5", cut after the sign.
            is_whole = not isinstance(value, int | float) or end + 3 <= len(self._text)
            if is_whole or self._ended:
                self._at = end
                self._count += 1
                return value
            self._more(CHUNK)

    def _more_or_raise(self, error: Exception) -> None:
        """Read on, as the record may only be cut; as much again as is there, so it stays linear."""
        left = len(self._text) - self._at
        if self._ended or left > LONGEST:
            raise self._damaged(str(error)) from error
        self._more(max(CHUNK, left))

    def _closing(self) -> int | None:
        """Where the brackets of the record at hand close; None if that was not read yet."""
        depth, in_string = 0, False
        for match in _MARK.finditer(self._text, self._at):
            mark = match[0]
            if mark == '"':
                in_string = not in_string
            elif in_string or mark.startswith("\\"):
                continue
            else:
                depth += 1 if mark in "[{" else -1
                if depth == 0:
                    return match.end()
        return None

    def _peek(self) -> str:
        """The next character that is no blank; empty at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in " \t\r\n":
                self._at += 1
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._more(CHUNK)

    def _expect(self, character: str) -> None:
        found = self._peek()
        if found != character:
            raise self._damaged(f"expected {character!r}, found {found or 'the end of the file'!r}")
        self._at += 1

    def _more(self, count: int) -> None:
        data = self._file.read(count)
        added = self._decode(data, not data)
        self._before += self._at
        self._text, self._at = self._text[self._at :] + added, 0
        self._ended = not data

    def _damaged(self, why: str) -> ValueError:
        return ValueError(
            f"{self._path}: the JSON list is damaged in record {self._count + 1}, near character "
            f"{self._before + self._at}: {why}; fetch the file again, or import it as JSON lines"
        )


Adapter = Callable[[Path], Iterable[object]]


def load_adapter(target: str) -> Adapter:
    """The function that `module:function` names, its faults told as ValueError with their place.

    Raises ValueError if it cannot be imported, is no function, or gives no rows one can go through.
    """
    where = f"adapter {target!r}"
    hint = ": install it, or set PYTHONPATH to its folder"
    function = load_function(target, where=where, hint=hint)

    def records(source: Path) -> Iterator[object]:
        count = 0
        try:
            for record in function(source):
                yield record
                count += 1
        except Exception as error:
            raise ValueError(
                f"{where} raised {type(error).__name__} at {place_of(error)} after {count} "
                f"records: {error!s:.300}"
            ) from error

    return records
