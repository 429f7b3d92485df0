"""Pickles, read one opcode at a time within stated limits.

The standard library's unpickler can be told which globals to refuse, but believes a file in everything else: it makes
room for as many memo entries as one opcode names, hashes nested tuples at exponential cost, and calls anything that it
once handed out. This machine calls `Function`s alone, believes no length, and counts what a file makes it do.
"""

from __future__ import annotations

import collections
import dataclasses
import pickle
from collections.abc import Callable, Iterable
from typing import Any

from data_pipeline.pickle_literals import LITERALS, MAX_NUMBER, BadPickle, Source

MAX_OPERATIONS = 500_000  # opcodes of a file: some 15,000 tensors, read in half a second
MAX_NAME = 1000  # bytes of a global's name
MAX_ARGUMENTS = 16  # of a call; also parts of a dictionary's key


@dataclasses.dataclass(frozen=True)
class Function:
    """A function that a pickle may call."""

    call: Callable[..., Any]


class Unfinished:
    """What a function returns where the object's state follows in the pickle."""

    __slots__ = ()

    def build(self, state: tuple) -> None:
        """Takes the state."""
        raise BadPickle("gives a state to something that has none")


class Allowance:
    """What a file may make of itself, all its pickles together.

    Args:
      size: of the file, in bytes.
    """

    def __init__(self, size: int):
        self._operations, self._copied = MAX_OPERATIONS, 4 * size + (16 << 20)

    def operate(self) -> None:
        """Counts an opcode. Raises BadPickle where there were too many."""
        self._operations -= 1
        if self._operations < 0:
            raise BadPickle(f"has more than {MAX_OPERATIONS} opcodes")

    def copy(self, size: int) -> None:
        """Counts bytes that come on top of the file's own. Raises BadPickle where there were too many."""
        self._copied -= size
        if self._copied < 0:
            raise BadPickle("unpacks to many times the size of the file")

    def copy_all(self, arguments: Iterable[Any]) -> None:
        """Counts texts, bytes and sequences, which a pickle can give again and again from its memo."""
        for argument in arguments:
            if isinstance(argument, str | bytes):
                self.copy(len(argument))
            elif isinstance(argument, list | tuple):
                self.copy(64 * len(argument))


