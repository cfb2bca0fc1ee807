"""Safetensors files and sharded ones: what is found, what is read, what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from checkpoints import save, with_header
from safetensors.numpy import save_file
from strategies import random_rows

from sharkstore.errors import CheckpointError, CheckpointNotFoundError
from sharkstore.readers.safetensors import SafetensorsFile, ShardedSafetensors
from sharkstore.tensors import Tensor, as_float32

DTYPES = (
    *("float64", "float32", "float16"),
    *("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool"),
)


def whole(file, name):
    return file.read(name, 0, file.tensors[name].rows)


def save_index(folder, weight_map):
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return str(path)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tensor_of_every_core_dtype_is_read_as_stored(tmp_path, dtype):
    values = (random_rows(5, 3) * 10).astype(dtype)
    save_file({"w": values}, tmp_path / "m.safetensors")
    file = SafetensorsFile(str(tmp_path / "m.safetensors"))
    assert file.tensors == {"w": Tensor("w", (5, 3), dtype)}
    assert whole(file, "w").dtype == values.dtype
    np.testing.assert_array_equal(whole(file, "w"), values)


def test_bfloat16_is_read_as_its_bits(tmp_path):
    values = torch.tensor([[1.0, -2.5], [3.0, 1e30]], dtype=torch.bfloat16)
    safetensors.torch.save_file({"w": values}, tmp_path / "m.safetensors")
    file = SafetensorsFile(str(tmp_path / "m.safetensors"))
    assert file.tensors["w"].dtype == "bfloat16"
    read = as_float32(whole(file, "w"), "bfloat16")
    np.testing.assert_array_equal(read, values.to(torch.float32).numpy())


def test_a_float8_tensor_is_left_with_the_reason(tmp_path):
    tensors = {"w": torch.ones(2, 2), "q": torch.ones(2, 2).to(torch.float8_e4m3fn)}
    safetensors.torch.save_file(tensors, tmp_path / "m.safetensors")
    file = SafetensorsFile(str(tmp_path / "m.safetensors"))
    assert list(file.tensors) == ["w"]
    assert file.left == {"q": "dtype F8_E4M3 has no place in a store"}


def test_a_scalar_is_one_row(tmp_path):
    file = SafetensorsFile(str(save(tmp_path / "m.safetensors", {"step": np.float64(7)})))
    assert file.tensors["step"].shape == ()
    assert whole(file, "step") == 7
    assert whole(file, "step").shape == ()


@pytest.mark.parametrize("shape", [(0,), (0, 4), (4, 0), (2, 0, 3)])
def test_an_empty_tensor_keeps_its_shape(tmp_path, shape):
    tensors = {"none": np.zeros(shape, np.float32), "w": random_rows(3, 2)}
    file = SafetensorsFile(str(save(tmp_path / "m.safetensors", tensors)))
    assert whole(file, "none").shape == shape
    np.testing.assert_array_equal(whole(file, "w"), tensors["w"])


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (0, 1), (3, 7), (6, 7), (7, 7)])
def test_a_range_of_rows_is_what_slicing_gives(tmp_path, start, stop):
    values = np.arange(7 * 2 * 3, dtype=np.int16).reshape(7, 2, 3)
    file = SafetensorsFile(
        str(save(tmp_path / "m.safetensors", {"pad": random_rows(1, 5), "w": values}))
    )
    np.testing.assert_array_equal(file.read("w", start, stop), values[start:stop])


def test_a_tensor_at_an_odd_offset_is_read(tmp_path):
    tensors = {"flag": np.array([True]), "w": random_rows(4, 3)}
    file = SafetensorsFile(str(save(tmp_path / "m.safetensors", tensors)))
    np.testing.assert_array_equal(whole(file, "w"), tensors["w"])


def test_a_row_range_is_a_view_of_the_mapped_file(tmp_path):
    path = save(tmp_path / "m.safetensors", {"w": random_rows(100, 4)})
    file = SafetensorsFile(str(path))
    first, second = file.read("w", 0, 10), file.read("w", 5, 15)
    assert str(path) in Path("/proc/self/maps").read_text()
    assert np.shares_memory(first, second)


def test_the_texts_beside_the_tensors_are_kept(tmp_path):
    path = save(tmp_path / "m.safetensors", {"w": random_rows(1, 1)}, {"format": "pt"})
    assert SafetensorsFile(str(path)).metadata == {"format": "pt"}


@pytest.mark.parametrize(
    ("name", "offsets"), [("shard-00001-model-00001-of-00001", [0, 0]), ("renamed", [502, 0])]
)
def test_a_rank_of_a_checkpoint_is_not_taken_for_the_whole(tmp_path, name, offsets):
    sharding = json.dumps({"emb": {"saved_offsets": offsets}})
    path = tmp_path / f"{name}.safetensors"
    save_file({"emb": random_rows(2, 2)}, path, {"DCP_SHARDING_INFO": sharding})
    with pytest.raises(CheckpointError, match=r"one rank's part of a checkpoint.*join them"):
        SafetensorsFile(str(path))


def test_a_whole_tensor_that_torch_says_is_unsharded_is_read(tmp_path):
    sharding = json.dumps({"emb": {"saved_offsets": [0, 0]}, "step": {"saved_offsets": []}})
    path = tmp_path / "model-00001-of-00001.safetensors"
    save_file({"emb": random_rows(2, 2)}, path, {"DCP_SHARDING_INFO": sharding})
    assert list(SafetensorsFile(str(path)).tensors) == ["emb"]


@pytest.mark.parametrize("sharding", ["{", "[]", '{"emb": 1}', '{"emb": {"saved_offsets": 7}}'])
def test_sharding_that_is_no_such_is_refused(tmp_path, sharding):
    path = tmp_path / "m.safetensors"
    save_file({"emb": random_rows(2, 2)}, path, {"DCP_SHARDING_INFO": sharding})
    with pytest.raises(CheckpointError, match="DCP_SHARDING_INFO that can't be read"):
        SafetensorsFile(str(path))


def test_tensors_keep_the_order_of_the_file(tmp_path):
    path = save(tmp_path / "m.safetensors", {"b": random_rows(1, 1), "a": random_rows(1, 1)})
    assert list(SafetensorsFile(str(path)).tensors) == ["b", "a"]


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(CheckpointNotFoundError, match=r"gone\.safetensors: no such checkpoint"):
        SafetensorsFile(str(tmp_path / "gone.safetensors"))


@pytest.mark.parametrize("left", [0, 5, 8, 40, -1])
def test_a_file_cut_short_is_refused(tmp_path, left):
    path = save(tmp_path / "m.safetensors", {"w": random_rows(50, 4)})
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(CheckpointError, match=r"not a whole safetensors file.*copied to the end"):
        SafetensorsFile(str(path))


def entry(start, end, shape=(2, 2), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


@pytest.mark.parametrize(
    "header",
    [
        pytest.param({"a": entry(0, 16), "b": entry(8, 24)}, id="overlapping"),
        pytest.param({"a": entry(0, 16), "b": entry(24, 40)}, id="gap"),
        pytest.param({"a": entry(0, 4096, (32, 32))}, id="behind-the-end"),
        pytest.param({"a": entry(16, 0)}, id="end-before-start"),
        pytest.param({"a": entry(-16, 0)}, id="negative-offset"),
        pytest.param({"a": entry(0, 16, (3, 2))}, id="shape-of-other-size"),
        pytest.param({"a": entry(0, 16, (2**62, 2**62))}, id="shape-that-overflows"),
        pytest.param({"a": entry(0, 16, (-2, -2))}, id="negative-shape"),
        pytest.param({"a": entry(0, 16, dtype="F33")}, id="unknown-dtype"),
        pytest.param({"a": {"dtype": "F32"}}, id="without-shape"),
        pytest.param({"a": 1}, id="no-entry"),
        pytest.param([1, 2], id="no-object"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path, header):
    path = tmp_path / "m.safetensors"
    path.write_bytes(with_header(header, bytes(40)))
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        SafetensorsFile(str(path))


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"hello, this is no checkpoint at all", id="text"),
        pytest.param(b"\xff" * 64, id="huge-header"),
        pytest.param(b"\x02" + bytes(7) + b"{]" + bytes(9), id="broken-json"),
        pytest.param(b"\x02" + bytes(7) + b"\xff\xfe" + bytes(9), id="no-utf8"),
    ],
)
def test_garbage_is_refused(tmp_path, raw):
    path = tmp_path / "m.safetensors"
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        SafetensorsFile(str(path))


def test_tensors_of_several_shards_are_found_by_the_index(tmp_path):
    first, second = (
        {"a": random_rows(3, 2, 1), "b": random_rows(2, 2, 2)},
        {"c": random_rows(4, 1, 3)},
    )
    save(tmp_path / "m-1.safetensors", first)
    save(tmp_path / "m-2.safetensors", second)
    shards = {"c": "m-2.safetensors", "a": "m-1.safetensors", "b": "m-1.safetensors"}
    file = ShardedSafetensors(save_index(tmp_path, shards))
    assert list(file.tensors) == ["c", "a", "b"]
    for name, values in (first | second).items():
        np.testing.assert_array_equal(whole(file, name), values)


def test_a_tensor_that_no_shard_can_store_is_left(tmp_path):
    tensors = {"q": torch.ones(2, 2).to(torch.float8_e5m2), "w": torch.ones(2, 2)}
    safetensors.torch.save_file(tensors, tmp_path / "m.safetensors")
    file = ShardedSafetensors(save_index(tmp_path, dict.fromkeys("qw", "m.safetensors")))
    assert list(file.tensors) == ["w"]
    assert list(file.left) == ["q"]


def test_a_missing_shard_is_named(tmp_path):
    path = save_index(tmp_path, {"a": "m-1.safetensors"})
    with pytest.raises(CheckpointNotFoundError, match=r"m-1\.safetensors"):
        ShardedSafetensors(path)


def test_a_truncated_shard_is_named(tmp_path):
    shard = save(tmp_path / "m-1.safetensors", {"a": random_rows(9, 9)})
    shard.write_bytes(shard.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match=r"m-1\.safetensors: not a whole"):
        ShardedSafetensors(save_index(tmp_path, {"a": "m-1.safetensors"}))


def test_a_tensor_missing_in_its_shard_is_named(tmp_path):
    save(tmp_path / "m-1.safetensors", {"a": random_rows(3, 2)})
    path = save_index(tmp_path, {"a": "m-1.safetensors", "b": "m-1.safetensors"})
    with pytest.raises(CheckpointError, match=r"m-1\.safetensors has no tensor 'b'"):
        ShardedSafetensors(path)


@pytest.mark.parametrize(
    "shard", ["../m.safetensors", "/m.safetensors", "sub/m.safetensors", "", "..", 5, None, ["m"]]
)
def test_a_shard_that_is_no_file_beside_the_index_is_refused(tmp_path, shard):
    folder = tmp_path / "in"
    folder.mkdir()
    save(tmp_path / "m.safetensors", {"a": random_rows(3, 2)})
    with pytest.raises(CheckpointError):
        ShardedSafetensors(save_index(folder, {"a": shard}))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b"5",
        b'"x"',
        b'{"weight_map": 5}',
        b'{"weight_map": ["a"]}',
        b"\xff",
    ],
)
def test_what_is_no_index_is_refused(tmp_path, raw):
    path = tmp_path / "model.safetensors.index.json"
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match="not an index with a weight_map"):
        ShardedSafetensors(str(path))
