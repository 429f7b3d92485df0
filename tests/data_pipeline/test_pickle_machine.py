"""The opcodes of a pickle against the standard library's unpickler, and the limits that it lacks."""

import collections
import pickle

import pytest

from data_pipeline import pickle_machine
from data_pipeline.pickle_literals import LITERALS, BadPickle, Source
from data_pipeline.pickle_machine import Allowance, Function, PickleMachine, Unfinished

LINES = [
    b"I12\n", b"I-7\n", b"I00\n", b"I01\n", b"L-5L\n", b"L123456789012345678901234567890L\n", b"F-1.5e3\n",
    b"S'a\\x00\\'b'\n", b'S"it\'s \\n"\n', b"Vcaf\\u00e9\n",
]  # fmt: skip
SIZED = [
    b"J\xfb\xff\xff\xff", b"K\xff", b"M\x01\x02", b"G\xbf\xf8\x00\x00\x00\x00\x00\x00",
    b"\x8a\x00", b"\x8a\x02\x00\xff", b"\x8b\x03\x00\x00\x00\x01\x02\x03",
    b"\x8c\x03\xe2\x82\xac", b"X\x02\x00\x00\x00ab", b"\x8d\x01\x00\x00\x00\x00\x00\x00\x00z",
    b"U\x03a\xffb", b"T\x02\x00\x00\x00\xe9\x00", b"C\x02\x00\xff", b"B\x01\x00\x00\x00\x80",
    b"\x8e\x02\x00\x00\x00\x00\x00\x00\x00ab", b"\x96\x02\x00\x00\x00\x00\x00\x00\x00ab",
]  # fmt: skip
ALONE = [b"N", b"\x88", b"\x89", b")", b"]", b"}"]


def source(content, position=0):
    return Source(memoryview(content), position)


def load(content, find_global=None, find_persistent=None):
    return PickleMachine(source(content), Allowance(len(content)), find_global, find_persistent).run()


def test_every_literal_is_tried():
    assert {literal[0] for literal in LINES + SIZED + ALONE} == set(LITERALS)


@pytest.mark.parametrize("content", LINES + SIZED + ALONE, ids=repr)
def test_literals_are_the_standard_librarys(content):
    read = source(content + b"rest", 1)
    found, expected = LITERALS[content[0]](read), pickle.loads(content + b".", encoding="latin1")
    assert found == expected and isinstance(found, bytes if type(expected) is bytearray else type(expected))
    assert read.position == len(content)


@pytest.mark.parametrize("content", LINES + SIZED, ids=repr)
def test_literals_cut_short_are_refused(content):
    for length in range(1, len(content)):
        with pytest.raises(BadPickle, match="cut short"):
            LITERALS[content[0]](source(content[:length], 1))


def test_long_numbers_are_refused():
    assert load(b"\x8a\x40" + b"\x01" * 64 + b".") == int.from_bytes(b"\x01" * 64, "little")
    with pytest.raises(BadPickle, match="number of 65 bytes"):
        load(b"\x8a\x41" + b"\x01" * 65 + b".")
    assert load(b"I" + b"9" * 64 + b"\n.") == 10**64 - 1
    with pytest.raises(BadPickle, match="too long"):
        load(b"I" + b"9" * 65 + b"\n.")


def test_lines_of_any_length_are_read():
    for length in (0, 255, 256, 257, 5000):
        assert load(b"V" + b"a" * length + b"\n.") == "a" * length
    for quoted in (b"", b"'", b"a", b"'a\"", b'"a'):
        with pytest.raises(BadPickle, match="without its quotes"):
            load(b"S" + quoted + b"\n.")


