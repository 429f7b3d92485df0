"""The entries of a zip archive as views of its bytes; nothing that the archive says is believed unchecked.

Archives as torch.save writes them, of any size: entries stored whole, or deflated by whoever packed them again. An
archive cannot make more of itself than a few times its own size, and nothing is ever written under an entry's name.
"""

from __future__ import annotations

import dataclasses
import itertools
import struct
import zlib

import numpy as np

MAX_DIRECTORY_BYTES = 4 << 20  # some 50,000 entries
_UNPACKED_SLACK = 16 << 20  # bytes that a small archive may unpack to; a large one, four times its size
_END, _END_64 = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")
_ENTRY, _LOCAL = struct.Struct("<4s6H3L5H2L"), struct.Struct("<4s5H3L2H")
_MAX_COMMENT = 65535
_STORED, _DEFLATED, _ENCRYPTED = 0, 8, 1
_IN_64 = 0xFFFFFFFF  # stands for a number that is in the entry's 64-bit extra field


class BadZip(ValueError):
    """An archive that is damaged or lies, and how."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One entry, as the archive's directory describes it."""

    name: str
    method: int
    crc: int  # 0: the writer left it out
    packed_size: int
    size: int
    start: int  # of its own header, in the archive


class Archive:
    """The entries of the archive whose bytes are `content` ((n,) uint8).

    Raises: BadZip where the directory is damaged, names an entry twice or by a path out of the archive, or where
    entries share bytes (so that a small archive could unpack to any size).
    """

    def __init__(self, content: np.ndarray):
        self._content = content
        entries = _directory(content)
        self.entries = {entry.name: entry for entry in entries}
        if len(self.entries) < len(entries):
            raise BadZip("two of its entries have one name")
        for name in self.entries:
            if name.startswith("/") or "\\" in name or ".." in name.split("/"):
                raise BadZip(f"its entry {name[:100]!r} has a name that leads out of the archive")
        self._unpacked_limit = 4 * len(content) + _UNPACKED_SLACK
        self._places = {entry.name: self._place(entry) for entry in entries}
        for (_, end), (start, _) in itertools.pairwise(
            sorted((entry.start, self._places[entry.name][1]) for entry in entries)
        ):
            if start < end:
                raise BadZip("its entries overlap")

    def _place(self, entry: Entry) -> tuple[int, int]:
        """Where the entry's data begin and end."""
        header = self._content[entry.start : entry.start + _LOCAL.size].tobytes()
        if len(header) < _LOCAL.size or header[:4] != b"PK\x03\x04":
            raise BadZip(f"its entry {entry.name[:100]!r} is not where its directory says")
        start = entry.start + _LOCAL.size + sum(_LOCAL.unpack(header)[-2:])
        if start + entry.packed_size > len(self._content):
            raise BadZip(f"its entry {entry.name[:100]!r} is cut short")
        return start, start + entry.packed_size

    def read(self, name: str) -> np.ndarray:
        """An entry's bytes, (n,) uint8, a view where they are stored as they are. Unchecked: see `check`.

        Raises: BadZip where they cannot be unpacked, or KeyError where there is no such entry.
        """
        entry = self.entries[name]
        data = self._content[slice(*self._places[name])]
        if entry.method == _STORED:
            if entry.size != len(data):
                raise BadZip(f"its entry {name[:100]!r} has two sizes")
            return data
        self._unpacked_limit -= entry.size
        if self._unpacked_limit < 0:
            raise BadZip("its entries are compressed to a small part of their size, which weights never are")
        try:
            unpacked = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, entry.size + 1)
        except zlib.error as error:
            raise BadZip(f"its entry {name[:100]!r} cannot be unpacked ({error})") from error
        if len(unpacked) != entry.size:
            raise BadZip(f"its entry {name[:100]!r} does not unpack to the size it gives")
        return np.frombuffer(unpacked, np.uint8)

    def check(self, name: str, data: np.ndarray) -> None:
        """Raises BadZip where the bytes that `read` gave do not fit the entry's checksum."""
        crc = self.entries[name].crc
        if crc and zlib.crc32(data) != crc:
            raise BadZip(f"its entry {name[:100]!r} has changed bytes")


def _directory(content: np.ndarray) -> list[Entry]:
    """The entries that the directory at the archive's end lists."""
    count, size, start = _end(content)
    if size > MAX_DIRECTORY_BYTES or start + size > len(content):
        raise BadZip(f"it gives a directory of {size} bytes at byte {start}; the file has {len(content)}")
    directory, position, entries = content[start : start + size].tobytes(), 0, []
    for _ in range(count):
        if position + _ENTRY.size > size:
            raise BadZip("its directory is shorter than the number of its entries")
        entry, position = _entry(directory, position)
        entries.append(entry)
    return entries


def _end(content: np.ndarray) -> tuple[int, int, int]:
    """Number of entries, size in bytes and start of the directory."""
    offset = max(0, len(content) - _END.size - _MAX_COMMENT)
    tail = content[offset:].tobytes()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + _END.size > len(tail):
        raise BadZip("its end is missing")
    locator = content[max(0, offset + at - _LOCATOR_64.size) : offset + at].tobytes()
    if locator[:4] == b"PK\x06\x07" and len(locator) == _LOCATOR_64.size:
        start = _LOCATOR_64.unpack(locator)[2]
        end = content[start : start + _END_64.size].tobytes()
        if len(end) < _END_64.size or end[:4] != b"PK\x06\x06":
            raise BadZip("the end of its directory is not where it says")
        return _END_64.unpack(end)[-3:]
    return _END.unpack_from(tail, at)[4:7]


def _entry(directory: bytes, position: int) -> tuple[Entry, int]:
    """The directory's entry at `position`, and where the next one is."""
    signature, _, _, flags, method, _, _, crc, *sizes, name_length, extra_length, comment_length, _, _, _, start = (
        _ENTRY.unpack_from(directory, position)
    )
    if signature != b"PK\x01\x02":
        raise BadZip("its directory has changed bytes")
    if flags & _ENCRYPTED or method not in (_STORED, _DEFLATED):
        raise BadZip(f"it is encrypted, or packed by another method ({method}) than deflate")
    name_end = position + _ENTRY.size + name_length
    extra_end = name_end + extra_length
    # Latin-1 gives every sequence of bytes a name of its own; only the folder's name can be other than ASCII.
    name = directory[position + _ENTRY.size : name_end].decode("latin1")
    packed_size, size, start = _wide((*sizes, start), directory[name_end:extra_end])
    return Entry(name, method, crc, packed_size, size, start), extra_end + comment_length


def _wide(numbers: tuple[int, int, int], extra: bytes) -> tuple[int, int, int]:
    """Packed size, size and start, those that need 64 bits from the extra field (in its order: size first)."""
    packed_size, size, start = numbers
    if _IN_64 not in numbers:
        return numbers
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        field, extra = extra[4 : 4 + length], extra[4 + length :]
        if kind == 1:
            wide = iter(struct.unpack_from(f"<{len(field) // 8}Q", field))
            size, packed_size, start = (next(wide, n) if n == _IN_64 else n for n in (size, packed_size, start))
            return packed_size, size, start
    raise BadZip("its directory lacks an entry's 64-bit sizes")
