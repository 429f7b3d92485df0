"""The opcodes of a pickle that stand for a value by themselves: numbers, texts, bytes, empty containers."""

from __future__ import annotations

import codecs
import pickle
import struct
from collections.abc import Callable
from typing import Any

MAX_NUMBER = 64  # bytes of an integer, or its digits


class BadPickle(ValueError):
    """A pickle that is damaged, lies, or asks for more than tensors need."""


class Source:
    """Bytes that are read one after the other from `position` on; lengths are checked against what is there."""

    def __init__(self, content: memoryview, position: int):
        self.content, self.position = content, position

    def take(self, count: int) -> memoryview:
        """The next bytes."""
        start, self.position = self.position, self.position + count
        if self.position > len(self.content):
            raise BadPickle("is cut short")
        return self.content[start : self.position]

    def byte(self) -> int:
        """The next byte."""
        position, self.position = self.position, self.position + 1
        if position >= len(self.content):
            raise BadPickle("is cut short")
        return self.content[position]

    def unsigned(self, size: int) -> int:
        """A number of `size` bytes."""
        return int.from_bytes(self.take(size), "little")

    def line(self, limit: int | None = None) -> bytes:
        """The next bytes up to a line's end, `limit` at most."""
        rest = len(self.content) - self.position
        size, limit = 256, rest if limit is None else min(limit + 1, rest)
        while (end := (head := bytes(self.content[self.position :][: min(size, limit)])).find(b"\n")) < 0:
            if size >= limit:
                raise BadPickle("is cut short, or has a line that is too long")
            size *= 4
        self.position += end + 1
        return head[:end]


_Literal = Callable[[Source], Any]


def _number(form: str) -> _Literal:
    packed = struct.Struct(form)
    return lambda source: packed.unpack(source.take(packed.size))[0]


def _sized(size: int, convert: Callable[[memoryview], Any]) -> _Literal:
    """Content after its length, a number of `size` bytes."""
    return lambda source: convert(source.take(source.unsigned(size)))


def _line(convert: Callable[[bytes], Any], limit: int | None = None) -> _Literal:
    return lambda source: convert(source.line(limit))


def _integer(content: memoryview) -> int:
    if len(content) > MAX_NUMBER:
        raise BadPickle(f"has a number of {len(content)} bytes")
    return int.from_bytes(content, "little", signed=True)


def _digits(line: bytes) -> int | bool:
    return line == b"01" if line in (b"00", b"01") else int(line.removesuffix(b"L"))  # 00 and 01: False and True


def _text(content: memoryview) -> str:
    return bytes(content).decode()


def _latin(content: memoryview) -> str:
    """Python 2's strings, numpy's binary ones among them."""
    return bytes(content).decode("latin1")


def _quoted(line: bytes) -> str:
    if len(line) < 2 or line[:1] not in (b"'", b'"') or line[:1] != line[-1:]:
        raise BadPickle("has a text without its quotes")
    return codecs.escape_decode(line[1:-1])[0].decode("latin1")


_BY_NAME: dict[bytes, _Literal] = {
    pickle.NONE: lambda _: None,
    pickle.NEWTRUE: lambda _: True,
    pickle.NEWFALSE: lambda _: False,
    pickle.EMPTY_TUPLE: lambda _: (),
    pickle.EMPTY_LIST: lambda _: [],
    pickle.EMPTY_DICT: lambda _: {},
    pickle.BININT: _number("<i"),
    pickle.BININT1: _number("<B"),
    pickle.BININT2: _number("<H"),
    pickle.BINFLOAT: _number(">d"),
    pickle.LONG1: _sized(1, _integer),
    pickle.LONG4: _sized(4, _integer),
    pickle.SHORT_BINUNICODE: _sized(1, _text),
    pickle.BINUNICODE: _sized(4, _text),
    pickle.BINUNICODE8: _sized(8, _text),
    pickle.SHORT_BINSTRING: _sized(1, _latin),
    pickle.BINSTRING: _sized(4, _latin),
    pickle.SHORT_BINBYTES: _sized(1, bytes),
    pickle.BINBYTES: _sized(4, bytes),
    pickle.BINBYTES8: _sized(8, bytes),
    pickle.BYTEARRAY8: _sized(8, bytes),
    pickle.INT: _line(_digits, MAX_NUMBER),
    pickle.LONG: _line(_digits, MAX_NUMBER),
    pickle.FLOAT: _line(float, MAX_NUMBER),
    pickle.STRING: _line(_quoted),
    pickle.UNICODE: _line(lambda line: line.decode("raw-unicode-escape")),
}

LITERALS = {name[0]: literal for name, literal in _BY_NAME.items()}
"""What each opcode reads."""
