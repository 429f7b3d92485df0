"""Zip archives and safetensors files that are bombs or lie, and what commonly lies in the place of a file of weights.

FILES is {file name: (content, what the refusal says)}.
"""

import io
import json
import struct
import zipfile
import zlib

from tests.convert.hostile_pickles import archive, named, number, storage, tensor


def changed(content, old, new, count=-1):
    assert old in content and len(old) == len(new)
    return content.replace(old, new, count)


def overlapping():
    """Two directory entries for one place."""
    whole = archive(named(tensor()))
    start = whole.index(b"archive/data/0") - 30
    place = whole.rindex(b"archive/data.pkl") - 4
    return whole[:place] + struct.pack("<I", start) + whole[place + 4 :]


def with_two(names):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        for name in names:
            packed.writestr(name, named(tensor()))
    return file.getvalue()


def with_end(content, **fields):
    """The archive with other numbers in the record at its end."""
    end = content.rindex(b"PK\x05\x06")
    form = struct.Struct("<4s4H2LH")
    names = ("signature", "disk", "first_disk", "entries_here", "entries", "size", "start", "comment")
    values = dict(zip(names, form.unpack_from(content, end), strict=True)) | fields
    return content[:end] + form.pack(*values.values())


def with_end_64(content, start):
    end = content.rindex(b"PK\x05\x06")
    return content[:end] + struct.pack("<4sLQL", b"PK\x06\x07", 0, start, 1) + content[end:]


VALID = archive(named(tensor()))
PACKED = archive(named(tensor()), method=zipfile.ZIP_DEFLATED)
BOMB = archive(named(tensor(content=storage(number(16 << 20)))), bytes(64 << 20), method=zipfile.ZIP_DEFLATED)
PICKLE_BOMB = archive(b"\x80\x02" + bytes(64 << 20), method=zipfile.ZIP_DEFLATED)
ARCHIVES = {
    "parent_folder.pth": (archive(named(tensor()), folder="../../x"), "leads out of the archive"),
    "absolute.pth": (archive(named(tensor()), folder="/x"), "leads out of the archive"),
    "backslash.pth": (archive(named(tensor()), folder="..\\x"), "leads out of the archive"),
    "two_pickles.pth": (with_two(["a/data.pkl", "b/data.pkl"]), "2 entries named data.pkl"),
    "same_name.pth": (changed(with_two(["a/data.pkl", "a/data.pkk"]), b"data.pkk", b"data.pkl"), "have one name"),
    "photos.pth": (with_two(["a.jpg"]), "no entries named data.pkl"),
    "bomb.pth": (BOMB, "compressed to a small part"),
    "pickle_bomb.pth": (PICKLE_BOMB, "compressed to a small part"),
    "hidden_bomb.pth": (
        changed(BOMB, struct.pack("<I", 64 << 20), struct.pack("<I", 4)),
        "does not unpack to the size|cannot be unpacked",
    ),
    "longer.pth": (changed(VALID, struct.pack("<II", 16, 16), struct.pack("<II", 16, 1 << 30)), "two sizes"),
    "beyond.pth": (changed(VALID, struct.pack("<II", 16, 16), struct.pack("<II", 1 << 30, 1 << 30)), "cut short"),
    "overlapping.pth": (overlapping(), "overlap"),
    "encrypted.pth": (
        changed(VALID, b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01"),
        "encrypted",
    ),
    "method.pth": (
        changed(VALID, b"PK\x01\x02\x14\x03\x14\x00\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x00\x00\x0e"),
        r"method \(14\)",
    ),
    "checksum.pth": (changed(VALID, bytes(16), bytes(15) + b"\x01", 1), "changed bytes"),
    "packed_checksum.pth": (
        changed(PACKED, struct.pack("<I", zlib.crc32(bytes(16))), b"\1\2\3\4"),
        "changed bytes",
    ),
    "count.pth": (with_end(VALID, entries=65535), "shorter than the number of its entries"),
    "directory_size.pth": (with_end(VALID, size=0xFFFFFFFF), "directory of 4294967295 bytes"),
    "directory_start.pth": (with_end(VALID, start=0xFFFFFFF0), "directory of"),
    "end_64.pth": (with_end_64(VALID, 1 << 63), "not where it says"),
    "big_endian.pth": (
        with_two(["a/data.pkl", "a/byteorder"]),
        "big-endian",
    ),
}

PLACE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def safetensors(header, data=bytes(8)):
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(content)) + content + data


SAFETENSORS = {
    "length.safetensors": (struct.pack("<Q", 1 << 63) + b"{}", "header of 9223372036854775808 bytes"),
    "deep.safetensors": (safetensors(b'{"x":' + b"[" * 10**6), "nested too deeply"),
    "objects.safetensors": (safetensors(b'{"x":[' + b"{}," * 660_000 + b"{}]}"), "entry 'x'"),
    "shape.safetensors": (safetensors({"x": {**PLACE, "shape": [1 << 62, 1 << 62]}}), "does not fill"),
    "bool.safetensors": (safetensors({"x": {**PLACE, "shape": [True, 2]}}), "not a type, a shape"),
    "dtype.safetensors": (safetensors({"x": {**PLACE, "dtype": "O" * 10**6}}), "of type 'OOO"),
    "offsets.safetensors": (safetensors({"x": {**PLACE, "data_offsets": [-8, 0]}}), "not a type, a shape"),
    "digits.safetensors": (safetensors(b'{"x": {"shape": [' + b"9" * 10**6 + b"]}}"), "no whole safetensors"),
    "overlap.safetensors": (safetensors({"x": PLACE, "y": PLACE}), "overlap"),
    "pickle.safetensors": (VALID, "no whole safetensors"),
}

MISTAKES = {
    "empty.pth": (b"", "empty"),
    "empty.safetensors": (b"", "empty"),
    "page.pth": (b"\n<!DOCTYPE html><html>Quota exceeded</html>", "is a web page"),
    "page.safetensors": (b"<html>404</html>", "is a web page"),
    "lfs.pth": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 745\n", "pointer of Git LFS"),
    "lfs.safetensors": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 745\n", "pointer of Git LFS"),
    "magic.pth": (b"\x89PNG\r\n\x1a\n" + bytes(1000), "no readable pickle"),
    "tar.pth": (bytes(257) + b"ustar" + bytes(250), "tar archive"),
    "text.pth": (b"404 not found", "no readable pickle"),
    "zeros.pth": (bytes(10**6), "no readable pickle"),
}

FILES = ARCHIVES | SAFETENSORS | MISTAKES
