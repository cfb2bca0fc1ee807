"""Distributed checkpoints: every layout that torch saves is read, by any rows, and none is run."""

import os
import pickle
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from distributed_checkpoints import (
    DENSE,
    GRID,
    NESTED,
    SHARDED,
    TABLES,
    TORCHREC,
    raw,
    tables,
    whole,
)
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed.checkpoint._extension import StreamTransformExtension
from torch.distributed.checkpoint.filesystem import SerializationFormat, _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from sharkstore.errors import CheckpointError, CheckpointNotFoundError
from sharkstore.readers.distributed import DistributedCheckpoint
from sharkstore.tensors import Tensor

HYBRID = {"hybrid.weight": whole("rows.weight", TABLES["rows.weight"])}
EXPECTED = {
    "dtensors": {
        **tables(TABLES),
        **tables(GRID),
        **{name: raw(tensor) for name, tensor in HYBRID.items()},
        "scalar": np.float32(2.5).reshape(()),
    },
    "sharded": tables(SHARDED),
    "nested": tables(NESTED),
    "alone": tables(NESTED),
    "torchrec": {**tables(TORCHREC), **tables(DENSE)},
}
# how torch 2.2 and before name what was moved since
BEFORE = {
    b"ctorch.distributed.checkpoint.metadata\nTensorProperties\n": (
        b"ctorch.distributed._shard.sharded_tensor.metadata\nTensorProperties\n"
    ),
    b"ctorch.distributed.checkpoint.metadata\n_MEM_FORMAT_ENCODING\n": (
        b"ctorch.distributed._shard.sharded_tensor.metadata\nMEM_FORMAT_ENCODING\n"
    ),
}


class Runs:
    """Unpickled by a trusting reader, this calls a function."""

    def __init__(self, function, argument):
        self.call = function, (argument,)

    def __reduce__(self):
        return self.call


class Plain(StreamTransformExtension):
    """Changes nothing, but who could know."""

    @staticmethod
    def from_descriptor(_):
        return Plain()

    @staticmethod
    def registry_name():
        return "plain"

    def get_descriptor(self):
        return "plain.1"

    def transform_to(self, stream):
        return stream

    def transform_from(self, stream):
        return stream


class ByName(pickle.Pickler):
    """Pickles enums as Python 3.11.0 does."""

    def reducer_override(self, value):
        if type(value).__name__ == "_MEM_FORMAT_ENCODING":
            return getattr, (type(value), value.name)
        return NotImplemented


