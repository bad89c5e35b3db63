"""Records of a JSON list or of JSON lines, one by one: a large file needs little memory."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TextIO

CHUNK = 2**20
LONGEST = 64 * 2**20  # characters of one record; beyond it the file is damaged


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A line that is no JSON: why, and which."""

    reason: str
    where: str


def read_records(path: Path) -> Iterator[object]:
    """Each value of a JSON list, or of each line; a line that cannot be read is a BadRecord.

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
            yield from _lines(file)
            return
    # Bytes that are no UTF-8 become surrogates, so that the row they are in can be refused alone.
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        yield from _List(file, path).elements()


def _lines(file: BinaryIO) -> Iterator[object]:
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
        return json.loads(line.decode())
    except UnicodeDecodeError:
        return BadRecord("record is not valid Unicode", f"line {number}")
    except (ValueError, RecursionError) as error:
        return BadRecord("record is no JSON", f"line {number}: {error}")


class _List:
    """The elements of a JSON list, with no more of the text held than one of them and a chunk."""

    def __init__(self, file: TextIO, path: Path):
        self._file = file
        self._path = path
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
        decoder = json.JSONDecoder()
        while True:
            try:
                value, end = decoder.raw_decode(self._text, self._at)
            except (ValueError, RecursionError) as error:
                left = len(self._text) - self._at
                if self._ended or left > LONGEST or not isinstance(error, json.JSONDecodeError):
                    raise self._damaged(str(error)) from error
                self._more(max(CHUNK, left))
                continue
            # A number may go on in what was not read yet: "1" of "1e+5", cut after the sign.
            is_whole = not isinstance(value, int | float) or end + 3 <= len(self._text)
            if is_whole or self._ended:
                self._at = end
                self._count += 1
                return value
            self._more(CHUNK)

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
        self._before += self._at
        self._text, self._at = self._text[self._at :] + added, 0
        self._ended = not added

    def _damaged(self, why: str) -> ValueError:
        return ValueError(
            f"{self._path}: the JSON list is damaged in record {self._count + 1}, near character "
            f"{self._before + self._at}: {why}; fetch the file again, or import it as JSON lines"
        )
