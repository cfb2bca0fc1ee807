"""Torch files: where the state dict lies, what of it is left, and what is never run."""

import collections
import os
import pickle
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from strategies import random_rows

from sharkstore.errors import CheckpointError, CheckpointNotFoundError
from sharkstore.readers.torch_file import TorchFile
from sharkstore.tensors import Tensor, as_float32

W = torch.from_numpy(random_rows(6, 4))


def saved(folder, value, **options):
    path = folder / "model.pt"
    torch.save(value, path, **options)
    return path


def opened(folder, value):
    return TorchFile(str(saved(folder, value)))


def whole(file, name):
    return file.read(name, 0, file.tensors[name].rows)


def rezipped(source, change, method=zipfile.ZIP_STORED):
    """A torch file with other bytes in some of its members."""
    path = source.with_name("forged.pt")
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", method) as new:
        for member in old.namelist():
            new.writestr(member, change(member, old.read(member)))
    return path


class Runs:
    """Unpickled by a trusting reader, this calls a function."""

    def __init__(self, function, argument):
        self.call = function, (argument,)

    def __reduce__(self):
        return self.call


def test_a_state_dict_at_the_top_is_found(tmp_path):
    layer = torch.nn.Embedding(5, 3)
    file = opened(tmp_path, layer.state_dict())
    assert file.tensors == {"weight": Tensor("weight", (5, 3), "float32")}
    np.testing.assert_array_equal(whole(file, "weight"), layer.weight.detach().numpy())


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict"])
def test_a_nested_state_dict_is_found_and_its_neighbours_left(tmp_path, key):
    file = opened(tmp_path, {"epoch": 3, key: {"w": W}, "optimizer": {"lr": 0.1}})
    assert list(file.tensors) == ["w"]
    assert file.left == {"epoch": f"beside {key!r}", "optimizer": f"beside {key!r}"}


def test_a_state_dict_two_levels_down_is_found(tmp_path):
    file = opened(tmp_path, {"model": {"state_dict": {"w": W}, "name": "ctr"}, "step": 1})
    assert list(file.tensors) == ["w"]
    assert file.left == {"step": "beside 'model'", "name": "beside 'state_dict'"}


def test_a_state_dict_in_the_state_of_an_application_is_found(tmp_path):
    file = opened(tmp_path, {"app": {"model": {"w": W}, "optim": {"w": W}}, "step": 1})
    assert list(file.tensors) == ["w"]
    assert file.left == {"step": "beside 'app'", "optim": "beside 'model'"}


def test_extra_state_of_a_module_is_not_taken_for_the_model(tmp_path):
    state = {"w": torch.ones(2, 2), "m._extra_state": {"model": {"v": torch.ones(2, 2)}}}
    assert "w" in opened(tmp_path, state).tensors


def test_one_of_several_models_is_not_picked(tmp_path):
    with pytest.raises(CheckpointError, match=r"keys teacher, student.*save .* alone"):
        opened(tmp_path, {one: {"model": {"w": W}} for one in ("teacher", "student")})


def test_entries_that_are_no_tensors_are_left(tmp_path):
    file = opened(tmp_path, {"w": W, "epoch": 3, "note": "best", "none": None})
    assert file.left == {
        "epoch": "a int, no tensor",
        "note": "a str, no tensor",
        "none": "a NoneType, no tensor",
    }


@pytest.mark.parametrize(
    ("tensor", "why"),
    [
        pytest.param(W.to_sparse(), "sparse", id="sparse"),
        pytest.param(W.to(torch.float8_e4m3fn), "dtype float8_e4m3fn", id="float8"),
        pytest.param(W.to(torch.complex64), "dtype complex64", id="complex"),
        pytest.param(W.to("meta"), "without data", id="meta"),
    ],
)
def test_a_tensor_with_no_place_in_a_store_is_left(tmp_path, tensor, why):
    file = opened(tmp_path, {"w": W, "odd": tensor})
    assert list(file.tensors) == ["w"]
    assert why in file.left["odd"]


@pytest.mark.parametrize(
    "dtype",
    [
        *("float64", "float32", "float16", "int64", "int32", "int16", "int8"),
        *("uint8", "uint16", "uint32", "uint64", "bool"),
    ],
)
def test_a_tensor_of_every_core_dtype_is_read_as_stored(tmp_path, dtype):
    values = (W * 10).abs().to(getattr(torch, dtype))
    file = opened(tmp_path, {"w": values})
    assert file.tensors["w"].dtype == dtype
    np.testing.assert_array_equal(whole(file, "w"), values.numpy(), strict=True)