SHARED = ["shared"]
NESTED = {
    "list": [1, [], (2,), (3, 4), (5, 6, 7), (8, 9, 10, 11), ()],
    (1, "key", None): {"a": {b"b": 1.5}},
    "same": [SHARED, SHARED, {"again": SHARED}],
    2**70: -(2**70),
    "long": list(range(1500)),  # more than one batch of APPENDS
    True: None,
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_containers_are_the_standard_librarys(protocol):
    calls = {("_codecs", "encode"): Function(lambda text, encoding: text.encode(encoding))}  # bytes, up to protocol 2
    found = load(pickle.dumps(NESTED, protocol), lambda module, name: calls[module, name])
    assert found == NESTED and list(found) == list(NESTED)
    first, second, third = found["same"]
    assert first is second is third["again"]


def test_pickles_follow_each_other():
    read, allowance = source(b"".join(pickle.dumps(n, 2) for n in (1, "two"))), Allowance(99)
    assert [PickleMachine(read, allowance, None, None).run() for _ in range(2)] == [1, "two"]
    assert read.position == len(read.content)


class Pair(Unfinished):
    __slots__ = ("state",)

    def build(self, state):
        self.state = state


GLOBALS = {
    ("a.b", "join"): Function(lambda *arguments: "-".join(arguments)),
    ("a.b", "Pair"): Function(Pair),
    ("a.b", "Ordered"): Function(collections.OrderedDict),
    ("a.b", "constant"): "float32",
}
JOIN, PAIR = b"ca.b\njoin\n", b"ca.b\nPair\n"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"ca.b\nconstant\n.", "float32"),
        (b"\x8c\x03a.b\x8c\x08constant\x93.", "float32"),
        (JOIN + b"(U\x01xU\x01ytR.", "x-y"),
        (JOIN + b"U\x01x\x85\x81.", "x"),
        (b"(" + JOIN + b"U\x01xU\x01yo.", "x-y"),
        (b"(U\x01xU\x01yia.b\njoin\n.", "x-y"),
        (b"(U\x01kK\x05tQ.", ("stored", "k", 5)),
        (b"ca.b\nOrdered\n)R}U\x01aK\x01sb.", {}),  # attributes of a state dict, which are left out
    ],
    ids=repr,
)
def test_globals_and_calls(content, expected):
    found = load(content, lambda *name: GLOBALS[name], lambda pid: ("stored", *pid))
    assert found == expected


def test_what_is_unfinished_gets_its_state():
    assert load(PAIR + b")R(K\x01K\x02tb.", lambda *name: GLOBALS[name]).state == (1, 2)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "cut short"),
        (b"]", "cut short"),
        (b".", "do not fit together"),
        (b"Nt.", "do not fit together"),  # no mark
        (b"h\x00.", "do not fit together"),  # nothing in the memo
        (b"]0R.", "do not fit together"),
        (b"}Na.", "appends to something else"),
        (b"]NNs.", "sets an item of something else"),
        (b"}]Ns.", "key that is neither name nor number"),
        (b"})\x85\x85Ns.", "key that is neither name nor number"),
        (b"K\x01)R.", "calls something that is no function"),
        (b"ca.b\nconstant\n)R.", "calls something that is no function"),
        (JOIN + b"]R.", "with wrong arguments"),
        (JOIN + b"(" + b"U\x01x" * 17 + b"tR.", "with wrong arguments"),
        (JOIN + b"(K\x01tb.", "gives a state to something that has none"),
        (PAIR + b")R}b.", "gives a state to something that has none"),
        (b"K\x01K\x02\x93.", "by something else than a name"),
        (b"\x82\x01.", r"opcode \(b'\\x82'\)"),  # from the registry of extensions
        (b"\x92.", r"opcode \(b'\\x92'\)"),
    ],
    ids=repr,
)
def test_what_does_not_fit_is_refused(content, what):
    with pytest.raises(BadPickle, match=what):
        load(content, lambda *name: GLOBALS[name])


def test_opcodes_are_counted_over_all_pickles(monkeypatch):
    monkeypatch.setattr(pickle_machine, "MAX_OPERATIONS", 10)
    allowance, read = Allowance(0), source(b"N0N0N." * 3)  # five opcodes each, and the one that ends it
    for _ in range(2):
        PickleMachine(read, allowance, None, None).run()
    with pytest.raises(BadPickle, match="more than 10 opcodes"):
        PickleMachine(read, allowance, None, None).run()


def test_copies_are_counted_and_bounded_by_the_files_size():
    """Four times the file and 16 MiB: a small file may unpack to something, a large one to a few times itself."""
    for size in (0, 1000):
        allowance = Allowance(size)
        allowance.copy(4 * size + 2**24)
        allowance.copy(0)
        with pytest.raises(BadPickle, match="many times the size of the file"):
            allowance.copy(1)
    allowance = Allowance(0)
    allowance.copy(2**24 - 3 - 2 - 64 * 5)
    allowance.copy_all(["abc", b"de", [1, 2], (3, 4, 5), 7, None])
    with pytest.raises(BadPickle):
        allowance.copy_all(["x"])
