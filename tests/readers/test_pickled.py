"""The pickle machine: what it makes, what it refuses by name, and that nothing is ever run."""

import collections
import contextlib
import enum
import os
import pickle
import struct
import sys
import time
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharkstore.errors import CheckpointError
from sharkstore.readers.pickled import (
    Global,
    NotAdmittedError,
    Record,
    constants,
    records,
    unpickle,
)

PROTOCOLS = [2, 3, 4, 5]


def read(data, admitted=None, persistent=None):
    return unpickle(data, "a.pkl", admitted or {}, persistent)


def refused(data, admitted=None, match=""):
    with pytest.raises(CheckpointError, match=f"^a.pkl: .*{match}"):
        read(data, admitted)


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value


@dataclass
class Point:
    x: int
    y: int


class Slotted:
    __slots__ = ("a",)


class Colour(enum.Enum):
    RED = 1


class Runs:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
KEYS = st.text() | st.integers(-(2**63), 2**64 - 1) | st.booleans() | st.none()
VALUES = st.recursive(
    SCALARS | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(KEYS | st.tuples(KEYS, KEYS), inner)
    ),
    max_leaves=40,
)


@given(VALUES, st.sampled_from([3, 4, 5]))
def test_plain_values_come_out_as_pickle_reads_them(value, protocol):
    assert read(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_numbers_and_texts_of_every_size_are_read(protocol):
    numbers = [2**bits + off for bits in (0, 7, 8, 15, 16, 31, 32, 63, 64, 2100) for off in (-1, 0)]
    value = [*numbers, *(-one for one in numbers), 1.5, float("inf"), "é" * 10, "x" * 300, "\ud800"]
    assert read(pickle.dumps(value, protocol)) == value
    assert read(b"\x8d" + struct.pack("<Q", 3) + b"abc.") == "abc"
    assert read(b"\x8e" + struct.pack("<Q", 3) + b"abc.") == b"abc"
    assert read(pickle.dumps(bytearray(b"abc"), 5)) == b"abc"


def test_what_is_shared_stays_one_object():
    shared = [1]
    value = read(pickle.dumps({"a": shared, "b": (shared, shared)}, 4))
    assert value["a"] is value["b"][0] is value["b"][1]


def test_a_list_in_itself_is_read():
    value = []
    value.append(value)
    made = read(pickle.dumps(value, 2))
    assert made[0] is made


def test_a_tuple_in_itself_is_read():
    value = ([],)
    value[0].append(value)
    made = read(pickle.dumps(value, 2))
    assert made[0][0] is made


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_instance_is_a_record_of_its_state(protocol):
    name = f"{__name__}.Point"
    made = read(pickle.dumps([Point(1, 2), Point], protocol), records(name))
    assert made[0].name == name
    assert made[0].fields == {"x": 1, "y": 2}
    assert made[1] == Global(name)


def test_slots_are_fields_of_a_record():
    value = Slotted()
    value.a = 5
    assert read(pickle.dumps(value, 2), records(f"{__name__}.Slotted")).fields == {"a": 5}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_member_of_an_enum_is_a_record_of_its_value(protocol):
    assert read(member(protocol), records(f"{__name__}.Colour")).args == (1,)


def member(protocol=2):
    """A member of an enum as Python pickles it, but for 3.11.0 to 3.11.3, which call getattr."""
    return pickle.dumps(Runs(Colour, 1), protocol)


def test_a_function_that_is_admitted_gets_the_arguments():
    made = read(pickle.dumps(Runs(divmod, 7, 3), 2), {"builtins.divmod": lambda a, b: [a, b]})
    assert made == [7, 3]


def test_a_constant_may_be_named_and_not_called():
    assert read(pickle.dumps(len, 2), constants("builtins.len")) == Global("builtins.len")
    refused(
        pickle.dumps(Runs(len, "a"), 2), constants("builtins.len"), "builtins.len can't be read"
    )


def test_what_an_ordered_dict_carries_besides_is_dropped():
    value = collections.OrderedDict(a=1)
    value._metadata = {"version": 1}
    assert read(pickle.dumps(value, 2), {"collections.OrderedDict": dict}) == {"a": 1}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_sets_are_records_of_their_items(protocol):
    made = read(pickle.dumps([{3}, frozenset({4})], protocol), records(*SETS))
    assert [(one.name, one.args) for one in made] == [
        (name, ([n],)) for name, n in zip(SETS, (3, 4), strict=True)
    ]


SETS = ("builtins.set", "builtins.frozenset")


def test_a_record_may_be_a_key():
    key, name = Runs(Colour, 1), f"{__name__}.Colour"
    made = read(pickle.dumps({key: 1, ("a", key): 2}, 2), records(name))
    assert [type(key) for key in made] == [Record, tuple]


def test_persistent_ids_are_handed_to_the_caller():
    assert read(b"\x80\x02K\x07Q.", persistent=lambda pid: pid + 1) == 8
    refused(b"\x80\x02K\x07Q.", match="persistent id")


# --- hostile -----------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("depth", ["top", "nested"])
def test_a_call_that_is_not_admitted_is_refused_by_name_and_not_run(tmp_path, protocol, depth):
    marker = tmp_path / "pwned"
    made_marker = f"open({str(marker)!r}, 'w')"
    calls = {
        "posix.system": Runs(os.system, f"touch {marker}"),
        "builtins.eval": Runs(eval, made_marker),
        "builtins.exec": Runs(exec, made_marker),
        "builtins.getattr": Runs(getattr, "", "join"),
        "io.open": Runs(open, str(marker), "w"),
    }
    for name, value in calls.items():
        data = pickle.dumps(value if depth == "top" else {"a": [1, value]}, protocol)
        refused(data, match=f"'{name}' is not admitted; nothing of it was run")
    assert not marker.exists()


def test_a_name_alone_that_is_not_admitted_is_refused():
    with pytest.raises(NotAdmittedError) as caught:
        read(pickle.dumps(os.system, 2))
    assert caught.value.name == "posix.system"


def test_nothing_is_imported():
    assert "this" not in sys.modules
    refused(b"cthis\ns\n.", match=r"'this\.s'")
    assert read(b"cthis\ns\n.", constants("this.s")) == Global("this.s")
    assert "this" not in sys.modules


@pytest.mark.parametrize(
    ("data", "name"),
    [
        pytest.param(b"(S'touch x'\nios\nsystem\n.", "MARK|STRING", id="inst"),
        pytest.param(b"(ios\nsystem\n.", "INST", id="inst-without-arguments"),
        pytest.param(b"(cbuiltins\nlist\no.", "OBJ", id="obj"),
        pytest.param(b"\x82\x01.", "EXT1", id="ext1"),
        pytest.param(b"\x83\x01\x00.", "EXT2", id="ext2"),
        pytest.param(b"\x84\x01\x00\x00\x00.", "EXT4", id="ext4"),
        pytest.param(b"\x97.", "NEXT_BUFFER", id="next-buffer"),
        pytest.param(b"P1\n.", "PERSID", id="persid"),
        pytest.param(b"I1\n.", "INT", id="int"),
        pytest.param(b"\xff.", "'ÿ'", id="no-opcode"),
    ],
)
def test_an_opcode_that_no_checkpoint_has_is_refused_by_name(data, name):
    refused(data, constants("builtins.list"), f"opcode ({name}), which no checkpoint has")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b".", id="nothing-to-give"),
        pytest.param(b"K\x01K\x02.", id="two-values"),
        pytest.param(b"(.", id="open-mark"),
        pytest.param(b"(K\x01.", id="value-in-an-open-mark"),
        pytest.param(b"(]0.", id="stack-below-a-mark"),
        pytest.param(b"t.", id="tuple-without-mark"),
        pytest.param(b"K\x01\x86.", id="pair-of-one"),
        pytest.param(b"K\x01", id="no-stop"),
        pytest.param(b"K", id="cut-number"),
        pytest.param(b"\x80\x01N.", id="protocol-1"),
        pytest.param(b"\x80\x06N.", id="protocol-6"),
        pytest.param(b"\x8d" + struct.pack("<Q", 2**60) + b"x.", id="text-of-2^60-bytes"),
        pytest.param(b"\x8e" + struct.pack("<Q", 2**64 - 1) + b"x.", id="bytes-of-2^64-bytes"),
        pytest.param(b"\x96" + struct.pack("<Q", 2**60) + b"x.", id="bytearray-of-2^60-bytes"),
        pytest.param(b"\x8b" + struct.pack("<I", 2**32 - 1) + b"x.", id="integer-of-2^32-bytes"),
        pytest.param(b"\x8b" + struct.pack("<i", -1) + b"x.", id="integer-of-minus-one-bytes"),
        pytest.param(b"\x8b" + struct.pack("<I", 5000) + b"x" * 5000 + b".", id="integer-too-long"),
        pytest.param(b"\x95" + b"\xff" * 8, id="frame-of-2^64-bytes"),
        pytest.param(b"j\xff\xff\xff\x7f.", id="memo-that-is-not-there"),
        pytest.param(b"h\x05.", id="short-memo-that-is-not-there"),
        pytest.param(b"r\x00\x00\x00\x00.", id="memo-of-nothing"),
        pytest.param(text(b"\xff\xff") + b".", id="no-utf8"),
        pytest.param(b"K\x01K\x01a.", id="append-to-a-number"),
        pytest.param(b"]K\x01K\x01s.", id="item-of-a-list"),
        pytest.param(b"}(K\x01u.", id="key-without-value"),
        pytest.param(b"}]K\x01s.", id="list-for-a-key"),
        pytest.param(b"}}K\x01s.", id="dict-for-a-key"),
        pytest.param(b"](K\x01\x90.", id="add-to-a-list"),
        pytest.param(b"K\x01}b.", id="state-for-a-number"),
        pytest.param(b"K\x01)R.", id="call-of-a-number"),
        pytest.param(b"ca\nb\nK\x01R.", id="call-with-a-number"),
        pytest.param(b"ca\nb\n)K\x01\x92.", id="call-with-names-that-are-a-number"),
        pytest.param(b"ca\nb\n)}K\x01K\x01s\x92.", id="call-with-a-number-for-a-name"),
        pytest.param(b"ca\nb\n}b.", id="state-for-a-name"),
        pytest.param(b"ca\nb", id="cut-name"),
        pytest.param(b"c\xff\n\xff\n.", id="name-of-no-utf8"),
        pytest.param(b"K\x01K\x02\x93.", id="name-of-numbers"),
    ],
)
def test_a_damaged_pickle_is_refused(data):
    refused(data, records("a.b"), "not a whole pickle: .*at byte")


