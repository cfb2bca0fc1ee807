"""Numpy's files and archives: what is found, what is read, what is left, what is refused."""

import io
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from strategies import random_rows

from sharkstore.errors import CheckpointError, CheckpointNotFoundError
from sharkstore.readers.numpy_file import NumpyArchive, NumpyFile
from sharkstore.tensors import FLOATS, INTEGERS, Tensor

DTYPES = [name for name in (*FLOATS, *INTEGERS) if name != "bfloat16"]
W = random_rows(6, 4)


class Runs:
    """Unpickled, this runs a command."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def saved(folder, values, version=None):
    path = folder / "emb.user.npy"
    with path.open("wb") as file:
        np.lib.format.write_array(file, values, version)
    return str(path)


def archived(folder, **arrays):
    np.savez(folder / "model.npz", **arrays)
    return str(folder / "model.npz")


def zipped(folder, members, compression=zipfile.ZIP_STORED):
    """An archive of these bytes; names may repeat."""
    path = folder / "model.npz"
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, raw in members:
            archive.writestr(name, raw)
    return str(path)


def npy(values):
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def forged(folder, header, data=bytes(96), version=1):
    """A file with this header, true or not."""
    text = header if isinstance(header, bytes) else header.encode()
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    path = folder / "emb.npy"
    path.write_bytes(b"\x93NUMPY" + bytes([version, 0]) + length + text + data)
    return str(path)


def whole(file, name):
    return file.read(name, 0, file.tensors[name].rows)


@pytest.mark.parametrize("order", ["<", ">"], ids=["little", "big"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_values_of_every_core_dtype_are_read_in_both_byte_orders(tmp_path, dtype, order):
    values = (W * 10).astype(dtype)
    file = NumpyFile(saved(tmp_path, values.astype(values.dtype.newbyteorder(order))))
    assert file.tensors == {"emb.user": Tensor("emb.user", (6, 4), dtype)}
    np.testing.assert_array_equal(whole(file, "emb.user"), values, strict=True)


def test_a_file_has_its_name_and_a_stamp_that_a_change_changes(tmp_path):
    path = saved(tmp_path, W)
    before = NumpyFile(path)
    assert before.name == "emb.user.npy"
    assert before.stamp == NumpyFile(path).stamp
    os.utime(path, ns=(1, 1))
    assert NumpyFile(path).stamp != before.stamp
    assert str(tmp_path) not in before.stamp


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(
    "shape", [(), (5,), (0,), (0, 4), (4, 0), (7, 3), (7, 2, 3), (5, 1, 2, 3), (1, 5)]
)
def test_rows_are_what_slicing_gives_whatever_shape_and_order(tmp_path, shape, order):
    values = np.asarray(np.arange(np.prod(shape)).reshape(shape), dtype=">i4", order=order)
    file = NumpyFile(saved(tmp_path, values))
    rows = file.tensors["emb.user"].rows
    assert file.tensors["emb.user"].shape == shape
    np.testing.assert_array_equal(whole(file, "emb.user"), values)
    for start in range(rows + 1) if shape else ():
        for stop in range(start, rows + 1):
            read = file.read("emb.user", start, stop)
            np.testing.assert_array_equal(read, values[start:stop])
            assert read.shape == values[start:stop].shape


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_the_header_is_read(tmp_path, version):
    file = NumpyFile(saved(tmp_path, W, version))
    np.testing.assert_array_equal(whole(file, "emb.user"), W)


def test_a_row_range_is_a_view_of_the_mapped_file(tmp_path):
    path = saved(tmp_path, random_rows(100, 4))
    file = NumpyFile(path)
    first, second = file.read("emb.user", 0, 10), file.read("emb.user", 5, 15)
    assert path in Path("/proc/self/maps").read_text()
    assert np.shares_memory(first, second)


def test_the_arrays_of_an_archive_are_tensors_in_its_order(tmp_path):
    arrays = {"b": W, "a/weight": np.asarray(W[:3], order="F"), "step": np.int64(7)}
    file = NumpyArchive(archived(tmp_path, **arrays))
    assert list(file.tensors) == ["b", "a/weight", "step"]
    assert (file.name, file.left) == ("model.npz", {})
    for name, values in arrays.items():
        np.testing.assert_array_equal(whole(file, name), values)
    np.testing.assert_array_equal(file.read("b", 2, 5), W[2:5])


def test_an_archive_has_a_stamp_that_a_change_changes(tmp_path):
    path = archived(tmp_path, w=W)
    before = NumpyArchive(path).stamp
    os.utime(path, ns=(1, 1))
    assert NumpyArchive(path).stamp != before


def test_rows_of_an_archive_are_views_of_the_mapped_file(tmp_path):
    file = NumpyArchive(archived(tmp_path, w=W))
    assert np.shares_memory(file.read("w", 0, 3), file.read("w", 2, 5))


def test_an_archive_of_large_members_is_read(tmp_path):
    path = tmp_path / "model.npz"
    with (
        zipfile.ZipFile(path, "w") as archive,
        archive.open("w.npy", "w", force_zip64=True) as file,
    ):
        np.lib.format.write_array(file, W)
    np.testing.assert_array_equal(whole(NumpyArchive(str(path)), "w"), W)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        pytest.param(W.astype(np.complex64), "dtype complex64", id="complex"),
        pytest.param(np.array(["a", "bc"]), "dtype str64", id="text"),
        pytest.param(np.array([b"a"]), "dtype bytes8", id="bytes"),
        pytest.param(W.astype(np.longdouble), "has no place in a store", id="longdouble"),
        pytest.param(np.zeros(3, "M8[s]"), "dtype datetime64", id="time"),
        pytest.param(np.zeros(3, [("a", "f4"), ("b", "i8")]), "has no place", id="fields"),
        pytest.param(np.zeros(3, [("ä€", "f4")]), "has no place", id="fields-in-utf8"),
        pytest.param(np.zeros((3, 2), "V2"), r"bfloat16.*save it as \.safetensors", id="void"),
    ],
)
@pytest.mark.filterwarnings("ignore:Stored array in format 3.0:UserWarning")
def test_an_array_with_no_place_in_a_store_is_left_or_refused(tmp_path, values, why):
    archive = NumpyArchive(zipped(tmp_path, [("w.npy", npy(W)), ("odd.npy", npy(values))]))
    assert list(archive.tensors) == ["w"]
    assert list(archive.left) == ["odd"]
    with pytest.raises(CheckpointError, match=rf"emb\.user\.npy: .*{why}"):
        NumpyFile(saved(tmp_path, values))


def test_python_objects_are_never_unpickled(tmp_path):
    marker = tmp_path / "pwned"
    evil = npy(np.array([None]))
    evil = evil[: evil.index(b"\n") + 1] + pickle.dumps(Runs(f"touch {marker}"))
    archive = NumpyArchive(zipped(tmp_path, [("w.npy", npy(W)), ("evil.npy", evil)]))
    assert archive.left == {"evil": "Python objects, which are pickled: they are not read"}
    (tmp_path / "evil.npy").write_bytes(evil)
    with pytest.raises(CheckpointError, match=r"evil\.npy: Python objects"):
        NumpyFile(str(tmp_path / "evil.npy"))
    assert not marker.exists()


def test_a_member_that_is_no_array_is_left(tmp_path):
    file = NumpyArchive(zipped(tmp_path, [("w.npy", npy(W)), ("readme.txt", b"hello")]))
    assert file.left == {"readme.txt": "no .npy array"}
    assert list(file.tensors) == ["w"]


def test_a_compressed_archive_is_refused_with_the_remedy(tmp_path):
    np.savez_compressed(tmp_path / "model.npz", w=W)
    with pytest.raises(CheckpointError, match=r"model\.npz: .*compressed.*numpy\.savez"):
        NumpyArchive(str(tmp_path / "model.npz"))


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_two_arrays_of_one_name_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="two arrays are named 'w'"):
        NumpyArchive(zipped(tmp_path, [("w.npy", npy(W)), ("w.npy", npy(W))]))


@pytest.mark.parametrize("kind", [NumpyFile, NumpyArchive])
def test_a_missing_file_is_not_found(tmp_path, kind):
    with pytest.raises(CheckpointNotFoundError, match="gone"):
        kind(str(tmp_path / "gone"))


@pytest.mark.parametrize("left", [0, 4, 8, 9, 40, 127, 128, -1])
def test_a_file_cut_short_is_refused(tmp_path, left):
    path = Path(saved(tmp_path, W))
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(CheckpointError, match=r"emb\.user\.npy: .*copied to the end"):
        NumpyFile(str(path))


def test_a_file_with_more_than_its_array_is_refused(tmp_path):
    path = Path(saved(tmp_path, W))
    path.write_bytes(path.read_bytes() + npy(W))
    with pytest.raises(CheckpointError, match=r"not as many as its shape says .got 320 bytes"):
        NumpyFile(str(path))


@pytest.mark.parametrize(
    "header",
    [
        pytest.param("{'descr': '<f4', 'fortran_order': False, 'shape': (2**9,)}", id="sum"),
        pytest.param("{'descr': '<f4', 'fortran_order': False, 'shape': (-6, -4)}", id="negative"),
        pytest.param("{'descr': '<f4', 'fortran_order': False, 'shape': (6, 5)}", id="larger"),
        pytest.param(
            f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({2**70}, 0)}}", id="2^70"
        ),
        pytest.param("{'descr': '<f4', 'fortran_order': 2, 'shape': (6, 4)}", id="order"),
        pytest.param("{'descr': '<q9', 'fortran_order': False, 'shape': (6, 4)}", id="dtype"),
        pytest.param("{'descr': '<f4', 'shape': (6, 4)}", id="without-order"),
        pytest.param("{'descr': '<f4', 'fortran_order': False, 'shape': [6, 4]}", id="list"),
        pytest.param("__import__('os').system('false')", id="code"),
        pytest.param("(" * 5000, id="nested"),
        pytest.param("-" * 9000 + "1", id="deep"),
        pytest.param("{'descr': '''", id="open-text"),
        pytest.param(b"\xff" * 64, id="no-text"),
        pytest.param(b"\x00" * 64, id="zeros"),
        pytest.param("", id="empty"),
        pytest.param(" " * 20_000, id="long"),
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_a_header_that_lies_is_refused(tmp_path, header, version):
    with pytest.raises(CheckpointError, match=r"emb\.npy: "):
        NumpyFile(forged(tmp_path, header, version=version))


def test_a_whole_archive_is_needed(tmp_path):
    path = Path(archived(tmp_path, w=W, v=W))
    raw = path.read_bytes()
    for left in range(0, len(raw), 7):
        path.write_bytes(raw[:left])
        with pytest.raises(CheckpointError, match=r"model\.npz: not a whole .npz archive"):
            NumpyArchive(str(path))


def test_any_damaged_byte_is_refused_or_read_over(tmp_path):
    path = Path(archived(tmp_path, w=W, v=W[:2]))
    raw = path.read_bytes()
    refused = 0
    for place in range(len(raw)):
        damaged = bytearray(raw)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        try:
            file = NumpyArchive(str(path))
        except CheckpointError:
            refused += 1
            continue
        for name, tensor in file.tensors.items():
            assert whole(file, name).shape == tensor.shape
    assert 200 < refused < len(raw)


def test_members_that_share_bytes_are_refused(tmp_path):
    path = Path(zipped(tmp_path, [("a.npy", npy(random_rows(500, 4))), ("b.npy", npy(W))]))
    raw = path.read_bytes()
    directory = raw.index(b"PK\1\2")
    first = raw[directory : raw.index(b"PK\1\2", directory + 4)]
    entries = b"".join(first.replace(b"a.npy", f"{name}.npy".encode()) for name in "abcdefgh")
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 8, 8, len(entries), directory, 0)
    path.write_bytes(raw[:directory] + entries + end)
    with pytest.raises(CheckpointError, match="its members are larger than the file"):
        NumpyArchive(str(path))


def test_a_member_that_ends_behind_the_end_is_refused(tmp_path):
    claims_more = npy(np.zeros((100, 4), np.float32))
    path = Path(zipped(tmp_path, [("w.npy", claims_more[:200])]))
    raw = bytearray(path.read_bytes())
    entry = raw.index(b"PK\1\2")
    raw[entry + 20 : entry + 28] = struct.pack("<2I", len(claims_more), len(claims_more))
    path.write_bytes(bytes(10_000) + raw)
    with pytest.raises(CheckpointError, match=r"'w\.npy' ends behind the end"):
        NumpyArchive(str(path))


def test_an_encrypted_member_is_refused(tmp_path):
    path = Path(archived(tmp_path, w=W))
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match="encrypted"):
        NumpyArchive(str(path))