def test_bfloat16_is_read_as_its_bits(tmp_path):
    values = W.to(torch.bfloat16)
    file = opened(tmp_path, {"w": values})
    read = as_float32(file.read("w", 1, 4), "bfloat16")
    np.testing.assert_array_equal(read, values[1:4].to(torch.float32).numpy())


@pytest.mark.parametrize(
    "tensor",
    [
        pytest.param(W.t(), id="transposed"),
        pytest.param(W[::2, 1:3], id="strided"),
        pytest.param(W[:1].expand(5, 4), id="expanded"),
        pytest.param(torch.nn.Parameter(W.clone()), id="requires-grad"),
        pytest.param(torch.tensor(2.5), id="scalar"),
        pytest.param(torch.zeros(0, 4), id="empty"),
    ],
)
def test_rows_are_right_whatever_the_layout(tmp_path, tensor):
    file = opened(tmp_path, {"w": tensor})
    np.testing.assert_array_equal(whole(file, "w"), tensor.detach().numpy())


def test_a_range_of_a_transposed_tensor_is_what_slicing_gives(tmp_path):
    file = opened(tmp_path, {"w": W.t()})
    np.testing.assert_array_equal(file.read("w", 1, 3), W.t()[1:3].numpy())


def test_tensors_that_share_storage_are_both_read(tmp_path):
    file = opened(tmp_path, {"upper": W[:4], "lower": W[2:]})
    np.testing.assert_array_equal(whole(file, "upper"), W[:4].numpy())
    np.testing.assert_array_equal(whole(file, "lower"), W[2:].numpy())


def test_rows_are_read_from_the_mapped_file(tmp_path):
    path = saved(tmp_path, {"w": W})
    file = TorchFile(str(path))
    assert str(path) in Path("/proc/self/maps").read_text()
    assert np.shares_memory(file.read("w", 0, 4), file.read("w", 2, 6))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("nested", [True, False], ids=["nested", "top"])
def test_a_pickle_that_runs_a_command_is_refused_and_not_run(tmp_path, *, zipped, nested):
    marker = tmp_path / "pwned"
    evil = Runs(os.system, f"touch {marker}")
    value = {"w": W, "evil": evil} if nested else evil
    path = saved(tmp_path, value, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError):
        TorchFile(str(path))
    assert not marker.exists()


def test_what_a_refused_pickle_names_is_told(tmp_path):
    path = saved(tmp_path, {"w": W, "evil": Runs(os.system, "true")})
    with pytest.raises(CheckpointError, match=r"it was not run .got 'posix\.system'"):
        TorchFile(str(path))


def test_a_pickle_that_evaluates_code_is_refused_and_not_run(tmp_path):
    marker = tmp_path / "pwned"
    path = saved(tmp_path, {"w": W, "evil": Runs(eval, f"open({str(marker)!r}, 'w')")})
    with pytest.raises(CheckpointError, match="not only weights; it was not run"):
        TorchFile(str(path))
    assert not marker.exists()


def test_a_bare_pickle_is_refused_and_not_run(tmp_path):
    marker = tmp_path / "pwned"
    path = tmp_path / "model.pt"
    path.write_bytes(pickle.dumps(Runs(os.system, f"touch {marker}")))
    with pytest.raises(CheckpointError):
        TorchFile(str(path))
    assert not marker.exists()


def test_a_whole_pickled_module_is_refused_with_the_remedy(tmp_path):
    path = saved(tmp_path, torch.nn.Embedding(5, 3))
    with pytest.raises(CheckpointError, match=r"not only weights.*model\.state_dict\(\)"):
        TorchFile(str(path))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path, share):
    path = saved(tmp_path, {"w": torch.zeros(1000, 8)})
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * share)])
    with pytest.raises(CheckpointError, match=r"model\.pt: not a whole torch file"):
        TorchFile(str(path))


def test_a_file_whose_tensor_bytes_are_gone_is_refused(tmp_path):
    source = saved(tmp_path, {"w": torch.zeros(1000, 8)})
    path = rezipped(source, lambda name, raw: raw[:8] if name.endswith("data/0") else raw)
    with pytest.raises(CheckpointError, match="not a whole torch file"):
        TorchFile(str(path))


def test_a_compressed_file_is_refused_with_the_remedy(tmp_path):
    source = saved(tmp_path, {"zeros": torch.zeros(100, 8)})
    path = rezipped(source, lambda _, raw: raw, zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match=r"are compressed.*save it again by torch\.save"):
        TorchFile(str(path))