def test_a_memo_at_a_far_index_takes_no_room():
    assert read(b"]r\xff\xff\xff\xffj\xff\xff\xff\xffa.") != []


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(b")" + b"\x85" * 1_000_000, id="million-tuples-deep"),
        pytest.param(b"K\x01" + b"\x85q\x00h\x00\x86" * 60, id="2^60-parts"),
        pytest.param(b"(" + b"K\x01" * 1000 + b"t", id="1000-parts"),
        pytest.param(b"\x8a\x09" + b"\xff" * 8 + b"\x01", id="integer-of-65-bits"),
        pytest.param(b"X\x00\x00\x02\x00" + b"a" * (1 << 17), id="long-text"),
    ],
)
def test_a_key_that_is_slow_to_hash_is_refused(key):
    refused(b"}" + key + b"Ns.", match="key")
    refused(b"}(" + key + b"Nu.", match="key")


def test_a_deep_nest_of_lists_is_read_and_let_go():
    depth = 200_000
    value = read(b"]" * depth + b"a" * (depth - 1) + b".")
    for _ in range(depth - 1):
        value = value[0]
    assert value == []


def test_a_deep_nest_of_marks_is_refused():
    refused(b"(" * 200_000 + b".", match="nested more than 10000 deep")


def colliding(count):
    """Pairs of integers whose tuples all have one hash."""
    p1, p2, p5 = 11400714785074694791, 14029467366897019727, 2870177450012600261
    word = 2**64 - 1
    found, first = [], 1
    while len(found) < count:
        acc = (p5 + first * p2) & word
        acc = ((acc << 31 | acc >> 33) & word) * p1 & word
        second = (12345 - acc) * pow(p2, -1, 2**64) & word
        if second < 2**61 - 1:
            found.append((first, second))
        first += 1
    return found


