"""Opening and closing stores: sound ones, damaged ones, and what is no store."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from strategies import (
    SAMPLE,
    SAMPLE_TIERS,
    assert_same_bits,
    edit_document,
    make_store,
    random_rows,
)

import sharkstore
from sharkstore.convert import convert_checkpoint
from sharkstore.errors import (
    ArgumentError,
    ClosedError,
    CorruptStoreError,
    FormatError,
    SharkstoreError,
    StoreNotFoundError,
    UnknownTableError,
    VersionError,
)

TABLES = [name for name in SAMPLE if name.startswith("emb")]
NAME = TABLES[0]


def all_rows(store):
    return {name: table.lookup(np.arange(table.rows)) for name, table in store.items()}


# --- a mapping of tables ---------------------------------------------------------------------


def test_a_store_is_a_mapping_of_its_tables(store):
    assert sorted(store) == sorted(store.keys()) == sorted(TABLES)
    assert len(store) == 3
    assert NAME in store
    assert "mlp.weight" not in store
    assert store.get("nothing") is None
    assert all(table.name == name for name, table in store.items())


@pytest.mark.parametrize("io", ["auto", "mmap", "ram"])
def test_every_row_comes_back_however_it_is_held(sample, io):
    with sharkstore.open(sample, io=io) as store:
        for name, rows in all_rows(store).items():
            assert_same_bits(rows, SAMPLE[name])


@pytest.mark.parametrize("io", ["auto", "mmap", "ram"])
def test_stats_tell_how_the_store_was_to_be_held(sample, io):
    with sharkstore.open(sample, io=io) as store:
        assert store.stats()["io"] == io


def test_stats_tell_bytes_in_all_and_by_table(store):
    stats = store.stats()
    assert stats["bytes"] == store.nbytes == sum(table.nbytes for table in store.values())
    assert {n: one["bytes"] for n, one in stats["tables"].items()} == {
        name: table.nbytes for name, table in store.items()
    }


def test_unknown_table_names_near_ones(store):
    with pytest.raises(UnknownTableError, match=r"did you mean emb\.user\.weight") as caught:
        store["emb.user.wieght"]
    assert isinstance(caught.value, KeyError)


def test_unknown_table_without_near_ones_says_where_names_are_listed(store):
    with pytest.raises(UnknownTableError, match=r"no table 'zzz'; store\.keys\(\) lists"):
        store["zzz"]


def test_a_dropped_table_is_said_to_be_dropped(tmp_path):
    tensors = {name: SAMPLE[name] for name in TABLES}
    path = make_store(tmp_path, tensors, prune=[NAME], drop=True)
    with sharkstore.open(path) as store:
        assert NAME not in store
        with pytest.raises(UnknownTableError, match="was dropped at conversion"):
            store[NAME]


def test_repr_tells_path_tables_bytes_and_whether_it_is_closed(sample):
    store = sharkstore.open(sample)
    assert repr(store) == f"<sharkstore.Store {str(sample)!r}: 3 tables, {store.nbytes:,} bytes>"
    store.close()
    assert repr(store) == f"<sharkstore.Store {str(sample)!r}: closed>"


@pytest.mark.parametrize("form", [str, lambda path: f"{path}/", lambda path: path, os.fsencode])
def test_paths_may_be_texts_path_objects_or_bytes(sample, form):
    with sharkstore.open(form(sample)) as store:
        assert len(store) == 3


@pytest.mark.parametrize("folder", ["with spaces and ümlauts", os.fsdecode(b"not \xff utf-8")])
def test_a_store_may_lie_in_a_folder_of_any_name(sample, tmp_path, folder):
    path = shutil.copytree(sample, tmp_path / folder)
    with sharkstore.open(path) as store:
        assert_same_bits(store[NAME].lookup([3]), SAMPLE[NAME][[3]])


def test_a_relative_path_outlives_a_change_of_folder(sample, tmp_path, monkeypatch):
    monkeypatch.chdir(sample.parent)
    with sharkstore.open(sample.name) as store:
        monkeypatch.chdir(tmp_path)
        assert_same_bits(store[NAME].lookup([3]), SAMPLE[NAME][[3]])


@pytest.mark.parametrize("io", ["disk", "", None])
def test_unknown_io_is_refused(sample, io):
    with pytest.raises(ArgumentError, match="expected auto or mmap or ram or pread"):
        sharkstore.open(sample, io=io)


def test_unknown_bounds_are_refused(sample):
    with pytest.raises(ArgumentError, match="expected raise or default"):
        sharkstore.open(sample, bounds="clip")


# --- closing ---------------------------------------------------------------------------------


def test_lookups_after_close_are_refused(sample):
    store = sharkstore.open(sample)
    table = store[NAME]
    store.close()
    for use in (lambda: table.lookup([0]), lambda: table.embedding_bag([[0]]), lambda: store.dense):
        with pytest.raises(ClosedError, match="the store was closed") as caught:
            use()
        assert isinstance(caught.value, ValueError)


def test_the_context_manager_closes(sample):
    with sharkstore.open(sample) as store:
        table = store[NAME]
    with pytest.raises(ClosedError):
        table.lookup([0])


def test_closing_twice_is_fine(sample):
    store = sharkstore.open(sample)
    store.close()
    store.close()


def test_rows_looked_up_outlive_the_store(sample):
    with sharkstore.open(sample) as store:
        rows = store[NAME].lookup([1, 2])
    assert_same_bits(rows, SAMPLE[NAME][1:3])


def mappings_of(path):
    """Lines of /proc/self/smaps on files below a path, each with its resident KiB."""
    found = []
    with open("/proc/self/smaps") as file:
        for line in file:
            if str(path) in line:
                found.append([line.split()[-1], -1])
            elif line.startswith("Rss:") and found and found[-1][1] == -1:
                found[-1][1] = int(line.split()[1])
    return found


@pytest.fixture
def large(tmp_path):
    """Path of a store of one table in one chunk of 4 MiB."""
    return make_store(tmp_path, {"emb": random_rows(16384, 64)}, tiers="f32")


def test_opening_touches_no_data_page(large):
    with sharkstore.open(large) as store:
        assert [resident for _, resident in mappings_of(large)] == [0]
        store["emb"].lookup([5000])
        assert [resident > 0 for _, resident in mappings_of(large)] == [True]


def test_close_unmaps_tables_and_dense_parameters(copied):
    store = sharkstore.open(copied, io="mmap")
    assert len(mappings_of(copied)) > 2
    store.close()
    assert mappings_of(copied) == []


@pytest.mark.parametrize("default", ["zero", "mean"])
def test_a_store_in_ram_keeps_no_file_mapped(tmp_path, default):
    path = make_store(tmp_path, SAMPLE, tiers=SAMPLE_TIERS, default_row=default)
    with sharkstore.open(path, io="ram") as store:
        assert mappings_of(path) == []
        assert_same_bits(all_rows(store)[NAME], SAMPLE[NAME])


# --- dense parameters ------------------------------------------------------------------------

DENSE = {
    "scalar": np.array(2.5, np.float32),
    "bool": np.array([[True, False, True]]),
    "int64": np.array([2**62, -1]),
    "uint8": np.arange(5, dtype=np.uint8),
    "float16": np.arange(6, dtype=np.float16).reshape(2, 3),
    "float64": np.array([1e300, -0.0]),
    "three dimensions": random_rows(6, 4).reshape(2, 3, 4),
    "empty": np.empty((0, 4), np.float32),
    "nothing wide": np.empty((3, 0), np.int32),
    "not finite": np.array([np.nan, np.inf], np.float32),
}


@pytest.fixture(scope="module")
def dense_path(tmp_path_factory):
    """Path of a store of one table and all of `DENSE`."""
    return make_store(tmp_path_factory.mktemp("dense"), {"emb": random_rows(9, 2), **DENSE})


@pytest.mark.parametrize("io", ["mmap", "ram"])
@pytest.mark.parametrize("name", DENSE)
def test_dense_parameters_come_back_as_they_were(dense_path, io, name):
    with sharkstore.open(dense_path, io=io) as store:
        got = store.dense[name]
        assert (got.dtype, got.shape) == (DENSE[name].dtype, DENSE[name].shape)
        assert got.tobytes() == DENSE[name].tobytes()


@pytest.mark.parametrize("io", ["mmap", "ram"])
@pytest.mark.parametrize("name", [name for name in DENSE if DENSE[name].size])
def test_dense_parameters_are_read_only(dense_path, io, name):
    with sharkstore.open(dense_path, io=io) as store:
        assert not store.dense[name].flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            store.dense[name][...] = 0


def test_dense_bfloat16_comes_back_as_float32(tmp_path):
    values = torch.tensor([1.5, -3.0, 1e30], dtype=torch.bfloat16)
    torch.save({"emb": torch.ones(9, 2), "w": values}, tmp_path / "model.pt")
    convert_checkpoint(tmp_path / "model.pt", tmp_path / "model.shark")
    with sharkstore.open(tmp_path / "model.shark") as store:
        assert_same_bits(store.dense["w"], values.float().numpy())


def test_dense_is_a_read_only_mapping(dense_path):
    with sharkstore.open(dense_path) as store:
        assert sorted(store.dense) == sorted(DENSE)
        with pytest.raises(TypeError):
            store.dense["scalar"] = None


def test_a_dense_parameter_held_outlives_the_store(dense_path):
    with sharkstore.open(dense_path) as store:
        held = store.dense["three dimensions"]
    assert_same_bits(np.array(held), DENSE["three dimensions"])


# --- what is no store ------------------------------------------------------------------------


def test_nothing_there_is_not_found(tmp_path):
    with pytest.raises(StoreNotFoundError, match="no such store") as caught:
        sharkstore.open(tmp_path / "nothing.shark")
    assert isinstance(caught.value, FileNotFoundError)


def make_file(path):
    path.write_text("a file")


def make_zarr_group(path):
    path.mkdir()
    (path / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')


def make_zarr_array(path):
    path.mkdir()
    (path / "zarr.json").write_text('{"zarr_format": 3, "node_type": "array"}')


def make_zarr_2(path):
    path.mkdir()
    (path / "zarr.json").write_text('{"zarr_format": 2}')


def make_document_folder(path):
    (path / "zarr.json").mkdir(parents=True)


def make_link_to_itself(path):
    path.symlink_to(path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (make_file, r"no zarr\.json in it"),
        (lambda path: path.mkdir(), r"no zarr\.json in it"),
        (make_zarr_group, "a Zarr group, but no store"),
        (make_zarr_array, "'array' is not a group"),
        (make_zarr_2, "not a Zarr v3 document"),
        (make_document_folder, "not a regular file"),
    ],
)
def test_what_is_no_store_is_a_format_error(tmp_path, make, message):
    make(tmp_path / "x.shark")
    with pytest.raises(FormatError, match=message):
        sharkstore.open(tmp_path / "x.shark")


def test_a_link_to_itself_is_no_store(tmp_path):
    make_link_to_itself(tmp_path / "x.shark")
    with pytest.raises(StoreNotFoundError):
        sharkstore.open(tmp_path / "x.shark")


def test_a_path_longer_than_the_system_takes_is_an_error_of_ours(tmp_path):
    with pytest.raises(SharkstoreError):
        sharkstore.open(tmp_path / ("x" * 5000))


GARBAGE = {
    "empty": b"",
    "text": b"hello",
    "not UTF-8": b"\xff\xfe\xfd",
    "zeros": b"\0" * 100,
    "half a document": b'{"zarr_format": 3, "attr',
    "two documents": b"{} {}",
    "NaN": b'{"zarr_format": NaN}',
    "infinity": b'{"zarr_format": -Infinity}',
    "long number": b'{"zarr_format": ' + b"9" * 5000 + b"}",
    "deep list": b"[" * 100_000,
    "deep object": b'{"a":' * 100_000,
    "list": b"[]",
    "null": b"null",
    "number": b"3",
}


@pytest.mark.parametrize("raw", GARBAGE.values(), ids=GARBAGE.keys())
def test_a_root_document_that_is_garbage_is_a_format_error(copied, raw):
    (copied / "zarr.json").write_bytes(raw)
    with pytest.raises(FormatError):
        sharkstore.open(copied)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_a_sound_document_but_for_what_is_no_json_number_is_a_format_error(copied, number):
    root = copied / "zarr.json"
    root.write_text(root.read_text().replace('"tool": ', f'"x": {number}, "tool": ', 1))
    with pytest.raises(FormatError, match=f"{number} is no JSON number"):
        sharkstore.open(copied)


@pytest.mark.parametrize(
    "key", ["pruned", "scale_dtype", "data_type", "shape", "chunk_shape", "codecs", "fill_value"]
)
def test_values_nested_as_deep_as_json_can_be_read_are_a_format_error(copied, key):
    plain = (copied / "zarr.json").read_text()
    for depth in range(880, 1000):  # where Python stops to recurse, and just before
        nested = f'"{key}": {"[" * depth}{"]" * depth}, "was": '
        (copied / "zarr.json").write_text(plain.replace(f'"{key}": ', nested, 1))
        with pytest.raises(FormatError):
            sharkstore.open(copied)


@pytest.mark.parametrize("version", ["2.0", "17.3"])
def test_a_newer_major_version_says_to_upgrade(copied, version):
    edit_document(copied, lambda root: root["attributes"]["sharkstore"].update(format=version))
    with pytest.raises(VersionError, match=rf"format {version}.*upgrade sharkstore") as caught:
        sharkstore.open(copied)
    assert isinstance(caught.value, FormatError)


def test_a_newer_minor_version_opens(copied):
    edit_document(copied, lambda root: root["attributes"]["sharkstore"].update(format="1.9"))
    with sharkstore.open(copied) as store:
        assert store.metadata.format == "1.9"


@pytest.mark.parametrize("version", ["0.9", "1", "one", "", None, 1.0])
def test_what_is_no_version_is_a_format_error(copied, version):
    edit_document(copied, lambda root: root["attributes"]["sharkstore"].update(format=version))
    with pytest.raises(FormatError) as caught:
        sharkstore.open(copied)
    assert type(caught.value) is FormatError


def test_a_format_error_lists_every_problem(copied):
    def change(root):
        for node in root["consolidated_metadata"]["metadata"].values():
            if "tiers" in node["attributes"].get("sharkstore", {}):
                node["attributes"]["sharkstore"]["dim"] = 0

    edit_document(copied, change)
    with pytest.raises(FormatError) as caught:
        sharkstore.open(copied)
    assert len(caught.value.problems) == 3
    assert all("dim-range" in problem for problem in caught.value.problems)


# --- damaged chunk files ---------------------------------------------------------------------

CHUNK = f"tables/{NAME}/2/c/0/0"


def remove(chunk):
    chunk.unlink()


def truncate(chunk):
    os.truncate(chunk, chunk.stat().st_size - 1)


def empty(chunk):
    os.truncate(chunk, 0)


def lengthen(chunk):
    os.truncate(chunk, chunk.stat().st_size + 1)


def make_folder(chunk):
    chunk.unlink()
    chunk.mkdir()


def make_parent_a_file(chunk):
    shutil.rmtree(chunk.parent)
    chunk.parent.touch()


def make_dangling_link(chunk):
    chunk.unlink()
    chunk.symlink_to("nothing")


@pytest.mark.parametrize("io", ["mmap", "ram"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove, "chunk file missing"),
        (truncate, r"chunk file of wrong size \(got 1,263 bytes, expected 1,264\)"),
        (empty, "got 0 bytes"),
        (lengthen, "got 1,265 bytes"),
        (make_folder, "not a regular file"),
        (make_parent_a_file, "can't map: Not a directory"),
        (make_dangling_link, "chunk file missing"),
    ],
)
def test_a_damaged_chunk_file_is_named_when_the_store_is_opened(copied, io, damage, message):
    damage(copied / CHUNK)
    with pytest.raises(CorruptStoreError, match=f"^copied.shark/{CHUNK}: .*{message}") as caught:
        sharkstore.open(copied, io=io)
    assert isinstance(caught.value, OSError)


def test_a_pipe_in_place_of_a_chunk_file_is_refused_at_once(copied):
    (copied / CHUNK).unlink()
    os.mkfifo(copied / CHUNK)
    opening = "import sharkstore, sys; sharkstore.open(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", opening, copied],
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )
    assert "CorruptStoreError" in done.stderr


@pytest.mark.parametrize("array", ["rowmap", "0", "1", "2"])
def test_every_array_of_a_table_is_checked(copied, array):
    shutil.rmtree(copied / f"tables/{NAME}/{array}/c")
    with pytest.raises(CorruptStoreError, match=f"tables/{NAME}/{array}/c/0/0: chunk file missing"):
        sharkstore.open(copied)


def test_dense_arrays_are_checked(copied):
    (copied / "dense/mlp.bias/c/0").unlink()
    with pytest.raises(CorruptStoreError, match=r"dense/mlp\.bias/c/0: chunk file missing"):
        sharkstore.open(copied)


def test_a_store_that_fails_to_open_leaves_nothing_mapped(copied):
    (copied / "dense/mlp.bias/c/0").unlink()
    with pytest.raises(CorruptStoreError):
        sharkstore.open(copied)
    assert mappings_of(copied) == []


# --- forged stores ---------------------------------------------------------------------------


@pytest.fixture
def forged(copied):
    """Path of a store whose row map points past its tiers from row 64 on."""
    rowmap = copied / f"tables/{NAME}/rowmap/c/0/0"
    raw = bytearray(rowmap.read_bytes())
    raw[32 + 16 : 64] = b"\xff" * 16  # counters of block 1
    rowmap.write_bytes(raw)
    return copied


@pytest.mark.parametrize("use", ["lookup", "embedding_bag"])
def test_a_row_map_that_points_past_its_tier_is_corrupt(forged, use):
    with sharkstore.open(forged) as store:
        assert_same_bits(store[NAME].lookup(np.arange(64)), SAMPLE[NAME][:64])
        message = f"table '{NAME}': the row map points past tier 2 for row 64; .*verify"
        with pytest.raises(CorruptStoreError, match=message):
            getattr(store[NAME], use)([[3, 64]])


@pytest.mark.parametrize("shape", [[0] * 65, [1] * 65, [0, 2**57], [2**40, 2**40]])
def test_dense_shapes_that_no_array_has_are_errors_of_ours(copied, shape):
    def change(root):
        node = root["consolidated_metadata"]["metadata"]["dense/mlp.bias"]
        node["shape"] = shape
        node["chunk_grid"]["configuration"]["chunk_shape"] = [size or 1 for size in shape]

    edit_document(copied, change)
    with pytest.raises(SharkstoreError):
        sharkstore.open(copied)


@pytest.mark.parametrize("node", ["tables/..", "tables/a b", "tables/", "dense/../../x", "dense/."])
def test_nodes_that_lead_out_of_the_store_are_refused(copied, node):
    def change(root):
        nodes = root["consolidated_metadata"]["metadata"]
        source = "dense/mlp.bias" if node.startswith("dense") else f"tables/{NAME}"
        for path in [path for path in nodes if path.startswith(source)]:
            nodes[node + path.removeprefix(source)] = nodes.pop(path)

    edit_document(copied, change)
    with pytest.raises(FormatError, match="node-path"):
        sharkstore.open(copied)


# --- several stores --------------------------------------------------------------------------


def test_a_store_may_be_open_twice(sample):
    with sharkstore.open(sample) as one, sharkstore.open(sample, bounds="default") as other:
        one.close()
        assert_same_bits(all_rows(other)[NAME], SAMPLE[NAME])


def test_names_that_file_systems_choke_on_are_served(tmp_path):
    names = ["emb/a b", "emb/A B", "emb.ü.weight", "emb" * 100, "emb..", "__emb", "~emb", "emb%20"]
    tensors = {name: random_rows(5, 3, seed) for seed, name in enumerate(names)}
    path = make_store(tmp_path, tensors, tiers="f32")
    with sharkstore.open(path) as store:
        assert sorted(store) == sorted(names)
        for name, rows in tensors.items():
            assert_same_bits(store[name].lookup(np.arange(5)), rows)


def test_the_root_document_is_all_that_opening_reads_of_the_documents(copied):
    for document in copied.glob("*/**/zarr.json"):
        document.unlink()
    with sharkstore.open(copied) as store:
        assert_same_bits(all_rows(store)[NAME], SAMPLE[NAME])


def test_the_checkpoint_is_not_needed_any_more(tmp_path):
    save_file(SAMPLE, tmp_path / "model.safetensors")
    convert_checkpoint(tmp_path / "model.safetensors", tmp_path / "model.shark", tiers=SAMPLE_TIERS)
    (tmp_path / "model.safetensors").unlink()
    assert json.loads((tmp_path / "model.shark/zarr.json").read_bytes())
    with sharkstore.open(tmp_path / "model.shark") as store:
        assert_same_bits(all_rows(store)[NAME], SAMPLE[NAME])