def test_a_torchscript_program_is_refused_with_the_remedy(tmp_path):
    path = tmp_path / "script.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            how = zipfile.ZIP_DEFLATED if name.endswith(".py") else zipfile.ZIP_STORED
            archive.writestr(f"script/{name}", b"\x80\x02}.", how)
    with pytest.raises(CheckpointError, match=r"TorchScript program.*torch\.jit\.load"):
        TorchFile(str(path))


def test_a_file_of_the_old_format_is_refused_with_the_remedy(tmp_path):
    path = saved(tmp_path, {"w": W}, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="saved again by a newer torch"):
        TorchFile(str(path))


@pytest.mark.parametrize(
    "pickled",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b".", id="stop-at-once"),
        pytest.param(b"\x80\x02s.", id="item-without-dict"),
        pytest.param(b"\x80\x02K\x01Q.", id="storage-that-is-a-number"),
        pytest.param(b"\x80\x02X\x02\x00\x00\x00\xff\xff.", id="no-utf8"),
        pytest.param(b"\x80\x02h\x05.", id="memo-that-is-not-there"),
        pytest.param(b"\x80\x02M\x01", id="cut-number"),
        pytest.param(b"\x80\x02K\x01}b.", id="state-for-a-number"),
    ],
)
def test_a_damaged_pickle_is_refused(tmp_path, pickled):
    source = saved(tmp_path, {"w": W})
    path = rezipped(source, lambda name, raw: pickled if name.endswith("data.pkl") else raw)
    with pytest.raises(CheckpointError, match=r"forged\.pt"):
        TorchFile(str(path))


@pytest.mark.parametrize(
    ("value", "got"),
    [
        pytest.param([W], "list", id="list"),
        pytest.param(W, "Tensor", id="tensor"),
        pytest.param({"epoch": 3}, "keys epoch", id="no-tensors"),
        pytest.param({}, "keys", id="empty"),
        pytest.param({"model": {"epoch": 3}}, "keys epoch", id="nested-without-tensors"),
    ],
)
def test_a_file_without_a_state_dict_says_what_it_has(tmp_path, value, got):
    with pytest.raises(CheckpointError, match=f"no state dict in it .got {got}"):
        opened(tmp_path, value)


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(CheckpointNotFoundError, match=r"gone\.pt: no such checkpoint"):
        TorchFile(str(tmp_path / "gone.pt"))


def test_a_tensor_beside_a_nested_state_dict_does_not_hide_it(tmp_path):
    file = opened(tmp_path, {"state_dict": {"emb": torch.ones(2, 2)}, "step": torch.tensor(5)})
    assert list(file.tensors) == ["emb"]
    assert "beside 'state_dict'" in file.left["step"]


def test_entries_that_are_no_plain_values_are_left(tmp_path):
    value = {
        "w": W,
        "set": {1, 2},
        "loss": np.float64(1.5),
        "counts": collections.Counter("aab"),
        "default": collections.defaultdict(int, a=1),
        "dtype": torch.float32,
    }
    assert opened(tmp_path, value).left == {
        "set": "a set, no tensor",
        "loss": "a scalar, no tensor",
        "counts": "a Counter, no tensor",
        "default": "a dict, no tensor",
        "dtype": "a float32, no tensor",
    }


def test_keys_that_are_no_text_have_names(tmp_path):
    file = opened(tmp_path, {1: W, None: W, (1, torch.float32): W})
    assert list(file.tensors) == ["1", "None", "a tuple as a key"]


def test_two_keys_of_one_name_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="two entries are named '1'"):
        opened(tmp_path, {1: W, "1": W})


def test_a_state_dict_that_holds_itself_is_refused(tmp_path):
    value = {"w": W}
    value["model"] = {"state_dict": value}
    with pytest.raises(CheckpointError, match=r"no state dict in it .got itself"):
        opened(tmp_path, value)


def test_a_state_dict_at_no_depth_takes_long_to_find(tmp_path):
    deep = b"\x80\x02" + b"}X\x05\x00\x00\x00model" * 200_000 + b"}" + b"s" * 200_000 + b"."
    source = saved(tmp_path, {"w": W})
    path = rezipped(source, lambda name, raw: deep if name.endswith("data.pkl") else raw)
    start = time.perf_counter()
    with pytest.raises(CheckpointError, match="no state dict in it"):
        TorchFile(str(path))
    assert time.perf_counter() - start < 10


def test_no_torch_is_needed(tmp_path):
    path = saved(tmp_path, {"w": torch.arange(12.0).reshape(6, 2)})
    code = (
        "import sys; from sharkstore.readers.open import open_checkpoint\n"
        f"assert open_checkpoint({str(path)!r}).read('w', 2, 3).tolist() == [[4.0, 5.0]]\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