def test_keys_forged_to_share_a_hash_are_refused():
    keys = colliding(200)
    assert len({hash(key) for key in keys}) == 1
    refused(pickle.dumps(dict.fromkeys(keys), 2), match="keys that all have one hash")
    few = dict.fromkeys(keys[:50])
    assert read(pickle.dumps([few, dict(few), dict(few)], 2)) == [few] * 3


def test_a_call_with_a_tuple_of_any_length_is_refused():
    args = b"(" + b"K\x01" * 1000 + b"tq\x01"
    refused(b"ca\nb\nq\x00" + args + b"R.", records("a.b"), "with 1000 arguments")


def test_laughs_by_the_billion_are_one_object_each():
    layers = b"".join(
        b"](" + (b"h" + bytes([i])) * 10 + b"eq" + bytes([i + 1]) + b"0" for i in range(100)
    )
    value = read(b"]q\x000" + layers + b"h\x64.")
    assert len(value) == 10
    assert value[0] is value[9]


@pytest.mark.parametrize("error", [TypeError, ValueError])
def test_a_maker_that_refuses_its_arguments_is_named(error):
    def maker():
        raise error("too round")

    refused(b"ca\nb\n)R.", {"a.b": maker}, r"a\.b can't be read: too round, at byte 6")


REAL = pickle.dumps(
    {"a": [Point(1, 2), {"b": (1, 2.5, "x", b"y")}, {3}, Colour.RED], ("t", 1): None}, 4
)
NAMES = (f"{__name__}.Point", f"{__name__}.Colour", *SETS)


@given(st.data())
def test_a_pickle_with_bytes_changed_fails_by_the_one_error(data):
    raw = bytearray(REAL)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(CheckpointError):
        read(bytes(raw), records(*NAMES))


@given(
    st.binary(max_size=60)
    | st.lists(st.sampled_from(b"(]})tesuabR.\x81\x85\x86\x87NqhK\x00\x01Qc\n"), max_size=60).map(
        bytes
    )
)
def test_noise_fails_by_the_one_error(raw):
    with contextlib.suppress(CheckpointError):
        read(raw, records(*NAMES))


def test_a_cut_pickle_is_refused_wherever_it_is_cut():
    for size in range(len(REAL)):
        refused(REAL[:size], records(*NAMES))


def test_time_is_linear_in_the_pickle():
    value = {f"key {i}": [i, 2.5, (i, "x")] for i in range(30_000)}
    data = pickle.dumps(value, 2)
    begun = time.process_time()
    assert read(data) == value
    assert time.process_time() - begun < 10
