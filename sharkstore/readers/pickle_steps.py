"""What the opcodes of pickle's protocols 2 to 5 do."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from typing import Any

from sharkstore.readers.inert import Record
from sharkstore.readers.pickle_machine import Machine

# lists and calls within each other; picklers recurse, so theirs end far below
MOST_NESTED = 10_000
LONGEST_INTEGER = 1024  # bytes

# A step does what an opcode says. It takes the place behind the opcode, and gives the next one's.
Step = Callable[[Machine, int], int]
UINT1, UINT2 = struct.Struct("<B"), struct.Struct("<H")
UINT4, UINT8 = struct.Struct("<I"), struct.Struct("<Q")


def _push(value: object) -> Step:
    def step(machine: Machine, at: int) -> int:
        machine.stack.append(value)
        return at

    return step


def _number(layout: struct.Struct) -> Step:
    unpack, size = layout.unpack_from, layout.size

    def step(machine: Machine, at: int) -> int:
        machine.stack.append(unpack(machine.data, at)[0])
        return at + size

    return step


def _sized(length: struct.Struct, value: Callable[[bytes], Any]) -> Step:
    unpack, header = length.unpack_from, length.size

    def step(machine: Machine, at: int) -> int:
        data, start = machine.data, at + header
        stop: int = start + unpack(data, at)[0]
        if stop > len(data):
            raise ValueError(f"{stop - start} bytes declared where it has {len(data) - start}")
        machine.stack.append(value(data[start:stop]))
        return stop

    return step


def _get(index: struct.Struct) -> Step:
    unpack, size = index.unpack_from, index.size

    def step(machine: Machine, at: int) -> int:
        machine.stack.append(machine.remembered(unpack(machine.data, at)[0]))
        return at + size

    return step


def _put(index: struct.Struct) -> Step:
    unpack, size = index.unpack_from, index.size

    def step(machine: Machine, at: int) -> int:
        machine.remember(unpack(machine.data, at)[0], machine.stack[-1])
        return at + size

    return step


def _memoize(machine: Machine, at: int) -> int:
    machine.remember(len(machine.memo) + len(machine.far), machine.stack[-1])
    return at


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def _integer(data: bytes) -> int:
    if len(data) > LONGEST_INTEGER:
        raise ValueError(f"an integer of {len(data)} bytes")
    return int.from_bytes(data, "little", signed=True)


def _mark(machine: Machine, at: int) -> int:
    if len(machine.marks) == MOST_NESTED:
        raise ValueError(f"nested more than {MOST_NESTED} deep")
    machine.marks.append(machine.stack)
    machine.stack = []
    return at


def _pop(machine: Machine, at: int) -> int:
    machine.stack.pop()
    return at


def _pop_mark(machine: Machine, at: int) -> int:
    machine.marked()
    return at


def _tuple1(machine: Machine, at: int) -> int:
    machine.stack[-1] = (machine.stack[-1],)
    return at


def _tuple2(machine: Machine, at: int) -> int:
    last = machine.stack.pop()
    machine.stack[-1] = (machine.stack[-1], last)
    return at


def _tuple3(machine: Machine, at: int) -> int:
    last, middle = machine.stack.pop(), machine.stack.pop()
    machine.stack[-1] = (machine.stack[-1], middle, last)
    return at


def _tuple(machine: Machine, at: int) -> int:
    items = machine.marked()
    machine.stack.append(tuple(items))
    return at


def _list(machine: Machine, at: int) -> int:
    machine.stack.append([])
    return at


def _append(machine: Machine, at: int) -> int:
    item = machine.stack.pop()
    _listed(machine.stack[-1]).append(item)
    return at


def _appends(machine: Machine, at: int) -> int:
    items = machine.marked()
    _listed(machine.stack[-1]).extend(items)
    return at


def _listed(value: Any) -> list[Any]:
    if type(value) is not list:
        raise TypeError(f"appends to a {type(value).__name__}")
    return value


def _set(machine: Machine, at: int) -> int:
    machine.stack.append(Record("builtins.set", ([],)))
    return at


def _add_items(machine: Machine, at: int) -> int:
    items = machine.marked()
    made = machine.stack[-1]
    if type(made) is not Record or made.name != "builtins.set":
        raise TypeError(f"adds to a {type(made).__name__}")
    _listed(made.args[0]).extend(items)
    return at


def _frozenset(machine: Machine, at: int) -> int:
    items = machine.marked()
    machine.stack.append(Record("builtins.frozenset", (items,)))
    return at


def _dict(machine: Machine, at: int) -> int:
    machine.stack.append({})
    return at


def _set_item(machine: Machine, at: int) -> int:
    value, key = machine.stack.pop(), machine.stack.pop()
    machine.fill(machine.stack[-1], [key], [value])
    return at


def _set_items(machine: Machine, at: int) -> int:
    items = machine.marked()
    machine.fill(machine.stack[-1], items[::2], items[1::2])
    return at


def _global(machine: Machine, at: int) -> int:
    middle = machine.data.find(b"\n", at)
    end = machine.data.find(b"\n", middle + 1)
    if min(middle, end) < 0:
        raise ValueError("a name without an end")
    module, name = (
        str(machine.data[at:middle], "utf-8"),
        str(machine.data[middle + 1 : end], "utf-8"),
    )
    machine.stack.append(machine.name(module, name))
    return end + 1


def _stack_global(machine: Machine, at: int) -> int:
    name, module = machine.stack.pop(), machine.stack.pop()
    if type(name) is not str or type(module) is not str:
        raise TypeError("names a global by what is no text")
    machine.stack.append(machine.name(module, name))
    return at


def _reduce(machine: Machine, at: int) -> int:
    args = machine.stack.pop()
    machine.stack[-1] = machine.made(machine.stack[-1], args, {})
    return at


def _new_object(machine: Machine, at: int) -> int:
    named, args = machine.stack.pop(), machine.stack.pop()
    machine.stack[-1] = machine.made(machine.stack[-1], args, named)
    return at


def _build(machine: Machine, at: int) -> int:
    state, made = machine.stack.pop(), machine.stack[-1]
    if type(made) is Record:
        made.state = state
    elif type(made) is not dict:  # state dicts carry versions of modules, which nobody needs
        raise TypeError(f"sets attributes of a {type(made).__name__}")
    return at


def _persistent(machine: Machine, at: int) -> int:
    if machine.persistent is None:
        raise ValueError("a persistent id where none belongs")
    machine.stack[-1] = machine.persistent(machine.stack[-1])
    return at


def _protocol(machine: Machine, at: int) -> int:
    if not 2 <= machine.data[at] <= 5:
        raise ValueError(f"pickle protocol {machine.data[at]}")
    return at + 1


def _frame(_machine: Machine, at: int) -> int:
    return at + 8


def _unknown(machine: Machine, at: int) -> int:
    import pickletools

    names = {one.code: one.name for one in pickletools.opcodes}
    code = chr(machine.data[at - 1])
    raise ValueError(f"opcode {names.get(code, repr(code))}, which no checkpoint has")


OPCODES: dict[bytes, Step] = {
    pickle.NONE: _push(None),
    pickle.NEWTRUE: _push(True),
    pickle.NEWFALSE: _push(False),
    pickle.EMPTY_TUPLE: _push(()),
    pickle.BININT1: _number(UINT1),
    pickle.BININT2: _number(UINT2),
    pickle.BININT: _number(struct.Struct("<i")),
    pickle.BINFLOAT: _number(struct.Struct(">d")),
    pickle.LONG1: _sized(UINT1, _integer),
    pickle.LONG4: _sized(UINT4, _integer),
    pickle.SHORT_BINUNICODE: _sized(UINT1, _text),
    pickle.BINUNICODE: _sized(UINT4, _text),
    pickle.BINUNICODE8: _sized(UINT8, _text),
    pickle.SHORT_BINBYTES: _sized(UINT1, bytes),
    pickle.BINBYTES: _sized(UINT4, bytes),
    pickle.BINBYTES8: _sized(UINT8, bytes),
    pickle.BYTEARRAY8: _sized(UINT8, bytes),
    pickle.MARK: _mark,
    pickle.POP: _pop,
    pickle.POP_MARK: _pop_mark,
    pickle.TUPLE1: _tuple1,
    pickle.TUPLE2: _tuple2,
    pickle.TUPLE3: _tuple3,
    pickle.TUPLE: _tuple,
    pickle.EMPTY_LIST: _list,
    pickle.APPEND: _append,
    pickle.APPENDS: _appends,
    pickle.EMPTY_SET: _set,
    pickle.ADDITEMS: _add_items,
    pickle.FROZENSET: _frozenset,
    pickle.EMPTY_DICT: _dict,
    pickle.SETITEM: _set_item,
    pickle.SETITEMS: _set_items,
    pickle.GLOBAL: _global,
    pickle.STACK_GLOBAL: _stack_global,
    pickle.REDUCE: _reduce,
    pickle.NEWOBJ: _reduce,
    pickle.NEWOBJ_EX: _new_object,
    pickle.BUILD: _build,
    pickle.BINPERSID: _persistent,
    pickle.BINGET: _get(UINT1),
    pickle.LONG_BINGET: _get(UINT4),
    pickle.BINPUT: _put(UINT1),
    pickle.LONG_BINPUT: _put(UINT4),
    pickle.MEMOIZE: _memoize,
    pickle.PROTO: _protocol,
    pickle.FRAME: _frame,
}
STEPS = [OPCODES.get(bytes([opcode]), _unknown) for opcode in range(256)]
