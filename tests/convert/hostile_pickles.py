"""Pickles that want to run something, to take all memory or time, or that lie.

FILES is {file name: (content, what the refusal says)}.
"""

import io
import pickle
import struct
import zipfile

import numpy as np

CANARY = "was_run"  # a file that the harmful pickles would write in the working folder
COMMAND = f"touch {CANARY}"

TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n("
NO_HOOKS = b"\x89}tR"


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value):
    content = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(content)]) + content


FLOAT, KEY, FOUR = b"ctorch\nFloatStorage\n", text("0"), number(4)


def storage(count=FOUR, kind=FLOAT, key=KEY):
    return b"(" + text("storage") + kind + key + text("cpu") + count + b"tQ"


def numbers(*values):
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(size=(4,), stride=(1,), offset=0, content=None):
    return TENSOR + (content or storage()) + number(offset) + numbers(*size) + numbers(*stride) + NO_HOOKS


def named(value):
    """A state dict of one entry."""
    return b"\x80\x02}" + text("weight") + value + b"s."


def archive(pickled, data=bytes(16), folder="archive", method=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as packed:
        packed.writestr(f"{folder}/data.pkl", pickled)
        packed.writestr(f"{folder}/data/0", data)
    return file.getvalue()


def stream(pickled, keys=("0",), count=4):
    header = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    pickles = [*(pickle.dumps(part, 2) for part in header), pickled, pickle.dumps([*keys], 2)]
    return b"".join(pickles) + struct.pack("<q", count) + bytes(4 * count)


def tensor_of_content(content):
    return b"ctorch.storage\n_load_from_bytes\n(" + b"B" + struct.pack("<I", len(content)) + content + b"tR"


def laughs(levels=60):
    """A tuple of itself twice, of itself twice, ..."""
    return b")" + b"2\x86" * levels


class Run:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def objects(protocol):
    return pickle.dumps({"weight": np.array([Run(eval, COMMAND), None])}, protocol)


def nested_contents(levels):
    content = b"\x80\x02N."
    for _ in range(levels):
        call = b"ctorch.storage\n_load_from_bytes\n(h\x00tR0"
        content = b"\x80\x02B" + struct.pack("<I", len(content)) + content + b"q\x00" + call * 8 + b"N."
    return content


REFUSED = "nothing was run"
CODE = {
    "system.pth": (archive(named(b"cposix\nsystem\n(" + text(COMMAND) + b"tR")), "'posix.system'.*" + REFUSED),
    "system_in_stream.pth": (stream(named(b"cos\nsystem\n(" + text(COMMAND) + b"tR")), "'os.system'.*" + REFUSED),
    "system_in_tensor.pkl": (
        named(tensor_of_content(b"cos\nsystem\n(" + text(COMMAND) + b"tR.")),
        "'os.system'.*" + REFUSED,
    ),
    "eval.pkl": (named(b"cbuiltins\neval\n(" + text("1/0") + b"tR"), "'builtins.eval'.*" + REFUSED),
    "stack_global.pkl": (
        named(text("builtins") + text("exec") + b"\x93" + text("1/0") + b"\x85R"),
        "'builtins.exec'.*" + REFUSED,
    ),
    "inst.pkl": (named(b"(" + text(COMMAND) + b"ios\nsystem\n"), "'os.system'.*" + REFUSED),
    "obj.pkl": (named(b"(csubprocess\nPopen\n" + text(COMMAND) + b"o"), "'subprocess.Popen'.*" + REFUSED),
    "newobj.pkl": (named(b"csubprocess\nPopen\n" + text(COMMAND) + b"\x85\x81"), "'subprocess.Popen'.*" + REFUSED),
    "newobj_ex.pkl": (named(b"ctorch\nSize\n)}\x92"), r"opcode \(b'\\x92'\)"),
    "extension.pkl": (named(b"\x82\x01"), r"opcode \(b'\\x82'\)"),
    "persistent_text.pkl": (named(b"P0\n"), r"opcode \(b'P'\)"),
    "buffer.pkl": (named(b"\x97"), r"opcode \(b'\\x97'\)"),
    "getattr.pkl": (named(b"cbuiltins\ngetattr\n(cos\nsystem\n" + text("x") + b"tR"), "'builtins.getattr'.*" + REFUSED),
    "attribute_chain.pkl": (
        named(text("torch._utils") + text("_rebuild_tensor_v2.__globals__") + b"\x93"),
        "__globals__'.*" + REFUSED,
    ),
    "import.pkl": (named(b"cbuiltins\n__import__\n(" + text("os") + b"tR"), "'builtins.__import__'.*" + REFUSED),
    "long_name.pkl": (named(text("a" * 10**6) + text("b") + b"\x93"), "asks for 'a{200}'"),
    "change_function.pkl": (named(b"ctorch\nSize\n(N}" + text("call") + b"Nstb"), "gives a state"),
    "call_text.pkl": (named(text("torch.Size") + b")R"), "no function"),
    "objects_2.pkl": (objects(2), "arrays of 'O8?'|asks for"),
    "objects_5.pkl": (objects(5), "arrays of 'O8?'|asks for"),
    "load.pkl": (named(b"cnumpy\nload\n(" + text("x.npy") + b"tR"), "'numpy.load'.*" + REFUSED),
}

BIG = struct.pack("<Q", 1 << 62)
SWAPPED = b"cnumpy._core.numeric\n_frombuffer\n(h\x00h\x01" + numbers(1 << 18) + text("C") + b"tR0"
SIZES = {
    "memo_index.pkl": (b"\x80\x02Nr\xff\xff\xff\x7f0", "cut short"),
    "long4.pkl": (b"\x80\x02\x8b\xff\xff\xff\x7f" + bytes(100), "cut short"),
    "long4_whole.pkl": (b"\x80\x02\x8b" + struct.pack("<I", 10**6) + b"\x7f" * 10**6 + b".", "number of 1000000 bytes"),
    "digits.pkl": (b"I" + b"9" * 10**6 + b"\n.", "line that is too long"),
    "unicode8.pkl": (b"\x80\x04\x8d" + BIG + bytes(100), "cut short"),
    "bytes8.pkl": (b"\x80\x04\x8e" + BIG + bytes(100), "cut short"),
    "bytearray8.pkl": (b"\x80\x05\x96" + BIG + bytes(100), "cut short"),
    "frame.pkl": (b"\x80\x04\x95" + BIG, "cut short"),
    "deep_lists.pkl": (b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".", "100 containers in one another"),
    "deep_tuples.pkl": (named(b")" + b"\x85" * 200_000), "100 containers in one another"),
    "marks.pkl": (b"\x80\x02" + b"(" * 400_000, "cut short"),
    "laughs.pkl": (named(laughs()), "other things than arrays"),
    "laughs_as_key.pkl": (b"\x80\x02}" + laughs() + b"Ns.", "key that is neither name nor number"),
    "laughs_as_name.pkl": (named(b"ctorch\ndevice\n" + laughs() + b"\x85R"), "device without a name"),
    "laughs_as_type.pkl": (named(b"cnumpy\ndtype\n" + laughs() + b"\x85R"), "something else than a name"),
    "laughs_as_storage.pkl": (named(laughs() + b"Q"), "no storage"),
    "itself.pkl": (b"\x80\x02}q\x00" + text("model") + b"h\x00s.", "containers in one another"),
    "many_opcodes.pkl": (b"\x80\x02" + b"N0" * 600_000, "more than 500000 opcodes"),
    "many_lists.pkl": (b"\x80\x02" + b"]" * 600_000, "more than 500000 opcodes"),
    "many_calls.pkl": (
        b"\x80\x02(" + b"K\x01N\x86" * 50_000 + b"lq\x00" + b"ccollections\nOrderedDict\nq\x01h\x00\x85R" * 10_000,
        "many times the size",
    ),
    "many_copies.pkl": (
        b"\x80\x02B" + struct.pack("<I", 1 << 20) + bytes(1 << 20) + b"q\x000cnumpy\ndtype\n" + text("f4") + b"\x85R("
        b"K\x03" + text(">") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbq\x010" + SWAPPED * 10_000 + b"N.",
        "many times the size",
    ),
    "nested_contents.pkl": (nested_contents(12), "contents of their own"),
    "expanded.pth": (archive(named(tensor((1 << 40,), (0,)))), "many times the size"),
    "overlapping_rows.pth": (
        archive(named(tensor((10**5, 10**5), (1, 1), content=storage(number(10**6)))), bytes(4 * 10**6)),
        "many times the size",
    ),
}

LIES = {
    "elements.pth": (archive(named(tensor((5,)))), "reaches outside its storage"),
    "huge_shape.pth": (archive(named(tensor((1 << 32, 1 << 32), (1 << 32, 1)))), "reaches outside its storage"),
    "huge_stride.pth": (archive(named(tensor((2,), (1 << 62,)))), "reaches outside its storage"),
    "huge_offset.pth": (archive(named(tensor(offset=1 << 63))), "reaches outside its storage"),
    "negative_offset.pth": (archive(named(tensor(offset=-1))), "no natural number"),
    "negative_shape.pth": (archive(named(tensor((-1, -4), (1, 1)))), "no natural number"),
    "negative_stride.pth": (archive(named(tensor(stride=(-1,)))), "no natural number"),
    "fewer_strides.pth": (archive(named(tensor((2, 2), (1,)))), "no readable pickle"),
    "dimensions.pth": (archive(named(tensor((1,) * 65, (1,) * 65))), "shape or strides are none"),
    "empty_overflow.pth": (archive(named(tensor((0, 1 << 62, 1 << 62), (1, 1, 1)))), "no readable pickle"),
    "bool_count.pth": (archive(named(tensor(content=storage(b"\x88")))), "no natural number"),
    "text_count.pth": (archive(named(tensor(content=storage(text("4"))))), "no natural number"),
    "negative_count.pth": (stream(named(tensor(content=storage(number(-1))))), "no natural number"),
    "huge_count.pth": (stream(named(tensor(content=storage(number(1 << 62))))), "larger than the file"),
    "other_count.pth": (archive(named(tensor(content=storage(number(5))))), "has not the 5 float32"),
    "wrong_type.pth": (
        archive(named(tensor(content=storage(kind=b"ctorch\nDoubleStorage\n")))),
        "has not the 4 float64",
    ),
    "unknown_type.pth": (archive(named(tensor(content=storage(kind=text("object"))))), "no storage"),
    "quantized.pth": (archive(named(tensor(content=storage(kind=b"ctorch\nQInt8Storage\n")))), "'torch.QInt8Storage'"),
    "other_key.pth": (archive(named(tensor(content=storage(key=text("../7"))))), "'data/../7' is missing"),
    "two_types.pth": (
        stream(b"\x80\x02(" + tensor() + tensor(content=storage(kind=b"ctorch\nIntStorage\n")) + b"l."),
        "two types or sizes",
    ),
    "other_keys.pth": (stream(named(tensor()), ["1"]), "does not match its tensors"),
    "other_stream_count.pth": (stream(named(tensor()), count=5), "another size"),
    "version.pth": (stream(named(tensor())).replace(b"M\xe9\x03", b"M\xe8\x03"), "unknown version"),
    "numpy_shape.pkl": (
        pickle.dumps({"weight": np.zeros(7)}, 2).replace(b"K\x07\x85", b"K\x08\x85"),
        "cannot reshape",
    ),
}

FILES = CODE | SIZES | LIES
