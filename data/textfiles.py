"""Text files line by line and JSON files element by element, with the line of everything that is wrong."""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glyphrl.data.problems import Problem, shown
from glyphrl.errors import UserError

_CHUNK = 1 << 20
_SURROGATE = re.compile("[\ud800-\udfff]")
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True)
class Line:
    """One line of a text file, without its line end."""

    number: int
    """From 1."""
    text: str


def read_lines(path: Path) -> Iterator[Line | Problem]:
    """The lines of a UTF-8 file that are not blank; lines that are not valid UTF-8 come as problems.

    Lines end with LF or CRLF and with nothing else: a reference text may hold a form feed, U+2028 or U+0085.
    A byte order mark at the start is no text.

    Raises:
        UserError: The file cannot be opened, or is UTF-16.
    """
    with open_bytes(path) as file:
        for number, raw in enumerate(file, start=1):
            if number == 1:
                raw = raw.removeprefix(codecs.BOM_UTF8)
            try:
                text = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                yield invalid_utf8(
                    path, number, f"byte 0x{raw[error.start]:02x} at position {error.start + 1}"
                )
                continue
            text = text.removesuffix("\n").removesuffix("\r")
            if text.strip():
                yield Line(number, text)


def open_bytes(path: Path) -> io.BufferedReader:
    """Opens a data file for reading bytes.

    Raises:
        UserError: It is missing, a folder, not readable, or UTF-16.
    """
    try:
        file = open(path, "rb")  # noqa: SIM115  (the caller closes it)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected a data file") from None
    if file.peek(2)[:2] in _UTF16_MARKS:
        file.close()
        raise UserError(f"{path}: found UTF-16 text; expected UTF-8, convert the file first")
    return file


def invalid_utf8(path: Path, line: int, found: str, field: str = "") -> Problem:
    """The problem for text that is not UTF-8."""
    return Problem("invalid_utf8", str(path), line, field, found, "UTF-8 text")


def find_surrogate(value: object) -> str | None:
    """The first string in a JSON value with a lone surrogate (undecodable byte or broken escape), or None."""
    if isinstance(value, str):
        return value if _SURROGATE.search(value) else None
    if isinstance(value, dict):
        return next((s for item in value.items() for part in item if (s := find_surrogate(part))), None)
    if isinstance(value, list):
        return next((s for part in value if (s := find_surrogate(part))), None)
    return None


@dataclass(frozen=True)
class JsonRow:
    """One JSON object of a file."""

    line: int
    """Line on which it starts, from 1."""
    value: dict[str, Any]


def read_json_rows(path: Path) -> Iterator[JsonRow | Problem]:
    """The objects of a JSON Lines file, or of a file that holds one JSON array of objects.

    Raises:
        UserError: The file cannot be opened, or an array breaks off: what follows cannot be read then.
    """
    with open_bytes(path) as file:
        start = file.read(4096).removeprefix(codecs.BOM_UTF8).lstrip()
    if start.startswith(b"["):
        rows: Iterator[tuple[int, Any] | Problem] = _read_array(path)
    else:
        rows = _read_json_lines(path)
    for row in rows:
        if isinstance(row, Problem):
            yield row
            continue
        line, value = row
        if isinstance(value, dict):
            yield JsonRow(line, value)
        else:
            yield Problem("wrong_type", str(path), line, "", shown(value), "a JSON object")


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def _read_json_lines(path: Path) -> Iterator[tuple[int, Any] | Problem]:
    for line in read_lines(path):
        if isinstance(line, Problem):
            yield line
            continue
        try:
            value = _DECODER.decode(line.text)
        except (ValueError, RecursionError) as error:
            found = f"{shown(line.text)} ({error})"
            yield Problem("malformed_json", str(path), line.number, "", found, "one JSON object per line")
            continue
        # Text that was decoded holds no lone surrogate, but an escape may.
        bad = find_surrogate(value) if "\\u" in line.text else None
        yield (line.number, value) if bad is None else _broken_text(path, line.number, bad)


def _broken_text(path: Path, line: int, text: str) -> Problem:
    return invalid_utf8(path, line, f"a lone surrogate or undecodable byte in {shown(text)}")


def _read_array(path: Path) -> Iterator[tuple[int, Any] | Problem]:
    """Elements of a JSON array, read chunk by chunk: the whole array is never in memory."""
    with open_bytes(path) as file:
        buffer = _ArrayBuffer(path, file)
        buffer.expect("[")
        if buffer.next_character() == "]":
            return
        while True:
            line, value = buffer.element()
            bad = find_surrogate(value)
            yield (line, value) if bad is None else _broken_text(path, line, bad)
            if buffer.next_character() == "]":
                return
            buffer.expect(",")


class _ArrayBuffer:
    """The part of an array file that is read but not yet parsed."""

    def __init__(self, path: Path, file: io.BufferedReader) -> None:
        self.path = path
        self.file = file
        # Undecodable bytes become lone surrogates, so that only the element that holds them is lost.
        self.decoder = codecs.getincrementaldecoder("utf-8-sig")(errors="surrogateescape")
        self.text = ""
        self.position = 0
        self.line = 1
        self.ended = False

    def more(self, size: int) -> None:
        """Reads about `size` further characters where the file has them."""
        data = self.file.read(size)
        self.ended = not data
        self.text = self.text[self.position :] + self.decoder.decode(data, final=self.ended)
        self.position = 0

    def advance(self, position: int) -> None:
        """Consumes the text up to `position`."""
        self.line += self.text.count("\n", self.position, position)
        self.position = position

    def next_character(self) -> str:
        """The next character that is no white space, not consumed; empty at the end of the file."""
        while True:
            position = self.position
            while position < len(self.text) and self.text[position] in " \t\r\n":
                position += 1
            self.advance(position)
            if position < len(self.text):
                return self.text[position]
            if self.ended:
                return ""
            self.more(_CHUNK)

    def expect(self, character: str) -> None:
        """Consumes `character`."""
        found = self.next_character()
        if found != character:
            raise self.broken(repr(found) if found else "the end of the file", repr(character))
        self.advance(self.position + 1)

    def element(self) -> tuple[int, Any]:
        """Line and value of the next element."""
        self.next_character()
        line = self.line
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.position)
                # A number may go on in the next chunk.
                if end < len(self.text) or self.ended:
                    self.advance(end)
                    return line, value
            except RecursionError:
                raise self.broken("values nested too deeply", "an object") from None
            except ValueError as error:
                if self.ended:
                    raise self.broken(str(error), "a JSON object") from None
            self.more(2 * (len(self.text) - self.position) + _CHUNK)

    def broken(self, found: str, expected: str) -> UserError:
        """The error for an array that cannot be parsed further."""
        return UserError(
            f"{self.path}:{self.line}: the JSON array breaks off: found {found}, expected {expected}; mend "
            "the file (the rows after this place cannot be read)"
        )
