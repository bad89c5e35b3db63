"""Records of a JSON list or of JSON lines, one by one: a large file needs little memory."""

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import BinaryIO, TextIO

from o3rl.config.user_functions import load_function, place_of

CHUNK = 2**20
LONGEST = 64 * 2**20  # characters of one record; beyond it the file is damaged
LONGEST_NUMBER = 1000  # digits; Python refuses longer integers, and no field of ours holds one

Watch = Callable[[int], None]  # told how many bytes were read so far

_MARK = re.compile(r'\\.|["\[\]{}]', re.DOTALL)


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that cannot be read: why, in words that can be counted, and which."""

    reason: str
    where: str


def _unwatched(read: int) -> None:
    del read


def read_records(path: Path, *, watch: Watch = _unwatched) -> Iterator[object]:
    """Each value of a JSON list, or of each line; one that cannot be read alone is a BadRecord.

    Raises FileNotFoundError, and ValueError where a list is damaged: what follows cannot be told.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path} to import")
    with path.open("rb") as file:
        first = file.read(3)
        start = 3 if first == b"\xef\xbb\xbf" else 0
        file.seek(start)
        while (byte := file.read(1)).isspace():
            pass
        file.seek(start)
        if byte != b"[":
            yield from _lines(file, watch)
            return
    # Bytes that are no UTF-8 become surrogates, so that the row they are in can be refused alone.
    with (
        path.open("rb") as raw,
        TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape") as file,
    ):
        yield from _List(file, path, lambda: watch(raw.tell())).elements()


def _lines(file: BinaryIO, watch: Watch) -> Iterator[object]:
    number = read = 0
    while line := file.readline(LONGEST + 1):
        number += 1
        read += len(line)
        watch(read)
        if len(line) > LONGEST:
            while line and not line.endswith(b"\n"):
                line = file.readline(LONGEST)
                read += len(line)
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


class _List:
    """The elements of a JSON list, with no more of the text held than one of them and a chunk."""

    def __init__(self, file: TextIO, path: Path, read: Callable[[], None] = lambda: None):
        self._file = file
        self._path = path
        self._was_read = read  # told after each chunk
        self._text = ""
        self._at = 0  # the text before is done with
        self._before = 0  # characters of the file that were dropped
        self._ended = False
        self._count = 0

    def elements(self) -> Iterator[object]:
        self._expect("[")
        if self._peek() != "]":
            yield self._element()
            while self._peek() == ",":
                self._expect(",")
                yield self._element()
        self._expect("]")
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
        added = self._file.read(count)
        self._was_read()
        self._before += self._at
        self._text, self._at = self._text[self._at :] + added, 0
        self._ended = not added

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
