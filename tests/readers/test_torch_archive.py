"""Torch's archives by byte range: where tensors lie, what is checked, and how little is read."""

import collections
import contextlib
import math
import struct
import zipfile
from io import BytesIO

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import random_rows

from sharkstore.errors import CheckpointError
from sharkstore.readers.files import open_files
from sharkstore.readers.pickled import NotAdmittedError, Record
from sharkstore.readers.torch_archive import TorchArchive
from sharkstore.readers.torch_values import Stored, Unstorable

W = torch.from_numpy(random_rows(12, 5))


class Remote:
    """A file that keeps count of what is read of it."""

    place = "s3://bucket/model.pt"

    def __init__(self, raw):
        self.raw, self.size = np.frombuffer(raw, np.uint8), len(raw)
        self.reads = []

    def read(self, start, stop):
        assert 0 <= start <= stop <= self.size
        self.reads.append(stop - start)
        return self.raw[start:stop]


def saved(value, **options):
    buffer = BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def rezipped(raw, change, extra=()):
    """An archive with other bytes in some of its members, or none where `change` gives none."""
    buffer = BytesIO()
    with zipfile.ZipFile(BytesIO(raw)) as old, zipfile.ZipFile(buffer, "w") as new:
        for member in old.namelist():
            changed = change(member, old.read(member))
            if changed is not None:
                new.writestr(member, changed)
        for member, content in extra:
            new.writestr(member, content)
    return buffer.getvalue()


def opened(value, **options):
    return TorchArchive(Remote(saved(value, **options))).value


def rows(raw, stored, start=0, stop=None):
    return stored.read(Remote(raw), start, stored.shape[0] if stop is None else stop)


def refused(raw, match):
    with pytest.raises(CheckpointError, match=f"^s3://bucket/model.pt: .*{match}"):
        TorchArchive(Remote(raw))


class Forged:
    """Pickled, it is a tensor of any numbers."""

    def __init__(self, *args, function=torch._utils._rebuild_tensor_v2):
        self.made = function, args

    def __reduce__(self):
        return self.made


def forged(offset, shape, strides):
    hooks = collections.OrderedDict()
    return Forged(torch.zeros(20)._typed_storage(), offset, shape, strides, False, hooks)


# --- tensors -----------------------------------------------------------------------------------


@given(st.data())
def test_rows_of_any_layout_are_those_that_torch_has(data):
    shape = data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=4))
    strides = data.draw(st.lists(st.integers(0, 30), min_size=len(shape), max_size=len(shape)))
    offset = data.draw(st.integers(0, 5))
    span = 1 + sum(max(n - 1, 0) * s for n, s in zip(shape, strides, strict=True))
    tensor = torch.as_strided(torch.arange(offset + span + 3), shape, strides, offset)
    raw = saved(tensor)
    stored = TorchArchive(Remote(raw)).value
    first = data.draw(st.integers(0, shape[0]))
    last = data.draw(st.integers(first, shape[0]))
    expected = tensor[first:last].numpy()
    np.testing.assert_array_equal(rows(raw, stored, first, last), expected, strict=True)


def test_rows_that_lie_together_are_a_view_of_the_file(tmp_path):
    torch.save(W, tmp_path / "a.pt")
    file = open_files(str(tmp_path)).open("a.pt")
    stored = TorchArchive(file).value
    assert np.shares_memory(stored.read(file, 1, 9), file.read(0, file.size))


def test_rows_of_a_column_major_table_are_gathered_from_what_has_them():
    raw = saved(torch.zeros(8, 10_000).t())
    remote = Remote(raw)
    stored = TorchArchive(remote).value
    remote.reads.clear()
    stored.read(remote, 0, 100)
    assert sum(remote.reads) < 8 * 100 * 4 + 100


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_all_protocols_are_read(protocol):
    raw = saved({"w": W, "set": {1}, "size": W.shape}, pickle_protocol=protocol)
    value = TorchArchive(Remote(raw)).value
    np.testing.assert_array_equal(rows(raw, value["w"]), W.numpy())
    assert value["size"] == (12, 5)


def test_parameters_with_attributes_and_buffers_are_tensors():
    parameter = torch.nn.Parameter(W.clone())
    parameter.note = "x"
    tensor = W.clone()
    tensor.note = "x"
    buffer = torch.nn.Buffer(W.clone())
    raw = saved([parameter, tensor, buffer, torch.nn.Parameter(W.clone())])
    for stored in TorchArchive(Remote(raw)).value:
        np.testing.assert_array_equal(rows(raw, stored), W.numpy())


