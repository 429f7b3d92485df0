"""Whatever is done to a file of weights, reading it gives arrays or BadFile: no other error, and in little time."""

import pathlib
import pickle
import pickletools
import resource
import struct
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from avs_jax import convert
from data_pipeline.problems import BadFile
from tests.convert import hostile_pickles as forms

MAX_SECONDS, MAX_MEGABYTES = 2, 200
FIXTURES = pathlib.Path(__file__).parents[1] / "data_pipeline/fixtures"
ARRAYS = {
    "rows": np.arange(6, dtype=np.float32).reshape(2, 3),
    "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big-endian": np.arange(3, dtype=">i4"),
    "text": np.array(["a", "bcd"]),
    "count": np.float64(2.5),
}
PICKLES = {f"numpy_{protocol}": pickle.dumps({"model": ARRAYS}, protocol) for protocol in range(6)} | {
    "tensor": forms.named(forms.tensor((2, 2), (2, 1))),
    "tensors": forms.named(b"(" + forms.tensor((2, 2), (2, 1)) + forms.tensor((0, 3), (3, 1)) + b"l"),
}
WRAPS = {  # how a pickle comes in a file
    "plain.pkl": bytes,
    "zip.pth": forms.archive,
    "stream.pth": forms.stream,
    "content.pkl": lambda pickled: forms.named(forms.tensor_of_content(forms.stream(pickled))),
}
WHOLE = {path.name: path.read_bytes() for path in FIXTURES.iterdir() if path.suffix in (".pth", ".pkl")}
WHOLE["library.safetensors"] = (pathlib.Path(__file__).parent / "fixtures/library.safetensors").read_bytes()
WORDS = [opcode.code.encode("latin1") for opcode in pickletools.opcodes]
WORDS += [struct.pack(form, n) for form in ("<H", "<I", "<Q") for n in (0, 1, 1 << 15, (1 << 16) - 1)]
WORDS += [b"\xff" * 4, b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"2\x86" * 40, b"h\x00", b"h\x01", b"\x94", b"PK\x05\x06"]
WORDS += [forms.tensor(), forms.storage(), forms.number(1 << 40), forms.number(-1), forms.text("0"), forms.numbers(4)]
WORDS += [b"c" + name + b"\n" for name in (b"torch\nSize", b"numpy\ndtype", b"collections\nOrderedDict", b"os\nsystem")]
WORDS += [b"999999999999", b"-1", b"1e400", b'"F64"', b'"shape"', b"[", b"{", b"null", b"true"]

CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["flip", "replace", "insert", "delete", "repeat", "cut"]),
        st.floats(0, 1),
        st.integers(0, 7),
        st.sampled_from(WORDS) | st.binary(max_size=4),
    ),
    min_size=1,
    max_size=6,
)


def changed(content, changes):
    """The content with its bits flipped, parts replaced, inserted, deleted, repeated, or its end cut off."""
    content = bytearray(content)
    for kind, where, amount, word in changes:
        at = int(where * len(content))
        match kind:
            case "flip" if at < len(content):
                content[at] ^= 1 << amount
            case "replace":
                content[at : at + len(word)] = word
            case "insert":
                content[at:at] = word
            case "delete":
                del content[at : at + 2**amount]
            case "repeat":
                content[at:at] = content[at : at + 2**amount] * amount
            case "cut":
                del content[at:]
    return bytes(content)


def peak_megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def assert_arrays_or_bad_file(path, content):
    path.write_bytes(content)
    start = time.process_time()
    try:
        found = convert.read(path)
    except BadFile as error:
        assert str(error).startswith(f"{path}: ") and len(str(error)) < 2000
    else:
        assert all(isinstance(name, str) and isinstance(array, np.ndarray) for name, array in found.items())
        for array in found.values():
            array.tobytes()  # as far as its shape says
    assert time.process_time() - start < MAX_SECONDS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One for all inputs. Their peak of memory is checked at the end."""
    before = peak_megabytes()
    yield tmp_path_factory.mktemp("fuzz")
    assert peak_megabytes() - before < MAX_MEGABYTES


FUZZ = settings(
    max_examples=400,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@FUZZ
@given(st.sampled_from(sorted(WHOLE)), CHANGES)
def test_changed_files(folder, name, changes):
    assert_arrays_or_bad_file(folder / name, changed(WHOLE[name], changes))


@FUZZ
@given(st.sampled_from(sorted(PICKLES)), st.sampled_from(sorted(WRAPS)), CHANGES)
def test_changed_pickles_in_whole_files(folder, name, wrap, changes):
    assert_arrays_or_bad_file(folder / wrap, WRAPS[wrap](changed(PICKLES[name], changes)))


@FUZZ
@given(CHANGES)
def test_changed_headers_of_safetensors(folder, changes):
    whole = WHOLE["library.safetensors"]
    size = int.from_bytes(whole[:8], "little")
    header = changed(whole[8 : 8 + size], changes)
    assert_arrays_or_bad_file(folder / "x.safetensors", struct.pack("<Q", len(header)) + header + whole[8 + size :])