class PickleMachine:
    """Reads one pickle.

    Args:
      source: at the pickle's start; afterwards at its end.
      allowance: of the whole file.
      find_global: (module, name) -> Function, or a constant.
      find_persistent: persistent id -> object.
    """

    def __init__(
        self,
        source: Source,
        allowance: Allowance,
        find_global: Callable[[str, str], Any],
        find_persistent: Callable[[Any], Any],
    ):
        self.source, self._allowance = source, allowance
        self._find_global, self._find_persistent = find_global, find_persistent
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # the stacks under the marks
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        """The pickled object. Raises BadPickle."""
        try:
            while (code := self.source.byte()) != pickle.STOP[0]:
                self._allowance.operate()
                if code in LITERALS:
                    self._stack.append(LITERALS[code](self.source))
                elif code in _OPERATIONS:
                    _OPERATIONS[code](self)
                else:
                    raise BadPickle(f"has an opcode ({bytes([code])!r}) that tensors do not need")
            return self._stack.pop()
        except (IndexError, KeyError):
            raise BadPickle("has opcodes that do not fit together") from None

    def mark(self) -> None:
        self._below.append(self._stack)
        self._stack = []

    def pop_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._below.pop()
        return items

    def pop(self) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self.pop_mark()

    def duplicate(self) -> None:
        self._stack.append(self._stack[-1])

    def group(self, make: Callable[[list[Any]], Any]) -> None:
        """Puts what lies above the mark into one container."""
        items = self.pop_mark()
        self._stack.append(make(items))

    def group_last(self, count: int) -> None:
        self._stack.append(tuple([self._stack.pop() for _ in range(count)][::-1]))

    def extend(self, items: list[Any]) -> None:
        if not isinstance(self._stack[-1], list):
            raise BadPickle("appends to something else than a list")
        self._stack[-1].extend(items)

    def update(self, items: list[Any]) -> None:
        if not isinstance(self._stack[-1], dict):
            raise BadPickle("sets an item of something else than a dictionary")
        self._stack[-1].update(pairs(zip(items[::2], items[1::2], strict=True)))

    def set_item(self) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self.update([key, value])

    def put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def memoize(self) -> None:
        self.put(len(self._memo))

    def get(self, index: int) -> None:
        self._stack.append(self._memo[index])

    def number_on_line(self) -> int:
        return int(self.source.line(MAX_NUMBER))

    def push_global(self) -> None:
        module, name = (self.source.line(MAX_NAME).decode() for _ in range(2))
        self._stack.append(self._find_global(module, name))

    def push_stacked_global(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not (isinstance(module, str) and isinstance(name, str)):
            raise BadPickle("asks for a global by something else than a name")
        self._stack.append(self._find_global(module, name))

    def call(self, function: Any, arguments: Any) -> None:
        if not isinstance(function, Function) or not isinstance(arguments, tuple) or len(arguments) > MAX_ARGUMENTS:
            raise BadPickle("calls something that is no function, or with wrong arguments")
        self._allowance.copy_all(arguments)
        self._stack.append(function.call(*arguments))

    def reduce(self) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        self.call(function, arguments)

    def call_marked(self) -> None:
        """Python 2's way of making an instance."""
        function, *arguments = self.pop_mark()
        self.call(function, tuple(arguments))

    def call_named(self) -> None:
        """Python 2's other way."""
        arguments = tuple(self.pop_mark())
        self.push_global()
        self.call(self._stack.pop(), arguments)

    def build(self) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if isinstance(target, Unfinished) and isinstance(state, tuple):
            self._allowance.copy_all(state)
            target.build(state)
        elif not isinstance(target, collections.OrderedDict):  # attributes of state dicts, which are left out
            raise BadPickle("gives a state to something that has none")

    def push_persistent(self) -> None:
        self._stack.append(self._find_persistent(self._stack.pop()))


def pairs(items: Iterable[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """A dictionary's items. Raises BadPickle for keys that are no names or numbers: deeply nested ones hash slowly."""
    found = [(key, value) for key, value in items]
    for key, _ in found:
        parts = key if isinstance(key, tuple) and len(key) <= MAX_ARGUMENTS else (key,)
        if not all(isinstance(part, str | int | float | bytes | None) for part in parts):
            raise BadPickle("has a dictionary's key that is neither name nor number")
    return found


_BY_NAME: dict[bytes, Callable[[PickleMachine], Any]] = {
    pickle.PROTO: lambda machine: machine.source.take(1),
    pickle.FRAME: lambda machine: machine.source.take(8),
    pickle.MARK: PickleMachine.mark,
    pickle.POP: PickleMachine.pop,
    pickle.POP_MARK: PickleMachine.pop_mark,
    pickle.DUP: PickleMachine.duplicate,
    pickle.TUPLE: lambda machine: machine.group(tuple),
    pickle.TUPLE1: lambda machine: machine.group_last(1),
    pickle.TUPLE2: lambda machine: machine.group_last(2),
    pickle.TUPLE3: lambda machine: machine.group_last(3),
    pickle.LIST: lambda machine: machine.group(list),
    pickle.DICT: lambda machine: machine.group(lambda items: dict(pairs(zip(items[::2], items[1::2], strict=True)))),
    pickle.APPEND: lambda machine: machine.extend([machine._stack.pop()]),
    pickle.APPENDS: lambda machine: machine.extend(machine.pop_mark()),
    pickle.SETITEM: PickleMachine.set_item,
    pickle.SETITEMS: lambda machine: machine.update(machine.pop_mark()),
    pickle.PUT: lambda machine: machine.put(machine.number_on_line()),
    pickle.BINPUT: lambda machine: machine.put(machine.source.unsigned(1)),
    pickle.LONG_BINPUT: lambda machine: machine.put(machine.source.unsigned(4)),
    pickle.MEMOIZE: PickleMachine.memoize,
    pickle.GET: lambda machine: machine.get(machine.number_on_line()),
    pickle.BINGET: lambda machine: machine.get(machine.source.unsigned(1)),
    pickle.LONG_BINGET: lambda machine: machine.get(machine.source.unsigned(4)),
    pickle.GLOBAL: PickleMachine.push_global,
    pickle.STACK_GLOBAL: PickleMachine.push_stacked_global,
    pickle.REDUCE: PickleMachine.reduce,
    pickle.NEWOBJ: PickleMachine.reduce,
    pickle.OBJ: PickleMachine.call_marked,
    pickle.INST: PickleMachine.call_named,
    pickle.BUILD: PickleMachine.build,
    pickle.BINPERSID: PickleMachine.push_persistent,
}
_OPERATIONS = {name[0]: operation for name, operation in _BY_NAME.items()}