@pytest.mark.parametrize(
    ("tensor", "why"),
    [
        pytest.param(W.to_sparse(), "sparse", id="sparse"),
        pytest.param(W.to_sparse_csr, "sparse", id="csr"),
        pytest.param(W.to(torch.complex64), "dtype complex64", id="complex"),
        pytest.param(W.to(torch.complex64).conj(), "conjugates", id="conjugate"),
        pytest.param(torch.zeros(3, dtype=torch.complex64).conj().imag, "negates", id="negated"),
        pytest.param(W.to(torch.float8_e5m2), "dtype float8_e5m2", id="float8"),
        pytest.param(W.to("meta"), "without data", id="meta"),
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_a_tensor_that_no_store_has_a_place_for_says_why(tensor, why):
    found = opened(tensor() if callable(tensor) else tensor)
    assert isinstance(found, Unstorable)
    assert why in found.why


def test_what_state_dicts_hold_besides_is_inert_data():
    ordered = collections.OrderedDict(a=W)
    ordered._metadata = {"": {"version": 1}}
    value = opened(
        {
            "ordered": ordered,
            "default": collections.defaultdict(list, b=[1]),
            "counter": collections.Counter("aab"),
            "numpy": [np.float64(1.5), np.arange(3)],
            "dtype": torch.float32,
            "device": torch.device("cpu"),
            "bytes": [b"abc", bytearray(b"abc"), 1j, slice(1, 2)],
            "storage": W.clone().untyped_storage(),
        }
    )
    assert list(value["ordered"]) == ["a"]
    assert value["default"] == {"b": [1]}
    assert all(isinstance(one, Record) for one in (*value["numpy"], *value["bytes"]))
    assert value["dtype"].name == "torch.float32"


# --- places ------------------------------------------------------------------------------------


def test_an_archive_in_a_larger_file_is_read_where_it_is():
    first, second = saved({"a": W}), saved({"b": W * 2})
    raw = b"x" * 7 + first + second + b"y" * 100
    start = 7 + len(first)
    one = TorchArchive(Remote(raw), 7, start).value["a"]
    two = TorchArchive(Remote(raw), start, start + len(second)).value["b"]
    np.testing.assert_array_equal(rows(raw, one, 3, 5), W[3:5].numpy())
    np.testing.assert_array_equal(rows(raw, two), 2 * W.numpy())


@pytest.mark.parametrize(("start", "stop"), [(-1, 10), (20, 10), (0, 10**9), (1, None), (0, 500)])
def test_an_archive_that_is_elsewhere_is_refused(start, stop):
    with pytest.raises(CheckpointError, match="not a whole torch file"):
        TorchArchive(Remote(saved(W)), start, stop)


def test_little_is_read_to_open_a_large_file():
    remote = Remote(saved({"a": torch.zeros(1_000_000), "b": W}))
    value = TorchArchive(remote).value
    assert len(remote.reads) <= 4
    assert sum(remote.reads) < 300_000
    remote.reads.clear()
    value["b"].read(remote, 2, 4)
    value["b"].read(remote, 4, 6)
    assert sorted(remote.reads) == [30, 40, 40]


def test_a_zip64_archive_is_read(monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    raw = rezipped(saved({"w": W}), lambda _, content: content)
    monkeypatch.undo()
    assert b"PK\x06\x06" in raw
    np.testing.assert_array_equal(rows(raw, TorchArchive(Remote(raw)).value["w"]), W.numpy())


# --- refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        pytest.param(0, (21,), (1,), id="longer-than-the-storage"),
        pytest.param(1, (20,), (1,), id="behind-the-storage"),
        pytest.param(2**62, (1,), (1,), id="far-behind"),
        pytest.param(-1, (2,), (1,), id="before-the-storage"),
        pytest.param(0, (-1,), (1,), id="negative-size"),
        pytest.param(5, (2,), (-1,), id="negative-stride"),
        pytest.param(0, (2**62, 2**62), (0, 0), id="product-of-2^124"),
        pytest.param(0, (2**62, 0), (1, 1), id="empty-and-huge"),
        pytest.param(0, (2**64,), (0,), id="size-of-2^64"),
        pytest.param(0, (3, 3), (2**62, 2**62), id="strides-of-2^62"),
        pytest.param(0, (2**40,), (0,), id="repeats-without-end"),
        pytest.param(0, (2, 3), (1,), id="fewer-strides"),
        pytest.param(0, (2.0,), (1,), id="float-size"),
        pytest.param(True, (2,), (1,), id="bool-offset"),
        pytest.param(0, "ab", (1, 1), id="text-size"),
        pytest.param(0, (1,) * 65, (1,) * 65, id="too-many-axes"),
        pytest.param(0, 3, 3, id="no-tuple"),
    ],
)
def test_a_tensor_outside_of_its_storage_is_refused(offset, shape, strides):
    refused(saved(forged(offset, shape, strides)), "_rebuild_tensor_v2 can't be read")


def test_a_tensor_of_what_is_no_storage_is_refused():
    refused(saved(Forged([1], 0, (1,), (1,), False, {})), "not of a storage")
    refused(saved(Forged(1, function=torch._utils._rebuild_parameter)), "not of a tensor")
    refused(saved(Forged(function=torch._utils._rebuild_tensor_v2)), "can't be read")
    storage = torch.zeros(2).untyped_storage()
    v3 = Forged(storage, 0, (1,), (1,), False, {}, 5, function=torch._utils._rebuild_tensor_v3)
    refused(saved(v3), "of no dtype")


def test_a_getattr_of_anything_else_is_refused():
    refused(saved(Forged(torch.Size, "__init__", function=getattr)), "builtins.getattr can't be")


def test_a_subclass_of_a_tensor_is_refused_by_name():
    class Mine(torch.Tensor):
        pass

    Mine.__qualname__ = "Mine"
    globals()["Mine"] = Mine
    with pytest.raises(NotAdmittedError) as caught:
        opened({"w": W.as_subclass(Mine)})
    assert caught.value.name.endswith(".Mine")


def test_another_byte_order_is_refused():
    raw = saved(W)
    big = rezipped(raw, lambda name, content: b"big" if name.endswith("byteorder") else content)
    refused(big, "of another byte order")
    silent = rezipped(raw, lambda name, old: None if name.endswith("byteorder") else old)
    assert isinstance(TorchArchive(Remote(silent)).value, Stored)


def test_members_that_are_missing_or_of_other_sizes_are_refused():
    raw = saved({"w": W})
    gone = rezipped(raw, lambda name, old: None if name.endswith("data/0") else old)
    refused(gone, "not a whole torch file: no storage '0' in it")
    short = rezipped(raw, lambda name, old: old[:8] if name.endswith("data/0") else old)
    refused(short, "storage '0' has 8 bytes, not 240")
    refused(rezipped(raw, lambda name, old: None if name.endswith(".pkl") else old), "no data.pkl")
    refused(rezipped(raw, lambda _, old: old, [("other/data.pkl", b"N.")]), "no data.pkl")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_a_name_are_refused():
    raw = saved({"w": W})
    name = next(one for one in zipfile.ZipFile(BytesIO(raw)).namelist() if one.endswith("data/0"))
    refused(rezipped(raw, lambda _, old: old, [(name, b"x")]), "two members of one name")


def test_a_local_header_that_is_none_is_refused_when_rows_are_read():
    raw = bytearray(saved({"w": W}))
    stored = TorchArchive(Remote(bytes(raw))).value["w"]
    raw[stored.storage.header] ^= 1
    stored = TorchArchive(Remote(bytes(raw))).value["w"]
    with pytest.raises(CheckpointError, match="no member at byte"):
        rows(bytes(raw), stored)


def test_a_local_header_that_points_behind_the_file_is_refused_when_rows_are_read():
    raw = bytearray(saved({"w": W}))
    stored = TorchArchive(Remote(bytes(raw))).value["w"]
    raw[stored.storage.header + 28 : stored.storage.header + 30] = b"\xff\xff"
    stored = TorchArchive(Remote(bytes(raw))).value["w"]
    with pytest.raises(CheckpointError, match="no member at byte"):
        rows(bytes(raw), stored)


REAL = saved({"w": W, "t": W.t(), "p": torch.nn.Parameter(W[::2]), "s": torch.tensor(1), "n": {1}})


def read_all(raw):
    """Open a file that may be damaged, and read what it has."""
    with contextlib.suppress(CheckpointError):
        value = TorchArchive(Remote(raw)).value
        found = value.values() if isinstance(value, dict) else [value]
        for one in found:
            if isinstance(one, Stored) and math.prod(one.shape) < 10**6:
                one.read(Remote(raw), 0, one.shape[0] if one.shape else 1)


@given(st.data())
def test_a_file_with_bits_flipped_fails_by_the_one_error(data):
    raw = bytearray(REAL)
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    read_all(bytes(raw))


def test_a_flip_of_any_bit_of_the_directory_fails_by_the_one_error():
    directory = REAL.index(b"PK\x01\x02")
    for at in range(directory, len(REAL)):
        for bit in (0, 3, 7):
            raw = bytearray(REAL)
            raw[at] ^= 1 << bit
            read_all(bytes(raw))


def test_a_file_cut_anywhere_is_refused():
    for size in range(0, len(REAL), 7):
        refused(REAL[:size], "not a whole torch file")


@given(st.binary(min_size=22, max_size=22))
def test_an_end_record_of_noise_fails_by_the_one_error(noise):
    read_all(REAL[:-22] + b"PK\x05\x06" + noise[4:])
    sizes = struct.pack("<HHHHIIH", 0, 0, 1, 1, 2**32 - 1, int.from_bytes(noise[:4], "little"), 0)
    read_all(REAL[:-22] + b"PK\x05\x06" + sizes)