def saved(folder, state, **options):
    """Save a state dict in this process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        writer = dcp.FileSystemWriter(folder / "ckpt", **options)
        dcp.save(state, storage_writer=writer, no_dist=True)
    return folder / "ckpt"


def copied(distributed, name, tmp_path):
    return Path(shutil.copytree(distributed / name, tmp_path / name))


def opened(folder):
    return DistributedCheckpoint(str(folder))


def loaded(folder):
    return pickle.loads((folder / ".metadata").read_bytes())


def rewrite(folder, metadata):
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


def read_all(folder):
    checkpoint = opened(folder)
    return {
        name: checkpoint.read(name, 0, tensor.rows) for name, tensor in checkpoint.tensors.items()
    }


def refused(folder, fault):
    """Neither opened nor read, with this to tell; gives the whole text."""
    with pytest.raises(CheckpointError, match=fault) as caught:
        read_all(folder)
    assert str(folder) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", EXPECTED)
def test_every_tensor_is_read_bit_for_bit(distributed, name):
    checkpoint = opened(distributed / name)
    assert checkpoint.name == name
    assert set(checkpoint.tensors) == set(EXPECTED[name])
    for key, values in EXPECTED[name].items():
        tensor = checkpoint.tensors[key]
        np.testing.assert_array_equal(
            checkpoint.read(key, 0, tensor.rows), values.reshape(tensor.shape), strict=True
        )


def test_tensors_have_torchs_shape_and_dtype(distributed):
    found = opened(distributed / "dtensors").tensors
    assert found["rows.bf16"] == Tensor("rows.bf16", (103, 5), "bfloat16")
    assert found["rows.ids"] == Tensor("rows.ids", (50, 2), "int64")
    assert found["scalar"] == Tensor("scalar", (), "float32")


@given(data=st.data())
def test_any_range_of_rows_is_read(distributed, data):
    name = data.draw(st.sampled_from(["dtensors", "sharded", "nested", "torchrec"]))
    checkpoint = opened(distributed / name)
    key = data.draw(st.sampled_from([key for key, one in checkpoint.tensors.items() if one.shape]))
    rows = checkpoint.tensors[key].rows
    start = data.draw(st.integers(0, rows))
    stop = data.draw(st.integers(start, rows))
    values = EXPECTED[name][key].reshape(checkpoint.tensors[key].shape)
    np.testing.assert_array_equal(
        checkpoint.read(key, start, stop), values[start:stop], strict=True
    )


def test_rows_of_one_rank_are_a_view_of_its_file(distributed):
    checkpoint = opened(distributed / "sharded")
    assert np.shares_memory(
        checkpoint.read("sharded.rows", 6, 9), checkpoint.read("sharded.rows", 8, 12)
    )


def test_a_model_beside_its_optimizer_is_found(distributed):
    checkpoint = opened(distributed / "nested")
    assert list(checkpoint.tensors) == ["user.weight", "item.weight"]
    assert checkpoint.left == {
        "optim": "beside 'model'",
        "epoch": "beside 'model'",
        "model_name": "beside 'model'",
        "version": "an object, no tensor",
    }


def test_a_state_dict_two_levels_down_is_found(tmp_path):
    state = {"model": {"state_dict": {"w": torch.ones(2, 2)}, "name": "ctr"}, "step": 1}
    checkpoint = opened(saved(tmp_path, state))
    assert list(checkpoint.tensors) == ["w"]
    assert checkpoint.left == {"step": "beside 'model'", "name": "beside 'state_dict'"}


def test_a_model_in_the_state_of_an_application_is_found(tmp_path):
    state = {"app": {"model": {"w": torch.ones(2, 2)}, "optim": {"w": torch.ones(2, 2)}}, "step": 1}
    checkpoint = opened(saved(tmp_path, state))
    assert list(checkpoint.tensors) == ["w"]
    assert checkpoint.left == {"step": "beside 'app'", "optim": "beside 'model'"}


def test_extra_state_of_a_module_is_not_taken_for_the_model(tmp_path):
    state = {"w": torch.ones(2, 2), "m._extra_state": {"model": {"v": torch.ones(2, 2)}}}
    assert "w" in opened(saved(tmp_path, state)).tensors


def test_one_of_several_models_is_not_picked(tmp_path):
    state = {one: {"model": {"w": torch.ones(2, 2)}} for one in ("teacher", "student")}
    assert list(opened(saved(tmp_path, state)).tensors) == ["teacher.model.w", "student.model.w"]


def test_the_state_of_an_optimizer_is_left_wherever_it_is(tmp_path):
    moments = {"state": {"emb.weight": {"exp_avg": torch.ones(80, 2)}}, "param_groups": [{"lr": 1}]}
    state = {
        "net": {"emb.weight": torch.ones(80, 2)},
        "a": {"optim": moments},
        "optimizer": moments,
    }
    checkpoint = opened(saved(tmp_path, state))
    assert list(checkpoint.tensors) == ["net.emb.weight"]
    assert checkpoint.left == {"a.optim": "of an optimizer", "optimizer": "of an optimizer"}


def test_a_tensor_that_is_named_as_an_optimizer_is_kept(tmp_path):
    assert list(opened(saved(tmp_path, {"optim": torch.ones(2, 2)})).tensors) == ["optim"]


def test_a_name_with_dots_is_not_taken_for_a_nested_one(tmp_path):
    state = {"model.w": torch.ones(2, 2), "model.b": torch.ones(2), "deep": {"w": torch.ones(1)}}
    assert list(opened(saved(tmp_path, state)).tensors) == ["model.w", "model.b", "deep.w"]


def test_tensors_without_a_place_in_a_store_are_left(distributed, tmp_path):
    folder = saved(tmp_path, {"w": torch.ones(3), "odd": torch.ones(3, dtype=torch.complex64)})
    assert opened(folder).left == {"odd": "dtype complex64 has no place in a store"}
    assert opened(distributed / "alone").left == {"epoch": "an object, no tensor"}


def test_two_entries_of_one_name_are_refused(tmp_path):
    state = {"model": {"step": torch.ones(2, 2)}, "step": 1}
    refused(saved(tmp_path, state), "two entries are named 'step'")


def test_a_checkpoint_without_tensors_says_what_it_has(tmp_path):
    refused(saved(tmp_path, {"epoch": 3}), "no state dict in it .got keys epoch")


def test_torch_is_not_needed(distributed):
    code = (
        "import sys; from sharkstore.readers.distributed import DistributedCheckpoint as C;"
        "c = C(sys.argv[1]); [c.read(n, 0, t.rows) for n, t in c.tensors.items()];"
        "assert 'torch' not in sys.modules, 'torch'; print(len(c.tensors))"
    )
    command = [sys.executable, "-c", code, str(distributed / "dtensors")]
    assert int(subprocess.check_output(command)) == len(EXPECTED["dtensors"])


def test_the_stamp_changes_with_any_file(distributed, tmp_path):
    folder = copied(distributed, "nested", tmp_path)
    stamps = {opened(folder).stamp}
    for file in sorted(folder.iterdir()):
        os.utime(file, (1, 1))
        stamps.add(opened(folder).stamp)
    assert len(stamps) == 6


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_metadata_of_every_pickle_protocol_is_read(distributed, tmp_path, protocol):
    folder = copied(distributed, "sharded", tmp_path)
    (folder / ".metadata").write_bytes(pickle.dumps(loaded(folder), protocol))
    np.testing.assert_array_equal(
        read_all(folder)["sharded.grid"], EXPECTED["sharded"]["sharded.grid"]
    )


def test_metadata_of_older_torch_is_read(distributed, tmp_path):
    folder = copied(distributed, "sharded", tmp_path)
    metadata = loaded(folder)
    del metadata.version, metadata.storage_meta, metadata.planner_data
    written = pickle.dumps(metadata, 2)
    for now, before in BEFORE.items():
        assert now in written
        written = written.replace(now, before)
    (folder / ".metadata").write_bytes(written)
    assert read_all(folder).keys() == EXPECTED["sharded"].keys()


def test_metadata_of_early_python_3_11_is_read(distributed, tmp_path):
    folder = copied(distributed, "nested", tmp_path)
    metadata = loaded(folder)
    with open(folder / ".metadata", "wb") as file:
        ByName(file).dump(metadata)
    assert b"getattr" in (folder / ".metadata").read_bytes()
    assert read_all(folder).keys() == NESTED.keys()


def test_an_attribute_of_anything_else_is_refused(distributed, tmp_path):
    folder = copied(distributed, "nested", tmp_path)
    metadata = loaded(folder)
    metadata.version = Runs(getattr, torch.float32)
    metadata.version.call = getattr, (torch.Size, "count")
    rewrite(folder, metadata)
    refused(folder, "builtins.getattr can't be read: an attribute of")


@pytest.mark.parametrize("place", ["version", "planner_data", "storage_data", "chunks", "top"])
@pytest.mark.parametrize(
    ("function", "argument", "named"),
    [
        (os.system, "touch {}", "posix.system"),
        (eval, "open({!r}, 'w')", "builtins.eval"),
        (exec, "open({!r}, 'w')", "builtins.exec"),
        (subprocess.getoutput, "touch {}", "subprocess.getoutput"),
        (torch.load, "{}", "torch.serialization.load"),
    ],
)
def test_metadata_that_runs_anything_is_refused_and_not_run(
    distributed, tmp_path, place, function, argument, named
):
    folder, marker = copied(distributed, "sharded", tmp_path), tmp_path / "pwned"
    metadata, evil = loaded(folder), Runs(function, argument.format(str(marker)))
    if place == "chunks":
        metadata.state_dict_metadata["sharded.rows"].chunks.append(evil)
    elif place == "storage_data":
        metadata.storage_data[evil] = evil
    elif place != "top":
        setattr(metadata, place, evil)
    rewrite(folder, evil if place == "top" else metadata)
    refused(folder, named)
    assert not marker.exists()


def test_a_shard_that_runs_anything_is_refused_and_not_run(tmp_path):
    marker = tmp_path / "pwned"
    folder = saved(tmp_path, {"w": torch.ones(4, 4)})
    torch.save(Runs(os.system, f"touch {marker}"), folder / "__0_0.distcp")
    metadata = loaded(folder)
    (place,) = metadata.storage_data.values()
    place.length = (folder / "__0_0.distcp").stat().st_size
    rewrite(folder, metadata)
    refused(folder, "rows 0 to 3 of columns 0 to 3 of tensor 'w' can't be read(.|\n)*system")
    assert not marker.exists()


def tensor(metadata, name="sharded.rows"):
    return metadata.state_dict_metadata[name]


def chunk(metadata, index, name="sharded.rows"):
    return tensor(metadata, name).chunks[index]


def place(metadata, offsets=(6, 0), name="sharded.rows"):
    return metadata.storage_data[MetadataIndex(name, torch.Size(offsets))]


def moved(metadata, index, to):
    """Say that a shard begins elsewhere."""
    one = chunk(metadata, index)
    stored = metadata.storage_data.pop(MetadataIndex("sharded.rows", one.offsets))
    one.offsets = torch.Size(to)
    metadata.storage_data[MetadataIndex("sharded.rows", one.offsets)] = stored


def resized(metadata, index, to):
    chunk(metadata, index).sizes = torch.Size(to)


FORGED = {
    "gap": (lambda m: tensor(m).chunks.pop(1), "'sharded.rows': rows 6 to 11 are in no file"),
    "gap-at-the-end": (
        lambda m: setattr(tensor(m), "size", torch.Size([40, 4])),
        "'sharded.rows': rows 23 to 39 are in no file",
    ),
    "gap-in-columns": (
        lambda m: tensor(m, "sharded.columns").chunks.pop(2),
        "rows 0 to 6 of columns 6 to 8 are in no file",
    ),
    "overlap": (
        lambda m: (moved(m, 1, (4, 0)), resized(m, 1, (8, 4))),
        "rows 4 to 5 are both in __0_0.distcp and __1_0.distcp",
    ),
    "overlap-by-size": (
        lambda m: resized(m, 1, (8, 4)),
        "rows 12 to 13 are both in __1_0.distcp and __2_0.distcp",
    ),
    "outside": (lambda m: moved(m, 3, (20, 0)), "__3_0.distcp has rows 20 to 24 of .*'sharded.r"),
    "negative-offset": (lambda m: moved(m, 0, (-1, 0)), "__0_0.distcp has rows -1 to 4"),
    "negative-size": (lambda m: resized(m, 1, (-6, 4)), "__1_0.distcp has rows 6 to -1"),
    "huge-tensor": (
        lambda m: setattr(tensor(m), "size", torch.Size([2**62, 4])),
        "rows 23 to 4611686018427387903 are in no file",
    ),
    "huge-shard": (
        lambda m: (
            setattr(tensor(m), "size", torch.Size([2**62 + 18, 4])),
            resized(m, 3, (2**62, 4)),
        ),
        "__3_0.distcp has too few .got 1641 bytes for rows 18 to 4611686018427387921",
    ),
    "other-axes": (
        lambda m: setattr(tensor(m), "size", torch.Size([23])),
        "has a shard at .0, 0. of .6, 4.",
    ),
    "no-file": (
        lambda m: m.storage_data.pop(MetadataIndex("sharded.rows", torch.Size([6, 0]))),
        "'sharded.rows' has no file for its shard at .6, 0. of .6, 4.",
    ),
    "elsewhere": (
        lambda m: setattr(place(m), "relative_path", "../sharded/__1_0.distcp"),
        "file '../sharded/__1_0.distcp' is not one in this folder",
    ),
    "absolute": (
        lambda m: setattr(place(m), "relative_path", "/etc/passwd"),
        "file '/etc/passwd' is not one in this folder",
    ),
    "nothing": (lambda m: setattr(place(m), "relative_path", ""), "file '' is not one"),
    "control": (lambda m: setattr(place(m), "relative_path", "a\0"), "is not one in this folder"),
    "number-for-a-file": (lambda m: setattr(place(m), "relative_path", 3), "a int where a str"),
    "far-away": (
        lambda m: setattr(place(m), "offset", 2**40),
        "__1_0.distcp ends before rows 6 to 11 of columns 0 to 3 of tensor 'sharded.rows'",
    ),
    "before-the-start": (lambda m: setattr(place(m), "offset", -5), "'sharded.rows' is at byte -5"),
    "endless": (lambda m: setattr(place(m), "length", 2**70), "of 1180591620717411303424 bytes"),
    "too-short": (
        lambda m: setattr(place(m), "length", 90),
        "__1_0.distcp has too few .got 90 bytes for rows 6 to 11 of columns 0 to 3",
    ),
    "transformed": (
        lambda m: setattr(place(m), "transform_descriptors", ["zstd.4"]),
        "'sharded.rows' was saved through 'zstd.4', which can't be undone",
    ),
    "other-dtype": (
        lambda m: setattr(tensor(m).properties, "dtype", torch.int32),
        "rows 0 to 5 of columns 0 to 3 of tensor 'sharded.rows' can't be read: __0_0.distcp.*float",
    ),
    "another-shard": (
        lambda m: m.storage_data.update(
            {MetadataIndex("sharded.rows", torch.Size([6, 0])): place(m, (4, 0), "sharded.grid")}
        ),
        "rows 6 to 11 of columns 0 to 3 of tensor 'sharded.rows' can't be read",
    ),
    "tensor-for-metadata": (lambda m: setattr(m, "storage_data", None), "a NoneType where a dict"),
    "list-for-a-tensor": (
        lambda m: m.state_dict_metadata.update({"sharded.rows": [1]}),
        "a list where a .*TensorStorageMetadata belongs",
    ),
    "another-path": (
        lambda m: m.planner_data.update({"sharded.rows": ("model", "w")}),
        "'sharded.rows' has a path that is not its own",
    ),
    "long-path": (
        lambda m: m.planner_data.update({"sharded.rows": ("",) * 99}),
        "'sharded.rows' has no short path",
    ),
}


@pytest.mark.parametrize("forgery", FORGED)
def test_forged_metadata_is_refused_and_says_why(distributed, tmp_path, forgery):
    change, fault = FORGED[forgery]
    folder = copied(distributed, "sharded", tmp_path)
    metadata = loaded(folder)
    change(metadata)
    rewrite(folder, metadata)
    refused(folder, fault)


def test_a_missing_rank_is_named_with_its_rows(distributed, tmp_path):
    folder = copied(distributed, "sharded", tmp_path)
    (folder / "__3_0.distcp").unlink()
    told = refused(folder, "__3_0.distcp, which has rows 18 to 22 of columns 0 to 3 of tensor 'sha")
    assert "was the save finished" in told


def test_a_file_cut_off_anywhere_is_named_with_its_rows(distributed, tmp_path):
    folder = copied(distributed, "sharded", tmp_path)
    file = folder / "__1_0.distcp"
    whole = file.read_bytes()
    for length in [*range(0, len(whole), 131), len(whole) - 1]:
        file.write_bytes(whole[:length])
        told = refused(folder, r"__1_0.distcp ends before rows \d+ to \d+ of columns")
        assert f"got {length} bytes" in told


def test_metadata_cut_off_anywhere_is_refused(distributed, tmp_path):
    folder = copied(distributed, "sharded", tmp_path)
    whole = (folder / ".metadata").read_bytes()
    for length in range(0, len(whole), 7):
        (folder / ".metadata").write_bytes(whole[:length])
        refused(folder, r"\.metadata")


def test_a_folder_without_metadata_is_not_found(tmp_path):
    with pytest.raises(CheckpointNotFoundError, match=r"\.metadata: no such file"):
        opened(tmp_path)


def test_files_of_two_ranks_swapped_are_refused(distributed, tmp_path):
    folder = copied(distributed, "dtensors", tmp_path)
    os.rename(folder / "__0_0.distcp", folder / "kept")
    os.rename(folder / "__3_0.distcp", folder / "__0_0.distcp")
    os.rename(folder / "kept", folder / "__3_0.distcp")
    refused(folder, "__[03]_0.distcp")


def test_a_safetensors_serialisation_is_refused_with_the_remedy(tmp_path):
    folder = saved(
        tmp_path, {"w": torch.ones(4, 4)}, serialization_format=SerializationFormat.SAFETENSORS
    )
    refused(folder, "rows 0 to 3 .*__0_0.distcp: no torch archive at byte 0.*saved again in torch")


def test_a_transformed_checkpoint_is_refused_by_the_name_of_what_did_it(tmp_path):
    folder = saved(tmp_path, {"w": torch.ones(4, 4)}, _extensions=[Plain()])
    refused(folder, "'w' was saved through 'plain.1'")


def test_a_flipped_bit_never_raises_anything_but_a_checkpoint_error(distributed, tmp_path):
    folder = copied(distributed, "nested", tmp_path)
    expected = EXPECTED["nested"]
    random = np.random.default_rng(0)
    outcomes = set()
    for name in (".metadata", "__0_0.distcp", "__1_1.distcp"):
        raw = (folder / name).read_bytes()
        for _ in range(400):
            forged = bytearray(raw)
            for at in random.integers(0, len(raw), random.integers(1, 4)):
                forged[at] ^= 1 << random.integers(8)
            (folder / name).write_bytes(forged)
            try:
                found = read_all(folder)
            except CheckpointError:
                outcomes.add((name, "refused"))
                continue
            same = found.keys() == expected.keys() and all(
                np.array_equal(found[key], expected[key]) for key in expected
            )
            outcomes.add((name, "the same" if same else "other values"))
        (folder / name).write_bytes(raw)
    assert {(".metadata", "refused"), ("__0_0.distcp", "refused")} <= outcomes


def test_twenty_thousand_shards_are_opened_in_seconds(tmp_path):
    ranks, named = 1000, 20
    properties = TensorProperties(dtype=torch.float32)
    metadata = Metadata({}, {}, {})
    for one in range(named):
        chunks = [
            ChunkStorageMetadata(torch.Size([rank * 1000, 0]), torch.Size([1000, 8]))
            for rank in range(ranks)
        ]
        size = torch.Size([ranks * 1000, 8])
        metadata.state_dict_metadata[f"t{one}"] = TensorStorageMetadata(properties, size, chunks)
        metadata.planner_data[f"t{one}"] = (f"t{one}",)
        for rank, box in enumerate(chunks):
            index = MetadataIndex(f"t{one}", box.offsets, rank)
            stored = _StorageInfo(f"__{rank % 50}_0.distcp", one * 40_000, 33_000)
            metadata.storage_data[index] = stored
    for rank in range(50):
        with open(tmp_path / f"__{rank}_0.distcp", "wb") as file:
            file.truncate(named * 40_000)
    rewrite(tmp_path, metadata)
    begun = time.process_time()
    assert len(opened(tmp_path).tensors) == named
    assert time.process_time() - begun < 5
